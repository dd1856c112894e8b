"""`shardserver ss` on real servers, with both engines: what it lists is what is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netns
import pytest
import running

LIBRARY = Path(
    os.environ.get("SHARDSERVER_PICOTCP")
    or running.ROOT / "build" / "picotcp" / "libshardserver_picotcp.so"
)
ENGINES = [
    "native",
    pytest.param(
        "picotcp",
        marks=pytest.mark.skipif(
            not LIBRARY.exists(), reason="picoTCP is not built here: make picotcp"
        ),
    ),
]
DEVICE = f"mem:s{os.getpid()}"
WORKERS = 3
CONNECTIONS = 200
LINE = re.compile(r"(\d+) +([\w-]+) +(\d+) +(\d+) +([\d.]+):(\d+|\*) +([\d.]+):(\d+|\*)")


def ss(server: running.Server, *words: str) -> str:
    """What a command prints."""
    done = server.run("ss", "-n", server.name, *words)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def document(server: running.Server, *words: str) -> list[dict[str, Any]]:
    """The connections of a document of schema 1."""
    made = json.loads(ss(server, "--json", *words))
    assert (made["schema"], made["instance"], made["changing"]) == (1, server.name, 0)
    found: list[dict[str, Any]] = made["connections"]
    return found


def until(look: Callable[[], Any], wanted: Callable[[Any], bool], what: str) -> Any:
    """What was seen when it was as wanted."""
    end_s = time.monotonic() + running.PATIENCE_S
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < end_s, f"{what}: {seen}"
        time.sleep(0.1)


@contextmanager
def under_load(engine: str) -> Iterator[running.Server]:
    """A server with CONNECTIONS clients that speak all the time."""
    words = ("--device", DEVICE, "--workers", str(WORKERS), "--engine", engine)
    with running.server(*words, "--service", "echo:7", "--service", "http:80") as server:
        load = server.load_in_background(
            DEVICE, "-c", str(CONNECTIONS), "-d", "600s", "-s", "200", "--processes", "1"
        )
        try:
            until(
                lambda: server.stats()["total"]["connections"]["active"],
                lambda active: active == CONNECTIONS,
                "clients",
            )
            yield server
        finally:
            load.send_signal(signal.SIGINT)
            load.communicate(timeout=running.PATIENCE_S)


def by_shard(connections: Sequence[dict[str, Any]]) -> list[int]:
    """How many each shard has."""
    count = Counter(connection["shard"] for connection in connections)
    return [count[shard] for shard in range(WORKERS)]


def active(server: running.Server) -> list[int]:
    """The same by stats."""
    return [shard["connections"]["active"] for shard in server.stats()["shards"]]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_connection_under_load_is_listed_once(engine: str) -> None:
    with under_load(engine) as server:
        found = document(server)
        assert len(found) == CONNECTIONS
        assert {connection["state"] for connection in found} == {"established"}
        assert {tuple(connection["local"].values()) for connection in found} == {("10.77.0.1", 7)}
        peers = {tuple(connection["peer"].values()) for connection in found}
        assert len(peers) == CONNECTIONS
        assert all(re.fullmatch(r"10\.77\.\d+\.1", address) for address, _ in peers)
        assert by_shard(found) == active(server)
        assert min(by_shard(found)) > 0
        assert {connection["service"] for connection in found} == {"echo"}
        one_shard = document(server, "--shard", "1")
        assert [connection["shard"] for connection in one_shard] == [1] * active(server)[1]

        address, port = sorted(peers)[7]
        (one,) = document(server, "state", "established", "dst", f"{address}:{port}")
        assert tuple(one["peer"].values()) == (address, port)
        assert ("tcp" in one) == (engine == "native")
        same_port = [peer for peer in peers if peer[1] == port]
        lines = ss(server, "-H", "dport", "=", f":{port}").splitlines()
        assert len(lines) == len(same_port)
        assert all(LINE.match(line)[2] == "ESTAB" for line in lines)  # type: ignore[index]
        assert ss(server, "-H", "not", "sport", "=", ":7") == ""
        ports = sorted(connection["peer"]["port"] for connection in found)
        middle = ports[len(ports) // 2]
        below = document(server, f"( dport < :{middle} ) and src 10.77.0.0/16:7")
        assert len(below) == sum(port < middle for port in ports)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_printed_is_what_the_document_holds(engine: str) -> None:
    with under_load(engine) as server:
        head, *lines = ss(server, "-a").splitlines()
        assert head.split()[:4] == ["Shard", "State", "Recv-Q", "Send-Q"]
        matched = [LINE.match(line) for line in lines]
        assert all(matched)
        states = Counter(line[2] for line in matched if line)
        assert states == {"LISTEN": 2 * WORKERS, "ESTAB": CONNECTIONS}
        summary = [line.split() for line in ss(server, "-s", "-a").splitlines()]
        assert summary[0] == ["shard", "total", "ESTAB", "LISTEN"]
        assert summary[-1] == ["total", str(CONNECTIONS + 2 * WORKERS), str(CONNECTIONS), "6"]
        assert [int(row[2]) for row in summary[1:-1]] == active(server)
        listening = ss(server, "-l", "-H").splitlines()
        assert [line.split()[4] for line in listening] == ["10.77.0.1:7", "10.77.0.1:80"] * WORKERS
        details = ss(server, "-H", "-i").splitlines()
        assert len(details) == 2 * CONNECTIONS
        for text in details[1::2]:
            assert ("reno" in text.split()) == ("mss:1460" in text) == (engine == "native")
            assert "service:echo" in text


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_stands_still_hides_nothing(engine: str, number: signal.Signals) -> None:
    """The orchestrator is stopped first: it would replace the worker at once."""
    with under_load(engine) as server:
        status = json.loads(server.run("status", "--json", "-n", server.name).stdout)
        before = active(server)
        os.kill(status["pid"], signal.SIGSTOP)
        try:
            os.kill(status["shards"][1]["pid"], number)
            until(
                lambda: (server.stats(), time.sleep(0.05), server.stats()),
                lambda seen: (
                    seen[0]["shards"][1]["tx"]["frames"] == seen[2]["shards"][1]["tx"]["frames"]
                ),
                "the worker stands still",
            )
            started_s = time.monotonic()
            assert by_shard(document(server)) == before
            assert len(document(server, "--shard", "1")) == before[1]
            assert time.monotonic() - started_s < running.PATIENCE_S
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status["shards"][1]["pid"], signal.SIGCONT)
            os.kill(status["pid"], signal.SIGCONT)


def test_ten_thousand_connections_come_in_parts_and_stop_nobody() -> None:
    with running.server("--device", DEVICE, "--workers", "2") as server:
        load = server.load_in_background(
            DEVICE, "-c", "10000", "-d", "600s", "-s", "64", "--processes", "1"
        )
        try:
            until(
                lambda: server.stats()["total"]["connections"]["active"],
                lambda active: active == 10_000,
                "clients",
            )
            found = document(server)
            assert len(found) == 10_000
            assert len({tuple(connection["peer"].values()) for connection in found}) == 10_000
        finally:
            load.send_signal(signal.SIGINT)
            load.communicate(timeout=running.PATIENCE_S)


def test_a_shard_that_is_not_there_is_one_line() -> None:
    with running.server("--device", DEVICE, "--workers", "1") as server:
        done = server.run("ss", "-n", server.name, "--shard", "1")
        assert done.returncode == 2
        assert done.stderr.startswith("error: there is no shard 1\n")
        wrong = server.run("ss", "-n", server.name, "--json", "state", "open")
        assert wrong.returncode == 2
        assert json.loads(wrong.stdout)["error"]["code"] == "usage"


def state_of(server: running.Server, port: int) -> str:
    """The state of the connection from a port; "" when it is gone."""
    found = document(server, "-a", "dport", "=", f":{port}")
    assert len(found) <= 1
    return str(found[0]["state"]) if found else ""


@pytest.mark.net
@pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or "")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_ends_of_connections_with_linux_are_seen(engine: str) -> None:
    services = ("--service", "daytime:13", "--service", "chargen:19")
    with netns.wire() as wire:
        prefix = netns.server_argv(wire, [])
        words = ["--device", f"packet:{wire.server_if}", "--workers", "2", "--engine", engine]
        words += ["--ip", f"{wire.service}/24", *services]
        with running.server(*words, prefix=prefix) as server:
            kind = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
            first, full = netns.sockets_in(wire.client_ns, 2, **kind)
            first.settimeout(30)
            full.settimeout(30)
            first.connect((wire.service, 13))
            assert b"UTC" in first.recv(100)
            ours = first.getsockname()[1]
            # it closed first; picoTCP tells nobody that its FIN was acknowledged
            half = "fin-wait-2" if engine == "native" else "fin-wait-1"
            until(lambda: state_of(server, ours), lambda state: state == half, half)
            first.close()
            until(lambda: state_of(server, ours), lambda state: state == "time-wait", "time-wait")
            assert ss(server, "-H", "dport", "=", f":{ours}") == ""  # not without -a
            line = ss(server, "-Hao", "dport", "=", f":{ours}")
            assert ("timer:(timewait," in line) == (engine == "native")

            full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            full.connect((wire.service, 19))
            theirs = full.getsockname()[1]
            waiting = until(
                lambda: document(server, "dport", "=", f":{theirs}"),
                lambda found: found and found[0]["send_q"] > 0,
                "a peer that reads nothing",
            )[0]
            assert waiting["state"] == "established"
            if engine == "native":
                until(
                    lambda: ss(server, "-Ho", "dport", "=", f":{theirs}"),
                    lambda line: "timer:(persist," in line,
                    "a closed window is probed",
                )
            full.shutdown(socket.SHUT_WR)
            until(
                lambda: state_of(server, theirs),
                lambda state: state in ("close-wait", "last-ack"),
                "the peer's end",
            )
            full.close()
