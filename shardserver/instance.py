"""One instance per name, one per device, and nothing left on disk.

A name is held by an flock on NAME.pid in the runtime directory: the kernel gives it back
whoever is killed, so a file without its lock is stale and may be reused. A device is held by an
abstract AF_UNIX name in the network namespace (DESIGN 2.7). The listening sockets are made here,
by the orchestrator: a worker or `control` that is replaced finds its own still bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shardserver.errors import (
    AlreadyRunningError,
    ConfigInvalidError,
    DeviceUnavailableError,
    NoPermissionError,
    ShardserverError,
)

SOCKET_PATH_MAX = 107
_STALE_GRACE_S = 2.0
_LOCK_TRIES = 3
_NO_ROOM_HINT = "free some space there, or set XDG_RUNTIME_DIR to another directory"
_LOCK_PAUSE_S = 0.005


def runtime_dir(environment: Mapping[str, str], uid: int) -> Path:
    """Where an instance keeps its files: systemd's, the session's, or one of our own."""
    if environment.get("RUNTIME_DIRECTORY"):
        return Path(environment["RUNTIME_DIRECTORY"].split(":")[0])
    if environment.get("XDG_RUNTIME_DIR"):
        return Path(environment["XDG_RUNTIME_DIR"]) / "shardserver"
    return Path(tempfile.gettempdir()) / f"shardserver-{uid}"


@dataclass(frozen=True)
class Paths:
    """The files of one instance."""

    directory: Path
    name: str

    @property
    def lock(self) -> Path:
        """Held by flock while the instance lives; its text is the orchestrator's pid."""
        return self.directory / f"{self.name}.pid"

    @property
    def control(self) -> Path:
        """ROUTER of `control`."""
        return self.directory / f"{self.name}.control"

    @property
    def events(self) -> Path:
        """PUB of `control`."""
        return self.directory / f"{self.name}.events"

    @property
    def log(self) -> Path:
        """Log of a daemon."""
        return self.directory / f"{self.name}.log"

    def shard(self, shard: int) -> Path:
        """ZeroMQ endpoint of a shard's worker."""
        return self.directory / f"{self.name}.shard{shard}"

    def check(self) -> None:
        """Refuses paths that do not fit into a socket address."""
        longest = os.fsencode(self.shard(63))
        if len(longest) > SOCKET_PATH_MAX:
            raise ConfigInvalidError(
                f"{longest.decode(errors='replace')} is {len(longest)} bytes long: a socket's "
                f"path has at most {SOCKET_PATH_MAX}",
                "set XDG_RUNTIME_DIR to a shorter directory, or give a shorter --name",
            )


def make_directory(directory: Path) -> None:
    """Makes the runtime directory, 0700; refuses one that somebody else may write into."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise NoPermissionError(
            f"{directory}: cannot be made: {error.strerror}", "set XDG_RUNTIME_DIR"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NoPermissionError(
            f"{directory} is not a directory of this user", "remove it, or set XDG_RUNTIME_DIR"
        )
    if found.st_mode & 0o077:
        directory.chmod(0o700)


def holder(paths: Paths) -> int:
    """Pid of the orchestrator that holds the name; 0 when nobody does."""
    try:
        fd = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise NoPermissionError(
            f"{paths.lock} is another user's: whether that server runs cannot be seen",
            "ask as that user, or set XDG_RUNTIME_DIR to a directory of your own",
        ) from None
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return 0
    except OSError:
        text = os.pread(fd, 32, 0).decode(errors="replace").split("\n")[0]
        return int(text) if text.isdigit() else -1
    finally:
        os.close(fd)


def wait_until_gone(paths: Paths, timeout_s: float) -> bool:
    """Waits until nobody holds the name; False when it takes longer."""
    end = time.monotonic() + timeout_s
    while holder(paths):
        if time.monotonic() >= end:
            return False
        time.sleep(0.01)
    return True


def _remove_files(paths: Paths) -> None:
    for path in (paths.control, paths.events, *paths.directory.glob(f"{paths.name}.shard*")):
        if path.suffix in (".control", ".events") or path.suffix[6:].isdigit():
            path.unlink(missing_ok=True)


class InstanceLock:
    """Holds a name. `was_stale` tells that its last holder was killed."""

    def __init__(self, paths: Paths) -> None:
        paths.check()
        make_directory(paths.directory)
        self.paths = paths
        self.was_stale = paths.lock.exists()
        self.fd = self._take()
        try:
            _remove_files(paths)
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise ShardserverError(
                f"{paths.lock}: cannot be written: {error.strerror}", _NO_ROOM_HINT
            ) from None

    def _take(self) -> int:
        refused = 0
        while True:
            fd = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                refused += 1
                if refused > _LOCK_TRIES:
                    raise self._taken() from None
                time.sleep(_LOCK_PAUSE_S)  # a client may just have looked, by a shared lock
                continue
            with contextlib.suppress(OSError):
                if self.paths.lock.stat().st_ino == os.fstat(fd).st_ino:
                    return fd
            os.close(fd)  # its holder removed the file between our open and our lock

    def _taken(self) -> AlreadyRunningError:
        name = self.paths.name
        return AlreadyRunningError(
            f'a server named "{name}" is running (pid {holder(self.paths)})',
            f"stop it: shardserver stop -n {name}, or give another -n NAME",
        )

    def close_in_child(self) -> None:
        """A child must not keep the name: it is the orchestrator's."""
        os.close(self.fd)

    def release(self) -> None:
        """Removes every file of the instance and gives the name back."""
        _remove_files(self.paths)
        self.paths.lock.unlink(missing_ok=True)
        os.close(self.fd)

    def __enter__(self) -> InstanceLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def device_key(backend: str, name: str, ifindex: int) -> str:
    """What makes two devices one: the interface's index, or the software NIC's name."""
    return f"if{ifindex}" if ifindex else f"{backend}-{name}"


class DeviceLock:
    """Holds a device by an abstract socket name; the kernel frees it with the last process."""

    def __init__(self, key: str, device: str, grace_s: float = 0.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        end = time.monotonic() + grace_s
        while True:
            try:
                self.socket.bind(f"\0shardserver/device/{key}")
                return
            except OSError:
                if time.monotonic() < end:
                    time.sleep(0.02)  # the workers of a killed orchestrator are just leaving
                    continue
                self.socket.close()
                raise DeviceUnavailableError(
                    f"{device}: taken by another shardserver in this network namespace",
                    "stop that one first, or give another device",
                ) from None

    def release(self) -> None:
        """Gives the device back."""
        self.socket.close()

    def __enter__(self) -> DeviceLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def stale_grace_s(was_stale: bool) -> float:
    """How long to wait for a device: the orphans of a killed orchestrator leave at once."""
    return _STALE_GRACE_S if was_stale else 0.0


def listen(path: Path, backlog: int = 64) -> socket.socket:
    """A listening AF_UNIX socket for ZeroMQ to take over (ZMQ_USE_FD); 0600."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise ShardserverError(f"{path}: cannot listen: {error.strerror}", _NO_ROOM_HINT) from None
    return listener


def answers(path: Path) -> bool:
    """Whether somebody listens on a socket: a plain connect, before any ZeroMQ."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        probe.connect(str(path))
    except BlockingIOError:
        return True  # the backlog is full: it is there, and busy
    except OSError:
        return False
    finally:
        probe.close()
    return True
