"""Hears from the kernel what becomes of an interface: down, up, gone. Start at `changes`.

A worker learns of a deleted interface from its own socket, if at all: AF_PACKET tells only that it
went down, which passes, and netmap holds the interface as long as a server lives. So the
orchestrator listens to rtnetlink, and ends what cannot go on. What can go on it wakes: AF_XDP's
poll() does not tell that a link is back, and frames wait in its rings.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from enum import Enum

from orchestrator import netif
from shardserver import logs
from shardserver.errors import DeviceUnavailableError, ShardserverError

RTMGRP_LINK = 1
RTM_NEWLINK = 16
RTM_DELLINK = 17
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_READ = 1 << 16


class Change(Enum):
    """What became of the interface."""

    DOWN = "down"
    UP = "up"
    GONE = "gone"


def changes(data: bytes, index: int) -> Iterator[Change]:
    """What messages of rtnetlink say about the interface of that number."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        body = data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]
        if len(body) < _LINK.size:
            continue
        family, _, number, flags, _ = _LINK.unpack_from(body)
        if number != index or family != socket.AF_UNSPEC:  # AF_BRIDGE: it left a bridge
            continue
        if kind == RTM_DELLINK:
            yield Change.GONE
        elif kind == RTM_NEWLINK:
            yield Change.UP if flags & netif.IFF_UP else Change.DOWN


class LinkWatch:
    """A context manager; readable when something happened to `name`. Watches nothing for ""."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._index = netif.index(name) if name else 0
        self._up = True  # nothing opens an interface that is down
        self._socket: socket.socket | None = None

    def __enter__(self) -> LinkWatch:
        if self._index:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.setblocking(False)
            self._socket.bind((0, RTMGRP_LINK))
        return self

    def __exit__(self, *_: object) -> None:
        self.close_in_child()

    def close_in_child(self) -> None:
        """In a forked process, too: nothing is told to the kernel."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        """-1: there is nothing to watch."""
        return self._socket.fileno() if self._socket else -1

    def _heard(self) -> list[Change]:
        found: list[Change] = []
        lost = False
        while self._socket:
            try:
                found += changes(self._socket.recv(_READ), self._index)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
        # The error comes before the messages that did find room: what is now is known after them.
        return [*found, self._look()] if lost else found

    def _look(self) -> Change:
        """What the interface is now."""
        try:
            up = netif.facts(self._name)[2]
        except OSError:
            return Change.GONE
        if netif.index(self._name) != self._index:
            return Change.GONE
        return Change.UP if up else Change.DOWN

    def take(
        self, give_up: Callable[[ShardserverError], None], wake: Callable[[], None] = lambda: None
    ) -> None:
        """Logs what happened since the last call; `give_up` is told when nothing can go on.

        `wake` is called before any word is written, for the carrier's comings and goings, too.
        """
        heard = self._heard()
        if heard:
            wake()
        for change in heard:
            if change is Change.GONE:
                give_up(
                    DeviceUnavailableError(
                        f"{self._name}: the interface was deleted, or moved to another namespace",
                        "start again once it is back",
                    )
                )
                return
            if (change is Change.UP) == self._up:
                continue
            self._up = change is Change.UP
            if self._up:
                logs.event(logging.INFO, "link_up", f"{self._name}: the interface is up again")
            else:
                text = f"{self._name}: the interface is down: nothing comes until it is up again"
                logs.event(logging.WARNING, "link_down", text)
