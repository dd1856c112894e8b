"""Every error that a user can meet: what failed, why, and what to do next.

Each class knows its exit status and its word in JSON (`error.code`). The command line turns an
instance into one line and a hint; nothing else prints it.
"""

from __future__ import annotations

import errno

EXIT_CODES = {
    0: "done",
    1: "the operation failed",
    2: "usage: unknown command, option or argument",
    3: "not running; for start: a shard failed to boot",
    5: "a permission or capability is missing",
    6: "the device or its backend is unavailable",
    7: "timed out",
    8: "degraded: some shards do not run",
    78: "the configuration is invalid",
    130: "interrupted",
}


def _printable(text: str) -> str:
    """Arguments may hold bytes that are no text; an error that quotes them can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()


class ShardserverError(Exception):
    """The operation failed. `message` names object and cause, `hint` the next step."""

    exit_code = 1
    word = "failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = _printable(message)
        self.hint = _printable(hint)


class UsageError(ShardserverError):
    """The command line itself is wrong."""

    exit_code = 2
    word = "usage"


class NotRunningError(ShardserverError):
    """No server of that name."""

    exit_code = 3
    word = "not_running"


class BootFailedError(ShardserverError):
    """A shard could not be started."""

    exit_code = 3
    word = "boot_failed"


class NoPermissionError(ShardserverError):
    """A permission or capability is missing."""

    exit_code = 5
    word = "no_permission"


class DeviceUnavailableError(ShardserverError):
    """The device is absent, taken, or its backend is not there."""

    exit_code = 6
    word = "device_unavailable"


class TimedOutError(ShardserverError):
    """Somebody did not answer in time."""

    exit_code = 7
    word = "timed_out"


class DegradedError(ShardserverError):
    """The server runs, but not all of its shards."""

    exit_code = 8
    word = "degraded"


class ConfigInvalidError(ShardserverError):
    """A setting has a wrong name or value, or settings contradict each other."""

    exit_code = 78
    word = "config_invalid"


class AlreadyRunningError(ShardserverError):
    """An instance of that name runs already."""

    word = "already_running"


class ProtocolError(ShardserverError):
    """A message on the control channel was not understood."""

    word = "bad_message"


class NotBuiltError(ShardserverError):
    """The native library is missing or of another version."""

    word = "not_built"


class InterruptedByUserError(ShardserverError):
    """Ctrl-C while waiting."""

    exit_code = 130
    word = "interrupted"


_ALL = (
    ShardserverError,
    UsageError,
    NotRunningError,
    BootFailedError,
    NoPermissionError,
    DeviceUnavailableError,
    TimedOutError,
    DegradedError,
    ConfigInvalidError,
    AlreadyRunningError,
    ProtocolError,
    NotBuiltError,
    InterruptedByUserError,
)

_BY_ERRNO: dict[int, type[ShardserverError]] = {
    errno.EPERM: NoPermissionError,
    errno.EACCES: NoPermissionError,
    errno.EINVAL: ConfigInvalidError,
    errno.ENODEV: DeviceUnavailableError,
    errno.ENXIO: DeviceUnavailableError,
    errno.ENOENT: DeviceUnavailableError,
    errno.ENETDOWN: DeviceUnavailableError,
    errno.EBUSY: DeviceUnavailableError,
    errno.EADDRINUSE: DeviceUnavailableError,
    errno.EEXIST: DeviceUnavailableError,
    errno.ENOTSUP: DeviceUnavailableError,
    errno.ENOSYS: DeviceUnavailableError,
    errno.EAFNOSUPPORT: DeviceUnavailableError,
    errno.ENOBUFS: DeviceUnavailableError,
    errno.ECONNREFUSED: NotRunningError,
    errno.ETIMEDOUT: TimedOutError,
}


def from_errno(code: int, message: str, hint: str = "") -> ShardserverError:
    """The exception for a positive errno that came with the given sentence."""
    return _BY_ERRNO.get(code, ShardserverError)(message, hint)


def from_os_error(error: OSError) -> ShardserverError:
    """The exception for what the system refused and nobody nearer had words for."""
    what = f"{error.filename}: " if error.filename else ""
    hints = {
        errno.EMFILE: "raise the limit of open files: ulimit -n 1024",
        errno.ENFILE: "too many files are open on this machine",
        errno.EAGAIN: "the limit of processes is reached: ulimit -u",
        errno.ENOMEM: "give lower --conns-max and --chunks-max",
        errno.ENOSPC: "free some space",
    }
    number = error.errno or 0
    refused = number in (errno.EPERM, errno.EACCES)
    kind = NoPermissionError if refused else ShardserverError
    return kind(f"{what}{error.strerror or error}", hints.get(number, ""))


def from_word(word: str, message: str, hint: str = "") -> ShardserverError:
    """The exception whose JSON word is `word`: errors travel over the control channel by it."""
    for kind in _ALL:
        if kind.word == word:
            return kind(message, hint)
    return ShardserverError(message, hint)


def from_exit_code(exit_code: int, message: str, hint: str = "") -> ShardserverError:
    """The exception with that exit status: a daemon hands its failure to its starter by it."""
    for kind in _ALL:
        if kind.exit_code == exit_code:
            return kind(message, hint)
    return ShardserverError(message, hint)
