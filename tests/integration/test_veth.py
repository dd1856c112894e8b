"""Linux's own TCP as the client, over veth with its offloads at their defaults (AF_PACKET)."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import netns
import pytest
import running
from kernel_clients import wait_until_busy

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

SERVICES = ("--service", "discard:9", "--service", "daytime:13", "--service", "http:80")


@contextmanager
def server_on(wire: netns.Wire, workers: int, device: str = "") -> Iterator[running.Server]:
    words = ["--device", device or f"packet:{wire.server_if}", "--workers", str(workers)]
    words += ["--ip", f"{wire.service}/24", *SERVICES]
    prefix = netns.server_argv(wire, [])
    with running.server(*words, prefix=prefix, client_prefix=netns.client_argv(wire, [])) as made:
        yield made


def ask(wire: netns.Wire, tcp_port: int, say: bytes) -> bytes:
    """What netcat gets: it sends, half-closes, and reads to the end."""
    command = netns.client_argv(wire, ["nc", "-N", "-w", "5", wire.service, str(tcp_port)])
    return subprocess.run(command, input=say, capture_output=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_thousand_linux_clients_get_ten_million_bytes_back(workers: int) -> None:
    with netns.wire() as wire, server_on(wire, workers) as server:
        words = (f"{wire.service}:7", "-c", "1000", "-s", "10000", "--messages", "1", "-d", "40s")
        document = server.load(*words)
        assert running.no_errors(document)
        assert document["bytes"] == 10_000_000
        assert document["finished"] == 1000
        stats = server.settled()
        assert all(shard["connections"]["accepted"] > 0 for shard in stats["shards"])
        assert running.books_agree(stats)
        assert not netns.listening(wire), "the kernel itself listens"


def test_netcat_and_curl_are_served() -> None:
    text = b"".join(b"line %d of a conversation\n" % i for i in range(2000))
    with netns.wire() as wire, server_on(wire, 2):
        assert ask(wire, 7, text) == text  # half-close echoes everything, then FINs
        assert ask(wire, 9, text) == b""
        assert b"UTC" in ask(wire, 13, b"")
        page = netns.run_in_client(wire, ["curl", "-s", f"http://{wire.service}/"])
        assert page == "Hello, shard.\n"
        pinged = netns.run_in_client(wire, ["ping", "-c", "2", "-i", "0.2", wire.service])
        assert " 0% packet loss" in pinged


def forwarded(wire: netns.Wire) -> int:
    """Datagrams that the server's kernel sent on to somebody else."""
    rows = netns.run_in_server(wire, ["grep", "^Ip:", "/proc/net/snmp"]).splitlines()
    names, numbers = (row.split() for row in rows)
    return int(numbers[names.index("ForwDatagrams")])


@pytest.mark.parametrize("backend", ["packet", "pcap"])
def test_a_host_that_forwards_keeps_off_our_frames(backend: str) -> None:
    """It would send each of them on, back to the wire that it came from."""
    with netns.wire() as wire:
        address = ["ip", "addr", "add", "10.77.0.3/24", "dev", wire.server_if]
        netns.run_in_server(wire, address)
        netns.run_in_server(wire, ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        with server_on(wire, 2, f"{backend}:{wire.server_if}") as server:
            assert ask(wire, 7, b"beside a router\n") == b"beside a router\n"
            ping = ["ping", "-c", "1", "-W", "5", "10.77.0.3"]
            assert " 0% packet loss" in netns.run_in_client(wire, ping), "the host's own traffic"
            assert server.stats()["total"]["rx"]["frames"] > 0
        assert forwarded(wire) == 0


@contextmanager
def flows(wire: netns.Wire, count: int, tcp_port: int = 7) -> Iterator[list[socket.socket]]:
    """Connections of the client's kernel to the service."""
    kind = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
    opened = netns.sockets_in(wire.client_ns, count, **kind)
    try:
        for flow in opened:
            flow.settimeout(30)
            flow.connect((wire.service, tcp_port))
        yield opened
    finally:
        for flow in opened:
            flow.close()


def echo(flow: socket.socket, say: bytes) -> bool:
    """Whether what is said comes back."""
    flow.sendall(say)
    return flow.recv(len(say), socket.MSG_WAITALL) == say


def test_a_flow_that_changes_its_queue_lives_on() -> None:
    with (
        netns.wire() as wire,
        server_on(wire, 4, f"packet:{wire.server_if}:queue") as server,
        flows(wire, 1) as (flow,),
    ):
        for turn in range(40):
            netns.move_flow(wire, turn % wire.queues)
            assert echo(flow, b"turn %d" % turn * 50)
        total = server.stats()["total"]
        assert total["steered"]["in"] > 0
        assert total["connections"]["reset"] == 0
        assert total["verdicts"]["tcp_no_connection"] == 0


def test_load_with_changing_queues_is_exact() -> None:
    with (
        netns.wire() as wire,
        server_on(wire, 4, f"packet:{wire.server_if}:queue") as server,
    ):
        load = server.load_in_background(f"{wire.service}:7", "-c", "100", "-d", "600s")
        wait_until_busy(server, 100)
        for turn in range(20):
            netns.move_flow(wire, turn % wire.queues)
        load.send_signal(signal.SIGINT)
        out, _ = load.communicate(timeout=60)
        assert load.returncode == 0, out


def test_two_clients_never_see_each_others_bytes() -> None:
    with netns.wire() as wire, server_on(wire, 2), flows(wire, 3) as (one, two, three):
        for turn in range(100):
            one.sendall(b"A" * 100)
            two.sendall(b"B" * 100)
            if turn == 50:  # one client's reset touches nobody else
                three.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                three.close()
            assert two.recv(100, socket.MSG_WAITALL) == b"B" * 100
            assert one.recv(100, socket.MSG_WAITALL) == b"A" * 100


def push(flow: socket.socket, most: int) -> int:
    """Sends without reading until the server takes no more; how much it took."""
    sent = 0
    flow.settimeout(0.5)
    try:
        while sent < most:
            sent += flow.send(b"x" * 65536)
    except TimeoutError:
        flow.settimeout(30)
    return sent


def drain(flow: socket.socket) -> int:
    """Reads to the end; how much came."""
    got = 0
    while data := flow.recv(1 << 20):
        got += len(data)
    return got


def test_a_slow_reader_closes_the_window_and_loses_nothing() -> None:
    with netns.wire() as wire, server_on(wire, 1) as server, flows(wire, 1) as (flow,):
        sent = push(flow, 50_000_000)
        assert sent < 50_000_000, "the server took everything: its memory has no bound"
        flow.shutdown(socket.SHUT_WR)
        assert drain(flow) == sent
        assert running.books_agree(server.settled())
