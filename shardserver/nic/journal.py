"""Every change to an interface is on disk before it is made, and undone at the end.

One file for each interface and keeper: a header with all settings as they were, then one line for
each change, each synced before the change it tells of. A line that a kill cut short tells of a
change that was never made. The keeper "server" undoes its changes when it ends; what it leaves when
it is killed is undone by the next start or by `shardserver nic restore`. The keeper "admin" is
`doctor --fix`: its changes stay until `nic restore`. Start reading at `Journal`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shardserver import instance
from shardserver.errors import DeviceUnavailableError, NoPermissionError, ShardserverError
from shardserver.nic import apply, changes
from shardserver.nic.changes import Change
from shardserver.nic.ethtool import Card
from shardserver.nic.settings import Settings

SCHEMA = 1
SYSTEM_DIRECTORY = Path("/run/shardserver")
KEEPERS = ("server", "admin")
_SO_NETNS_COOKIE = 71
_SIZE_MAX = 1 << 24
_LOCK_S = 5.0


class Header(msgspec.Struct, frozen=True):
    """Whose journal this is, of what, and how all of it was."""

    schema: int
    keeper: str
    instance: str
    pid: int
    boot: str
    namespace: str
    index: int
    name: str
    time: float
    settings: Settings


@dataclass(frozen=True)
class Record:
    """A journal as it lies on disk. `pid` is its keeper's while that one lives, else 0."""

    path: Path
    header: Header
    changes: tuple[Change, ...]
    pid: int


def boot_id() -> str:
    """Names this run of the kernel: settings do not outlive it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def namespace() -> str:
    """Names this network namespace; never used again while the kernel runs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
            return f"n{int.from_bytes(cookie, 'little')}"
        except OSError:  # before Linux 5.14
            return f"i{Path('/proc/self/ns/net').stat().st_ino}"


def directories(environment: Mapping[str, str], euid: int) -> tuple[Path, ...]:
    """Where journals may lie, the first one that can be made first.

    The system's own comes first: a service's runtime directory goes when the service is killed.
    """
    own = instance.runtime_dir(environment, euid)
    return (SYSTEM_DIRECTORY, own) if euid == 0 else (own,)


def make_directory(candidates: Sequence[Path]) -> Path:
    """The first of the directories that can be made."""
    for candidate in candidates[:-1]:
        with contextlib.suppress(NoPermissionError):
            instance.make_directory(candidate)
            if os.access(candidate, os.W_OK):
                return candidate
    instance.make_directory(candidates[-1])
    return candidates[-1]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Removes a journal, and the system's directory with the last one."""
    path.unlink(missing_ok=True)
    if path.parent == SYSTEM_DIRECTORY:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _line(fd: int, what: object) -> None:
    """Writes one line and returns when it is on disk."""
    data = msgspec.json.encode(what) + b"\n"
    while data:
        data = data[os.write(fd, data) :]
    os.fsync(fd)


def file_name(header: Header) -> str:
    """One journal for each interface and keeper."""
    return f"nic-{header.namespace}-{header.index}-{header.keeper}.journal"


class Journal:
    """An open journal: makes changes, and takes them back in the reverse order.

    It holds a lock on the file: who finds it free knows that the keeper was killed. Children close
    it, so that a worker that outlives its orchestrator for a moment does not look like the keeper.
    """

    def __init__(
        self, card: Card, header: Header, directory: Path, earlier: Sequence[Change] = ()
    ) -> None:
        self._card = card
        self._made: list[Change] = list(earlier)
        self.header = header
        self.path = directory / file_name(header)
        new = self.path.with_suffix(f".{os.getpid()}.new")
        self._fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            for line in (header, *earlier):
                _line(self._fd, line)
            new.rename(self.path)
            _sync_directory(directory)
        except BaseException:
            os.close(self._fd)
            new.unlink(missing_ok=True)
            raise

    def change(self, change: Change) -> None:
        """Writes the change down, then makes it."""
        had = apply.running(self._card)
        _line(self._fd, change)
        self._made.append(change)
        apply.make(self._card, change)
        apply.wait_for_carrier(self._card, had)

    def undo_last(self) -> None:
        """Takes the last change back, one that the driver has refused; its line does no harm."""
        take_back(self._card, [self._made.pop()], self.header.settings)

    def undo(self) -> Outcome:
        """Takes every change back; the file stays while one of them does."""
        outcome = take_back(self._card, self._made, self.header.settings)
        self._made = []
        if not outcome.stays:
            remove(self.path)
        return outcome

    @property
    def made(self) -> tuple[Change, ...]:
        """The changes that are in force."""
        return tuple(self._made)

    def close(self) -> None:
        """Gives lock and descriptor back; the file stays when the changes do."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    close_in_child = close


@dataclass(frozen=True)
class Outcome:
    """What an undoing left: changes of ours that stay, and what somebody else has changed."""

    stays: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def take_back(card: Card, made: Sequence[Change], before: Settings) -> Outcome:
    """Undoes changes. An interface that is gone took them with it."""
    stays = []
    for change in changes.undone(made):
        try:
            apply.take_back(card, change)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return Outcome()
            stays.append((change, error.strerror))
    try:
        now = apply.read(card)
    except OSError:
        return Outcome()
    ours = tuple(
        f"{changes.describe(change)} stays: {why}"
        for change, why in stays
        if not changes.is_back(change, now)
    )
    return Outcome(ours, () if ours else tuple(changes.differences(before, now)))


def _is_held(fd: int) -> bool:
    """Whether somebody holds the journal's lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _parse(path: Path, data: bytes, held: bool) -> Record:
    head, *rest = data.split(b"\n")
    try:
        header = msgspec.json.decode(head, type=Header)
        # what follows the last newline was cut short: its change was never made
        made = tuple(msgspec.json.decode(line, type=Change) for line in rest[:-1])
    except msgspec.DecodeError as error:
        raise ShardserverError(
            f"{path}: not a journal: {error}", "look at it, then remove it"
        ) from None
    return Record(path, header, made, header.pid if held else 0)


