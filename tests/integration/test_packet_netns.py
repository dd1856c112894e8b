"""The wire that the other tests stand on does what they rely on."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import time
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

Pair = tuple[socket.socket, socket.socket]


@contextlib.contextmanager
def taps(wire: netns.Wire) -> Iterator[list[socket.socket]]:
    """A packet socket for each RX queue of the server's interface."""
    opened: list[socket.socket] = []
    try:
        kind = {"family": socket.AF_PACKET, "type": socket.SOCK_RAW}
        opened = netns.sockets_in(wire.server_ns, wire.queues, **kind)
        for tap in opened:
            tap.bind((wire.server_if, ETH_P_IP))
            tap.setsockopt(SOL_PACKET, PACKET_FANOUT, GROUP | PACKET_FANOUT_QM << 16)
        yield opened
    finally:
        for tap in opened:
            tap.close()


def queues_seen(taps: list[socket.socket]) -> dict[int, set[int]]:
    """The queues on which frames have come since the last look, by the flow's source port."""
    seen: dict[int, set[int]] = {}
    while ready := select.select(taps, [], [], 0.05)[0]:
        for tap in ready:
            source_port = struct.unpack_from("!H", tap.recv(2048), 34)[0]
            seen.setdefault(source_port, set()).add(taps.index(tap))
    return seen


@contextlib.contextmanager
def conversations(wire: netns.Wire, count: int) -> Iterator[list[Pair]]:
    """TCP connections (client, server) between the kernels: here the server's has the address."""
    netns.run_in_server(wire, ["ip", "addr", "add", f"{wire.service}/24", "dev", wire.server_if])
    with contextlib.ExitStack() as stack:
        (listener,) = (stack.enter_context(each) for each in netns.sockets_in(wire.server_ns))
        listener.bind((wire.service, PORT))
        listener.listen(count)
        pairs = []
        for client in netns.sockets_in(wire.client_ns, count):
            stack.enter_context(client).connect((wire.service, PORT))
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        yield pairs


def talk(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"ping")
    assert server.recv(16) == b"ping"
    server.sendall(b"pong")
    assert client.recv(16) == b"pong"


def test_a_flow_moves_to_the_queue_it_is_told() -> None:
    with netns.wire(queues=4) as wire, taps(wire) as opened, conversations(wire, 2) as pairs:
        ports = [client.getsockname()[1] for client, _ in pairs]
        for queue in (2, 0, 3, 1):
            netns.move_flow(wire, queue)
            queues_seen(opened)
            for pair in pairs * 2:
                talk(pair)
            assert queues_seen(opened) == {port: {queue} for port in ports}


def test_a_loss_moves_flows_by_itself() -> None:
    with netns.wire(queues=4) as wire, taps(wire) as opened, conversations(wire, 8) as pairs:
        queues_seen(opened)
        for pair in pairs:
            talk(pair)
        before = queues_seen(opened)
        with netns.losing(wire):
            for client, _ in pairs:
                client.sendall(b"late")
            time.sleep(0.9)  # two retransmissions, each on a queue of its own
        for _, server in pairs:
            server.settimeout(30)
            assert server.recv(16) == b"late"
        after = queues_seen(opened)
        assert len(before) == len(after) == len(pairs)
        assert any(after[port] != before[port] for port in before)


def test_nobody_answers_for_the_service() -> None:
    with netns.wire(queues=2) as wire:
        assert netns.listening(wire) == []
        (client,) = netns.sockets_in(wire.client_ns)
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
