"""A folder for a program's run, gone with it; what a killed one left goes when the next is made.

Its maker holds an flock on a file within. The kernel gives that back however the maker ends, so a
folder whose lock is free belongs to nobody; age and process ids prove nothing. Start at `folder`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER = "owner.lock"


def _take(owner: Path) -> int | None:
    """A descriptor that holds a dead maker's lock; None: there is no such file, or it is held."""
    try:
        fd = os.open(owner, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _is_ours(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def remove_leftovers(prefix: str) -> None:
    """Removes this user's folders of that prefix whose makers are dead."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        fd = _take(path / OWNER) if _is_ours(path) else None
        if fd is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(fd)


def _make(prefix: str) -> tuple[Path, int]:
    """The lock is held before the file has its name: nobody can find it free meanwhile."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    new = path / f"{OWNER}.new"
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks: nobody else takes it either
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(path / OWNER)
    return path, fd


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A new folder, 0700, removed at the end."""
    remove_leftovers(prefix)
    path, fd = _make(prefix)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
        os.close(fd)
