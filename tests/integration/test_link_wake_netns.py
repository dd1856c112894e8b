"""An interface that goes down and comes back wakes those who sleep: their rings do not tell it all.

The workers here have slices of SLICE_S, so that none wakes by itself while a test looks.
"""

from __future__ import annotations

import select
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import netns
import pytest
from test_link_gone_netns import Foreground, foreground
from test_tools import wait_for

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

SLICE_S = 20
AT_ONCE_S = 1.0  # milliseconds on an idle machine; without a wake-up a slice, or the next timer
SLEEPY = [
    sys.executable,
    "-c",
    "from shardserver import __main__, worker; "
    f"worker.SLICE_US = {SLICE_S}_000_000; __main__.main()",
]
TIMES = 7
PROMPT_S = 0.02  # half the time without a wake-up: timers wake a worker while a connection waits
DOWN_S = 0.7  # some retransmissions: the next is far
PATIENCE_S = 10.0
CHARGEN = 19
ETH_P_IP = 0x0800


def link(wire: netns.Wire, how: str) -> None:
    netns._ip("-n", wire.server_ns, "link", "set", wire.server_if, how)


def turns(server: Foreground) -> int:
    return int(server.shard()["counters"]["turns"])


def asleep(server: Foreground) -> bool:
    before = turns(server)
    time.sleep(0.1)
    return turns(server) == before


@contextmanager
def sleepy(wire: netns.Wire, device: str, *words: str) -> Iterator[Foreground]:
    with foreground(wire, device, *words, command=SLEEPY) as server:
        yield server
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGINT)  # now: a worker hears its orders between slices
        server.end()


@pytest.mark.parametrize("device", ["xdp:srv0", "xdp:srv0:generic", "packet:srv0", "pcap:srv0"])
def test_down_and_up_are_noticed_by_who_sleeps(device: str) -> None:
    with netns.wire(queues=1) as wire, sleepy(wire, device) as server:
        for how in ("down", "up"):
            wait_for(lambda: asleep(server))
            before = turns(server)
            link(wire, how)
            end_s = time.monotonic() + AT_ONCE_S
            while turns(server) == before:
                assert time.monotonic() < end_s, f"{how}: nobody woke"


@contextmanager
def listening_for(wire: netns.Wire) -> Iterator[socket.socket]:
    """Hears every IPv4 frame at the client's end."""
    kind = {"family": socket.AF_PACKET, "type": socket.SOCK_RAW, "proto": socket.htons(ETH_P_IP)}
    (sniffer,) = netns.sockets_in(wire.client_ns, **kind)
    with sniffer:
        sniffer.bind((wire.client_if, ETH_P_IP))
        yield sniffer


def heard(sniffer: socket.socket, tcp_port: int, within_s: float) -> bool:
    """Whether a segment from that port comes in time."""
    end_s = time.monotonic() + within_s
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([sniffer], [], [], left_s)[0]:
            frame = sniffer.recv(65536)
            if frame[23] == socket.IPPROTO_TCP and frame[34:36] == tcp_port.to_bytes(2, "big"):
                return True
    return False


def delay_of_the_first(wire: netns.Wire, sniffer: socket.socket) -> float:
    """Seconds from the return of the link to the first of the frames that waited meanwhile."""
    link(wire, "down")
    time.sleep(DOWN_S)
    while select.select([sniffer], [], [], 0)[0]:
        sniffer.recv(65536)
    link(wire, "up")
    up_s = time.monotonic()
    assert heard(sniffer, CHARGEN, PATIENCE_S), "what waited is lost"
    return time.monotonic() - up_s


@pytest.mark.parametrize("device", ["xdp:srv0", "xdp:srv0:generic"])
def test_frames_that_wait_leave_when_the_link_is_back(device: str) -> None:
    with (
        netns.wire(queues=1) as wire,
        listening_for(wire) as sniffer,
        sleepy(wire, device, "--service", f"chargen:{CHARGEN}"),
    ):
        (client,) = netns.sockets_in(wire.client_ns)
        with client:
            client.settimeout(PATIENCE_S)
            client.connect((wire.service, CHARGEN))
            delays = []
            for _ in range(TIMES):
                assert client.recv(100_000, socket.MSG_WAITALL)
                delays.append(delay_of_the_first(wire, sniffer))
        assert statistics.median(delays) < PROMPT_S, delays
