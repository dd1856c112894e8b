"""The wire that the other tests stand on does what they rely on."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import netns
import pytest

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

SOL_PACKET = 263
PACKET_FANOUT = 18
PACKET_FANOUT_QM = 5
GROUP = 4711
ETH_P_IP = 0x0800
PORT = 7000


@contextlib.contextmanager
def taps(wire: netns.Wire) -> Iterator[list[socket.socket]]:
    """A packet socket for each RX queue of the server's interface."""
    opened: list[socket.socket] = []
    try:
        with netns.inside(wire.server_ns):
            for _ in range(wire.queues):
                tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
                opened.append(tap)
                tap.bind((wire.server_if, ETH_P_IP))
                tap.setsockopt(SOL_PACKET, PACKET_FANOUT, GROUP | PACKET_FANOUT_QM << 16)
        yield opened
    finally:
        for tap in opened:
            tap.close()


def queues_of(taps: list[socket.socket], source_port: int) -> set[int]:
    """Queues on which frames of a TCP flow have come since the last look."""
    seen: set[int] = set()
    while ready := select.select(taps, [], [], 0.05)[0]:
        for tap in ready:
            frame = tap.recv(2048)
            if struct.unpack_from("!H", frame, 34)[0] == source_port:
                seen.add(taps.index(tap))
    return seen


@contextlib.contextmanager
def conversation(wire: netns.Wire) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection between the two kernels: here the server's has the address."""
    netns.run_in_server(
        wire, ["ip", "addr", "add", f"{wire.service}/24", "dev", wire.server_if]
    )
    with netns.inside(wire.server_ns):
        listener = socket.create_server((wire.service, PORT))
    with netns.inside(wire.client_ns):
        client = socket.create_connection((wire.service, PORT), 5)
    server, _ = listener.accept()
    with listener, client, server:
        yield client, server


def talk(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"ping")
    assert server.recv(16) == b"ping"
    server.sendall(b"pong")
    assert client.recv(16) == b"pong"


def test_a_flow_moves_to_the_queue_it_is_told() -> None:
    with netns.wire(queues=4) as wire, taps(wire) as opened, conversation(wire) as pair:
        port = pair[0].getsockname()[1]
        for queue in (2, 0, 3, 1):
            netns.move_flow(wire, queue)
            queues_of(opened, port)
            talk(*pair)
            talk(*pair)
            assert queues_of(opened, port) == {queue}


def test_a_loss_moves_flows_by_itself() -> None:
    with netns.wire(queues=4) as wire, taps(wire) as opened, conversation(wire) as pair:
        port = pair[0].getsockname()[1]
        talk(*pair)
        before = queues_of(opened, port)
        pair[0].sendall(b"lost")
        netns.rehash_by_loss(wire, 0.1)
        netns.rehash_by_loss(wire, 1.5)
        pair[1].settimeout(10)
        assert pair[1].recv(16) == b"lost"
        assert len(before | queues_of(opened, port)) >= 1


def test_nobody_answers_for_the_service() -> None:
    with netns.wire(queues=2) as wire:
        assert netns.listening(wire) == []
        with netns.inside(wire.client_ns):
            client = socket.socket()
        client.settimeout(0.3)
        with client, pytest.raises(TimeoutError):
            client.connect((wire.service, PORT))


def test_nothing_is_left_behind() -> None:
    with netns.wire(queues=1, clients=3) as wire:
        assert wire.clients == ("10.77.0.10", "10.77.0.11", "10.77.0.12")
        sleeper = subprocess.Popen(netns.server_argv(wire, ["sleep", "60"]))
        while sleeper.pid not in netns.processes(wire.server_ns):
            assert sleeper.poll() is None
    assert sleeper.wait(5) != 0
    assert not Path(f"/run/netns/{wire.server_ns}").exists()
    assert not Path(f"/run/netns/{wire.client_ns}").exists()
