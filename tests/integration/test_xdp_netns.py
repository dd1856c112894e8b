"""AF_XDP end to end: Linux's own TCP over veth with its offloads at their defaults."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import netns
import pytest
import running

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

HOST = "10.77.0.3"  # the server's kernel keeps an address of its own on the same interface
SSH_LIKE = 2222
MODES = ["xdp:srv0", "xdp:srv0:generic", "xdp:srv0:copy:busy-poll"]


@contextlib.contextmanager
def server_on(wire: netns.Wire, device: str, *words: str) -> Iterator[running.Server]:
    words = ("--device", device, "--ip", f"{wire.service}/24", *words)
    prefix = netns.server_argv(wire, [])
    with running.server(*words, prefix=prefix, client_prefix=netns.client_argv(wire, [])) as made:
        yield made


def log_of(server: running.Server) -> str:
    return Path(server.runtime, f"{server.name}.log").read_text()


def program_on(wire: netns.Wire) -> bool:
    """Whether XDP is on the server's interface."""
    return "prog/xdp" in netns.run_in_server(wire, ["ip", "link", "show", wire.server_if])


@contextlib.contextmanager
def flows(wire: netns.Wire, count: int) -> Iterator[list[socket.socket]]:
    """Connections of the client's kernel to the echo service."""
    kind = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
    opened = netns.sockets_in(wire.client_ns, count, **kind)
    try:
        for flow in opened:
            flow.settimeout(30)
            flow.connect((wire.service, 7))
        yield opened
    finally:
        for flow in opened:
            flow.close()


def echo(flow: socket.socket, say: bytes) -> bool:
    """Whether what is said comes back."""
    flow.sendall(say)
    return flow.recv(len(say), socket.MSG_WAITALL) == say


@pytest.mark.parametrize("workers", [1, 3, 4])
@pytest.mark.parametrize("device", MODES)
def test_a_thousand_linux_clients_get_ten_million_bytes_back(device: str, workers: int) -> None:
    with netns.wire() as wire:
        with server_on(wire, device, "--workers", str(workers)) as server:
            words = (f"{wire.service}:7", "-c", "1000", "-s", "10000", "--messages", "1")
            document = server.load(*words, "-d", "40s")
            assert running.no_errors(document)
            assert document["bytes"] == 10_000_000
            assert document["finished"] == 1000
            stats = server.settled()
            shards = stats["shards"]
            if "generic" in device:  # veth tells such a program queue 0 for 0 and 1, 1 for 2, ...
                shards = shards[: wire.queues - 1]
            assert all(shard["connections"]["accepted"] > 0 for shard in shards)
            assert running.books_agree(stats)
            assert program_on(wire)
            mode = "generic mode" if "generic" in device else "copy mode"
            assert mode in log_of(server)
        assert not program_on(wire)


def test_super_segments_arrive_where_the_program_runs_behind_the_driver() -> None:
    with netns.wire() as wire, server_on(wire, "xdp:srv0:generic", "--workers", "1") as server:
        words = (f"{wire.service}:7", "-c", "2", "-s", "200000", "--messages", "20", "-d", "20s")
        assert running.no_errors(server.load(*words))
        received = server.stats()["total"]["rx"]
        assert received["bytes"] / received["frames"] > 2000


def test_a_flow_that_changes_its_queue_lives_on() -> None:
    with (
        netns.wire() as wire,
        server_on(wire, "xdp:srv0", "--workers", "4") as server,
        flows(wire, 1) as (flow,),
    ):
        for turn in range(40):
            netns.move_flow(wire, turn % wire.queues)
            assert echo(flow, b"turn %d" % turn * 50)
        total = server.stats()["total"]
        assert total["steered"]["in"] > 0
        assert total["connections"]["reset"] == 0
        assert total["verdicts"]["tcp_no_connection"] == 0


def talk_to_both(client: socket.socket, listener: socket.socket, ours: list[socket.socket]) -> None:
    """A conversation with the host's own service, turn by turn with those on our rings."""
    client.settimeout(30)
    client.connect((HOST, SSH_LIKE))
    theirs, _ = listener.accept()
    with theirs:
        for turn in range(50):
            client.sendall(b"host %d" % turn)
            assert theirs.recv(100) == b"host %d" % turn
            assert all(echo(flow, b"ours %d" % turn * 100) for flow in ours)


