"""Signals as data: a handler does nothing, the kernel's number arrives at a file descriptor."""

from __future__ import annotations

import signal
import socket
from types import FrameType

HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
)


def _queued(_number: int, _frame: FrameType | None) -> None:
    """The wake-up fd has the number already."""


class Inbox:
    """Receives the signals in HANDLED until it is closed."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _queued) for number in HANDLED}

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reader.fileno()

    def take(self) -> list[int]:
        """The numbers that have come, in order."""
        try:
            return list(self._reader.recv(256))
        except BlockingIOError:
            return []

    def close_in_child(self) -> None:
        """In a forked process."""
        self._reader.close()
        self._writer.close()

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.close_in_child()
