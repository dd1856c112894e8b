"""The orchestrator's end towards `control`: forks it, hears its orders, replaces it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from shardserver import channel, logs, process
from shardserver.channel import Channel
from shardserver.errors import ProtocolError
from shardserver.protocol import FromControl

_RESPAWN_S = (0.0, 0.1, 0.5, 2.0)  # by how often it died lately
_CALM_S = 10.0


class ControlLink:
    """`control` over all of its lives. The data path does not depend on it."""

    def __init__(self, main: Callable[[socket.socket], int]) -> None:
        self._main = main
        self.child: process.Child | None = None
        self.channel: Channel | None = None
        self.due_s = 0.0
        self.restarts = 0
        self._deaths = 0
        self._started_s = 0.0

    def start(self) -> None:
        """Forks `control`."""
        ours, theirs = channel.pair()
        try:
            self.child = process.fork(lambda: self._run(theirs, ours), "control")
        except OSError as error:
            ours.close()
            self._later(f"fork failed: {error.strerror}")
            return
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel = Channel(ours, FromControl)
        self.due_s = 0.0
        self._started_s = time.monotonic()

    def _run(self, theirs: socket.socket, ours: socket.socket) -> int:
        ours.close()
        return self._main(theirs)

    def send(self, message: object) -> None:
        """Sends; what `control` does not take is lost: the next table supersedes it."""
        if self.channel:
            self.channel.send(message)

    def receive(self) -> list[object] | None:
        """The orders that have come; None: there will be none."""
        try:
            return self.channel.receive() if self.channel else None
        except ProtocolError as error:
            logs.get().error("control: %s", error)
            return []

    def bury(self) -> None:
        """Reaps a dead `control` and plans its successor."""
        if not self.child or not self.channel:
            return
        status = self.child.reap()
        self.channel.close()
        self.child = self.channel = None
        self._later(f"ended ({status})")

    def _later(self, what: str) -> None:
        now_s = time.monotonic()
        self._deaths = 0 if now_s - self._started_s > _CALM_S else self._deaths + 1
        wait_s = _RESPAWN_S[min(self._deaths, len(_RESPAWN_S) - 1)]
        self.due_s = now_s + wait_s
        self.restarts += 1
        logs.get().warning("control %s; next in %.1f s; no connection is touched", what, wait_s)

    def close_in_child(self) -> None:
        """In a forked process."""
        if self.child and self.channel:
            self.channel.close()

    def close(self) -> None:
        """Ends `control`: it leaves when its channel closes; SIGKILL if it does not. Idempotent."""
        if not self.child or not self.channel:
            return
        self.channel.close()
        if not process.wait(self.child, 1.0):
            self.child.kill()
        self.child.reap()
        self.child = self.channel = None
