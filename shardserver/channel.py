"""One end of a socket pair between the orchestrator and a child: whole messages, never blocking.

The end of the other process closes the pair, so a channel is a lifeline as well: `receive`
returns None when nobody is left at the other end.
"""

from __future__ import annotations

import socket
from typing import Any

from shardserver import protocol

_BUFFER = protocol.MESSAGE_MAX * 4


class Channel:
    """Sends and receives protocol messages."""

    def __init__(self, end: socket.socket, receives: Any) -> None:
        end.setblocking(False)
        self.socket = end
        self._receives = receives

    def fileno(self) -> int:
        """For poll."""
        return self.socket.fileno()

    def send(self, message: object) -> bool:
        """Sends; False when the other end is gone or does not read."""
        try:
            self.socket.send(protocol.encode(message))
        except OSError:
            return False
        return True

    def receive(self) -> list[Any] | None:
        """Every message that has come; None when the other end is gone."""
        messages: list[Any] = []
        while True:
            try:
                data = self.socket.recv(_BUFFER)
            except BlockingIOError:
                return messages
            except OSError:
                return messages or None
            if not data:
                return messages or None
            messages.append(protocol.decode(data, self._receives))

    def close(self) -> None:
        """Closes this end."""
        self.socket.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """A pair of ends that keep messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
