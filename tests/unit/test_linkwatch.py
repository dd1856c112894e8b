"""What rtnetlink's messages say about one interface, and what is made of it."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import linkwatch, netif
from orchestrator.linkwatch import Change
from shardserver import logs
from shardserver.errors import DeviceUnavailableError, ShardserverError

OURS = 7


def message(kind: int, index: int = OURS, flags: int = netif.IFF_UP, family: int = 0) -> bytes:
    """A message about a link, with an attribute behind it whose length is no multiple of four."""
    body = struct.pack("=BxHiII", family, 1, index, flags, 0) + struct.pack("=HH2s", 6, 3, b"d\0")
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def test_each_message_about_ours_is_heard_in_order() -> None:
    data = (
        message(linkwatch.RTM_NEWLINK, flags=0)
        + message(linkwatch.RTM_NEWLINK, index=8, flags=0)
        + message(linkwatch.RTM_NEWLINK)
        + message(linkwatch.RTM_DELLINK)
    )
    assert list(linkwatch.changes(data, OURS)) == [Change.DOWN, Change.UP, Change.GONE]


def test_leaving_a_bridge_is_no_deletion() -> None:
    data = message(linkwatch.RTM_DELLINK, family=7)  # AF_BRIDGE
    assert list(linkwatch.changes(data, OURS)) == []


@given(st.binary(max_size=200))
def test_any_bytes_end(data: bytes) -> None:
    assert all(isinstance(change, Change) for change in linkwatch.changes(data, OURS))


@given(st.integers(0, 60))
def test_a_message_cut_short_says_nothing(length: int) -> None:
    data = message(linkwatch.RTM_DELLINK)
    said = list(linkwatch.changes(data[:length], OURS))
    assert said in ([], [Change.GONE])
    if length < 32:
        assert said == []


@contextmanager
def fed(*messages: bytes) -> Iterator[linkwatch.LinkWatch]:
    """A watch that hears what is sent to it."""
    watch = linkwatch.LinkWatch("")
    heard, said = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.setblocking(False)
    watch._socket, watch._index, watch._name = heard, OURS, "eth7"
    with heard, said:
        for each in messages:
            said.send(each)
        yield watch


def test_down_and_up_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    down, up = message(linkwatch.RTM_NEWLINK, flags=0), message(linkwatch.RTM_NEWLINK)
    with fed(up, down, down, up, up) as watch, caplog.at_level(logging.INFO):
        watch.take(lambda error: pytest.fail(str(error)))
    assert [record.message for record in caplog.records] == [
        "eth7: the interface is down: nothing comes until it is up again",
        "eth7: the interface is up again",
    ]


@pytest.mark.parametrize("flags", [0, netif.IFF_UP, netif.IFF_UP | 1 << 16])  # 1 << 16: carrier
def test_whatever_happens_wakes_those_who_sleep(flags: int) -> None:
    woken: list[bool] = []
    with fed(message(linkwatch.RTM_NEWLINK, flags=flags)) as watch:
        for _ in range(2):  # nothing is left for the second time
            watch.take(lambda error: pytest.fail(str(error)), lambda: woken.append(True))
    assert len(woken) == 1


def test_another_interface_wakes_nobody() -> None:
    with fed(message(linkwatch.RTM_NEWLINK, index=8)) as watch:
        watch.take(lambda error: pytest.fail(str(error)), lambda: pytest.fail("woken"))


def test_a_deletion_gives_up() -> None:
    told: list[ShardserverError] = []
    with fed(message(linkwatch.RTM_DELLINK)) as watch:
        watch.take(told.append)
    (error,) = told
    assert isinstance(error, DeviceUnavailableError)
    assert error.exit_code == 6
    assert "eth7: the interface was deleted" in error.message


@dataclass
class Overrun:
    """A socket whose kernel had no room for some messages: it says so first."""

    left: list[bytes]
    told: bool = False

    def recv(self, _: int) -> bytes:
        if not self.told:
            self.told = True
            raise OSError(errno.ENOBUFS, "no buffer space")
        if not self.left:
            raise BlockingIOError
        return self.left.pop(0)


@pytest.mark.parametrize(
    ("flags", "said"), [(netif.IFF_UP, []), (0, ["link_down"]), (None, ["gone"])]
)
def test_after_lost_messages_the_interface_is_looked_at(
    flags: int | None, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(_: str) -> tuple[bytes, int, bool, int]:
        if flags is None:
            raise OSError(errno.ENODEV, "no such device")
        return bytes(6), 1500, bool(flags), 1

    found, woken = [], []
    watch = linkwatch.LinkWatch("")
    watch._socket = cast(socket.socket, Overrun([message(linkwatch.RTM_NEWLINK)]))
    watch._index, watch._name = OURS, "eth7"
    monkeypatch.setattr(netif, "facts", facts)
    monkeypatch.setattr(netif, "index", lambda _: OURS)
    monkeypatch.setattr(logs, "event", lambda _, name, __: found.append(name))
    watch.take(lambda _: found.append("gone"), lambda: woken.append(True))
    assert found == said
    assert woken


def test_without_an_interface_nothing_is_watched() -> None:
    with linkwatch.LinkWatch("") as watch:
        assert watch.fileno() == -1


def test_the_kernel_s_own_messages_are_understood() -> None:
    with linkwatch.LinkWatch("lo") as watch:
        assert watch.fileno() >= 0
        watch.take(lambda error: pytest.fail(str(error)))