def test_the_hosts_own_traffic_goes_on_beside_the_service() -> None:
    with netns.wire() as wire:
        netns.run_in_server(wire, ["ip", "addr", "add", f"{HOST}/24", "dev", wire.server_if])
        (listener,) = netns.sockets_in(wire.server_ns)
        with listener, server_on(wire, "xdp:srv0", "--workers", "2"):
            listener.bind((HOST, SSH_LIKE))
            listener.listen()
            (client,) = netns.sockets_in(wire.client_ns)
            with client, flows(wire, 4) as ours:
                talk_to_both(client, listener, ours)
            for address in (HOST, wire.service):
                pinged = netns.run_in_client(wire, ["ping", "-c", "2", "-i", "0.2", address])
                assert " 0% packet loss" in pinged


def test_a_killed_worker_changes_no_other_flow() -> None:
    with (
        netns.wire() as wire,
        server_on(wire, "xdp:srv0", "--workers", "4") as server,
        flows(wire, 40) as opened,
    ):
        load = server.load_in_background(f"{wire.service}:7", "-c", "100", "-d", "6s")
        for turn in range(8):
            before = server.pids()
            os.kill(before[turn % 4], signal.SIGKILL)
            assert all(echo(flow, b"turn %d" % turn * 50) for flow in opened)
            after = server.pids()
            changed = [shard for shard in range(4) if before[shard] != after[shard]]
            assert changed in ([], [turn % 4]), "another worker was replaced"
        out, _ = load.communicate(timeout=60)
        assert load.returncode == 0, out
        total = server.stats()["total"]
        assert total["connections"]["dropped"] == 0
        assert total["connections"]["reset"] == 0
        assert running.books_agree(server.settled())


def test_a_server_that_is_killed_leaves_a_clean_interface() -> None:
    with netns.wire() as wire:
        words = ["--device", "xdp:srv0", "--ip", f"{wire.service}/24", "--workers", "4"]
        argv = netns.server_argv(wire, [*running.COMMAND, "start", "-n", f"k{os.getpid()}", *words])
        process = subprocess.Popen(argv, cwd=running.ROOT, stderr=subprocess.DEVNULL)
        end = time.monotonic() + running.PATIENCE_S
        while not program_on(wire) and time.monotonic() < end:
            time.sleep(0.05)
        assert program_on(wire)
        for pid in netns.processes(wire.server_ns):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(running.PATIENCE_S)
        end = time.monotonic() + running.PATIENCE_S
        while program_on(wire) and time.monotonic() < end:
            time.sleep(0.05)
        assert not program_on(wire)


def start(wire: netns.Wire, *words: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    command = [*running.COMMAND, "start", "-n", f"r{os.getpid()}", "--ip", f"{wire.service}/24"]
    argv = netns.server_argv(wire, [*command, *words])
    return subprocess.run(
        argv,
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--device", "xdp:srv0:zerocopy", "--workers", "1"], 6, "cannot do zerocopy, which was"),
        (["--device", "xdp:srv0:best", "--workers", "1"], 78, ":zerocopy, :copy or :generic"),
        (["--device", "xdp:srv0", "--workers", "5"], 78, "ethtool -L srv0 combined 5"),
        (["--device", "xdp:srv9", "--workers", "1"], 6, "has no interface srv9"),
        (["--device", "xdp:lo", "--workers", "1"], 6, "loopback"),
    ],
)
def test_a_start_that_cannot_be_says_why(words: list[str], code: int, sentence: str) -> None:
    with netns.wire() as wire:
        done = start(wire, *words)
        assert done.returncode == code, done.stderr
        assert sentence in done.stderr
        assert not program_on(wire)


def test_where_the_backend_is_left_open_the_next_one_is_taken() -> None:
    with netns.wire() as wire:
        words = ("--iface", wire.server_if, "--ip", f"{wire.service}/24", "--workers", "8")
        with running.server(*words, prefix=netns.server_argv(wire, [])) as server:
            log = log_of(server)
            assert "backend: xdp: xdp:srv0: 8 rings for 4 queues" in log
            assert "backend: packet: taken" in log