def load(path: Path) -> Record | None:
    """A journal; None when it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _parse(path, os.pread(fd, _SIZE_MAX, 0), _is_held(fd))
    finally:
        os.close(fd)


def trusted(directory: Path) -> bool:
    """Whether only this user can have put a journal there: a forged one would change a card."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return ours and not found.st_mode & 0o022


def records(candidates: Sequence[Path]) -> list[Record]:
    """Every journal of this network namespace and this run of the kernel, the newest first."""
    boot, here = boot_id(), namespace()
    found: list[Record] = []
    for directory in filter(trusted, candidates):
        for path in sorted(directory.glob("nic-*.journal")):
            record = load(path)
            if record and record.header.boot != boot:
                remove(path)  # the kernel began anew, and with it the card
            elif record and record.header.namespace == here:
                found.append(record)
    return sorted(found, key=lambda record: -record.header.time)


def _is_abandoned(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not _is_held(file.fileno())
    except OSError:
        return False


def remove_half_made(candidates: Sequence[Path]) -> None:
    """Files of journals whose maker was killed before the first change."""
    for directory in filter(trusted, candidates):
        for path in directory.glob("nic-*.new"):
            if _is_abandoned(path):
                remove(path)


def current_name(record: Record) -> str:
    """The interface's name now; "" when it is gone."""
    try:
        return socket.if_indextoname(record.header.index)
    except OSError:
        return ""


def _lock(record: Record) -> int:
    """Holds the journal, so that two do not undo it at once; -1 when another one has undone it.

    Raises when a server keeps it: a restore takes moments, a server does not let go.
    """
    try:
        fd = os.open(record.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    end_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() >= end_s:
                os.close(fd)
                raise refuse_taken(record) from None
            time.sleep(0.01)
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return -1
    return fd


def restore(record: Record) -> Outcome:
    """Undoes what a journal tells of and removes it. Raises when its keeper lives."""
    fd = _lock(record)
    if fd < 0:
        return Outcome()
    try:
        return _restore(_parse(record.path, os.pread(fd, _SIZE_MAX, 0), held=True))
    finally:
        os.close(fd)


def _restore(record: Record) -> Outcome:
    name = current_name(record)
    outcome = Outcome()
    if name:
        with Card(name) as card:
            outcome = take_back(card, record.changes, record.header.settings)
    if not outcome.stays:
        remove(record.path)
    return outcome


def header(card: Card, index: int, keeper: str, instance_name: str) -> Header:
    """A header with the interface's settings as they are now."""
    return Header(
        schema=SCHEMA,
        keeper=keeper,
        instance=instance_name,
        pid=os.getpid(),
        boot=boot_id(),
        namespace=namespace(),
        index=index,
        name=card.name,
        time=time.time(),
        settings=apply.read(card),
    )


def left_behind(candidates: Sequence[Path], index: int) -> list[Record]:
    """Journals of servers on this interface: who holds its lock knows that they were killed."""
    return [
        record
        for record in records(candidates)
        if record.header.index == index and record.header.keeper == "server"
    ]


def stale(candidates: Sequence[Path], index: int) -> list[Record]:
    """Journals of killed servers on this interface."""
    return [record for record in left_behind(candidates, index) if not record.pid]


def refuse_taken(record: Record) -> DeviceUnavailableError:
    """The error for a journal whose keeper lives."""
    return DeviceUnavailableError(
        f'{record.header.name}: the server "{record.header.instance}" (pid {record.pid}) uses it '
        "and undoes its changes when it stops",
        f"shardserver stop -n {record.header.instance}",
    )


@contextlib.contextmanager
def opened(card: Card, made: Header, directory: Path) -> Iterator[Journal]:
    """A journal, closed at the end; undoing is the caller's."""
    journal = Journal(card, made, directory)
    try:
        yield journal
    finally:
        journal.close()


@contextlib.contextmanager
def kept(card: Card, index: int, directory: Path, candidates: Sequence[Path]) -> Iterator[Journal]:
    """The journal of `doctor --fix`: it stays, and a second one goes on where the first ended."""
    own = header(card, index, "admin", "")
    before = [
        record
        for record in records(candidates)
        if record.header.index == index and record.header.keeper == "admin"
    ]
    earlier: tuple[Change, ...] = ()
    if before:
        own, earlier, directory = before[0].header, before[0].changes, before[0].path.parent
    journal = Journal(card, own, directory, earlier)
    try:
        yield journal
    finally:
        journal.close()
        if not journal.made:
            remove(journal.path)
