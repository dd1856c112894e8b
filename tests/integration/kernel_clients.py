"""Linux's own TCP as the client of whatever backend: what every way to the wire has to show."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import netns
import running

PATIENCE_S = 30.0
FEEDER = "shardserver-fdr"  # as it calls itself


def library(name: str) -> bool:
    """Whether a shared library is installed where Debian puts it."""
    return any(Path("/usr/lib").glob(f"*/{name}.so.*"))


@contextmanager
def server_on(wire: netns.Wire, device: str, workers: int, *more: str) -> Iterator[running.Server]:
    """A server on `device`, in the wire's server namespace."""
    words = ["--device", device, "--workers", str(workers), "--ip", f"{wire.service}/24", *more]
    prefix = netns.server_argv(wire, [])
    with running.server(*words, prefix=prefix, client_prefix=netns.client_argv(wire, [])) as made:
        yield made


def a_thousand_are_served(wire: netns.Wire, server: running.Server) -> None:
    """A thousand connections, ten million bytes, all of them right, on every shard."""
    words = (f"{wire.service}:7", "-c", "1000", "-s", "10000", "--messages", "1", "-d", "40s")
    document = server.load(*words, timeout=120)
    assert running.no_errors(document)
    assert document["bytes"] == 10_000_000
    assert document["finished"] == 1000
    stats = server.settled()
    assert all(shard["connections"]["accepted"] > 0 for shard in stats["shards"])
    assert running.books_agree(stats)
    assert not netns.listening(wire), "the kernel itself listens"


@contextmanager
def flows(wire: netns.Wire, count: int) -> Iterator[list[socket.socket]]:
    """Connections of the client's kernel to the echo service."""
    kind = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
    opened = netns.sockets_in(wire.client_ns, count, **kind)
    try:
        for flow in opened:
            flow.settimeout(PATIENCE_S)
            flow.connect((wire.service, 7))
        yield opened
    finally:
        for flow in opened:
            flow.close()


def echo(flow: socket.socket, say: bytes) -> bool:
    """Whether what is said comes back."""
    flow.sendall(say)
    return flow.recv(len(say), socket.MSG_WAITALL) == say


def kill_worker(server: running.Server, shard: int) -> None:
    """Kills a shard's worker and waits until another one runs it."""
    pid = server.pids()[shard]
    os.kill(pid, signal.SIGKILL)
    for _ in range(200):
        now = server.stats()["shards"][shard]
        if now["pid"] != pid and now["state"] == "running":
            return
        time.sleep(0.02)
    raise AssertionError(f"shard {shard} was not taken over")


def _accepted(server: running.Server) -> list[int]:
    return [shard["connections"]["accepted"] for shard in server.stats()["shards"]]


def kill_feeder(wire: netns.Wire) -> None:
    """Kills the process that reads a device of one queue; its parent starts the next one."""
    names = {pid: Path(f"/proc/{pid}/comm") for pid in netns.processes(wire.server_ns)}
    (feeder,) = (pid for pid, name in names.items() if name.read_text().strip() == FEEDER)
    os.kill(feeder, signal.SIGKILL)


def a_kill_moves_no_flow(wire: netns.Wire, server: running.Server) -> None:
    """Each worker is killed once: all connections live on, each on the shard that it was on."""
    with flows(wire, 40) as opened:
        assert all(echo(flow, b"before") for flow in opened)
        accepted = _accepted(server)
        handed_over = server.stats()["total"]["steered"]["in"]
        for shard in range(len(accepted)):
            kill_worker(server, shard)
            assert all(echo(flow, b"after %d" % shard * 100) for flow in opened)
        stats = server.stats()
        assert _accepted(server) == accepted, "a flow was opened anew"
        assert stats["total"]["steered"]["in"] == handed_over, "a flow changed its ring"
        assert stats["total"]["connections"]["reset"] == 0
        assert stats["total"]["connections"]["dropped"] == 0
        assert running.books_agree(server.settled())


def wait_until_busy(server: running.Server, connections: int) -> None:
    """Until a load has connected and sends, and on into the middle of it."""
    end_s = time.monotonic() + running.PATIENCE_S
    while server.stats()["total"]["connections"]["active"] < connections:
        assert time.monotonic() < end_s, "the load does not connect"
    frames = server.stats()["total"]["rx"]["frames"]
    while server.stats()["total"]["rx"]["frames"] < frames + 20 * connections:
        assert time.monotonic() < end_s, "the load does not send"


def load_outlives_kills(wire: netns.Wire, server: running.Server, workers: int) -> None:
    """Bytes stay right while workers die under load."""
    load = server.load_in_background(f"{wire.service}:7", "-c", "100", "-d", "600s")
    wait_until_busy(server, 100)
    for turn in range(8):
        kill_worker(server, turn % workers)
    load.send_signal(signal.SIGINT)
    out, _ = load.communicate(timeout=90)
    assert load.returncode == 0, out
    stats = server.settled()
    assert stats["total"]["connections"]["adopted"] > 0
    assert stats["total"]["connections"]["dropped"] == 0
    assert running.books_agree(stats)
