"""picoTCP as the engine: the whole server on the software NIC, and Linux's own TCP over veth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import netns
import pytest
import running
from kernel_clients import kill_worker, wait_until_busy

from orchestrator import watch

LIBRARY = Path(
    os.environ.get("SHARDSERVER_PICOTCP")
    or running.ROOT / "build" / "picotcp" / "libshardserver_picotcp.so"
)
SERVER = ("--device", f"mem:p{os.getpid()}", "--engine", "picotcp")
TARGET = f"mem:p{os.getpid()}"
SERVICES = tuple(
    word
    for service in ("discard:9", "daytime:13", "chargen:19", "http:80")
    for word in ("--service", service)
)
CHURN_S = float(os.environ.get("SHARDSERVER_CHURN_S", "60"))

needs_library = pytest.mark.skipif(
    not LIBRARY.exists(), reason="picoTCP is not built here: make picotcp"
)
net = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]


def over_veth(test: object) -> object:
    """Marks a test that needs namespaces."""
    for mark in net:
        test = mark(test)
    return test


@contextmanager
def server_on(wire: netns.Wire, workers: int, device: str = "") -> Iterator[running.Server]:
    words = ["--device", device or f"packet:{wire.server_if}", "--workers", str(workers)]
    words += ["--ip", f"{wire.service}/24", *SERVICES, "--engine", "picotcp"]
    prefix = netns.server_argv(wire, [])
    with running.server(*words, prefix=prefix, client_prefix=netns.client_argv(wire, [])) as made:
        yield made


def test_without_the_library_one_line_says_what_to_do() -> None:
    done = subprocess.run(
        [*running.COMMAND, "start", *SERVER, "--workers", "1"],
        cwd=running.ROOT,
        env={**os.environ, "SHARDSERVER_PICOTCP": "/nonexistent/picotcp.so"},
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
        check=False,
    )
    assert done.returncode == 6
    assert "/nonexistent/picotcp.so is not built: run make picotcp" in done.stderr
    assert "Traceback" not in done.stderr


def engines(**environment: str) -> str:
    done = subprocess.run(
        [*running.COMMAND, "doctor", "--json"],
        cwd=running.ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
        check=False,
    )
    found = json.loads(done.stdout)["findings"]
    (text,) = (each["text"] for each in found if each["topic"] == "engines")
    return str(text)


def test_doctor_says_that_it_is_not_built() -> None:
    text = engines(SHARDSERVER_PICOTCP="/nonexistent/picotcp.so")
    assert text.startswith("native: shardserver ")
    assert text.endswith("· picotcp: not built (make picotcp)")


def test_doctor_says_why_a_library_is_of_no_use(tmp_path: Path) -> None:
    (tmp_path / "p.so").write_bytes(b"no library")
    text = engines(SHARDSERVER_PICOTCP=str(tmp_path / "p.so"))
    assert f"picotcp: {tmp_path}/p.so " in text


@needs_library
def test_doctor_names_engine_version_and_place() -> None:
    assert f"picotcp: picoTCP 1.7 (picotcp-sys 0.2.1), {LIBRARY}" in engines()


@needs_library
def test_more_connections_than_it_carries_are_not_promised() -> None:
    done = subprocess.run(
        [*running.COMMAND, "start", *SERVER, "--conns-max", "5000"],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
        check=False,
    )
    assert done.returncode == 78
    assert "give --conns-max 4096 or fewer" in done.stderr


@needs_library
def test_what_is_not_needed_is_not_compiled_in() -> None:
    """CVE-2017-1000210, 2020-24338 to -24340 (DNS), 2020-17441 to -17445 (IPv6)."""
    library = LIBRARY.read_bytes()
    if b"picotcp-sys" not in library:
        pytest.skip("an installed picoTCP has what it has")
    assert b"pico_tcp_input" in library
    parsers = (b"pico_dns_client", b"pico_dns_decompress", b"pico_mdns_", b"pico_ipv6_process_in",
               b"pico_icmp6_", b"pico_dhcp_", b"pico_ppp_", b"pico_udp_recv")  # fmt: skip
    assert [name for name in parsers if name in library] == []


@needs_library
def test_the_conformance_report_holds_what_the_documents_say() -> None:
    """A report, not a gate; but what passed once goes on passing."""
    program = running.ROOT / "build" / "release" / "test_tcp"
    if not program.exists():
        pytest.skip("the C tests are not built: make test")
    script = running.ROOT / "bench" / "conformance.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    readme = (running.ROOT / "native" / "engine_picotcp" / "README.md").read_text().splitlines()
    held = [line for line in readme if line.endswith("| yes | yes |  |")]
    assert len(held) >= 11
    assert [line for line in held if line not in printed] == []
    assert all("| not run |" not in line for line in printed)


@needs_library
def test_the_demo_is_exact_and_names_its_engine() -> None:
    done = subprocess.run(
        [*running.COMMAND, "demo", "--engine", "picotcp", "-d", "1s"],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "engine picoTCP" in done.stdout
    assert "100 % byte-exact" in done.stdout


@needs_library
def test_status_and_stats_name_engine_and_version() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        document = server.load(TARGET, "-c", "100", "-d", "1s")
        assert running.no_errors(document)
        stats = server.settled()
        assert stats["engine"] == "picotcp"
        assert stats["engine_version"].startswith("picoTCP")
        assert stats["engine_version"] in server.run("status", "-n", server.name).stdout
        assert all(shard["connections"]["accepted"] > 0 for shard in stats["shards"])
        assert running.books_agree(stats)


@needs_library
def test_large_messages_and_a_bad_wire_lose_no_byte() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        document = server.load(TARGET, "-c", "8", "-s", "300k", "--messages", "5", "-d", "40s")
        assert running.no_errors(document)
        words = ("-c", "20", "--messages", "10", "-s", "4000", "-d", "60s")
        document = server.load(TARGET, *words, "--faults", "drop=2%,reorder=2%,dup=1%", timeout=90)
        assert running.no_errors(document)
        assert document["bytes"] == 20 * 10 * 4000
        assert running.books_agree(server.settled())


@needs_library
def test_a_connection_too_many_is_refused_and_counted() -> None:
    few = ("--workers", "1", "--conns-max", "50", "--graceful-timeout", "100ms")
    with running.server(*SERVER, *few) as server:
        load = server.load_in_background(TARGET, "-c", "80", "-d", "1s", "--processes", "1")
        for _ in range(200):
            total = server.stats()["total"]
            if total["verdicts"]["tcp_table_full"] > 0:
                break
            time.sleep(0.05)
        load.send_signal(signal.SIGINT)
        load.communicate(timeout=60)
        assert total["verdicts"]["tcp_table_full"] > 0
        assert total["connections"]["active"] <= 50
        assert running.books_agree(server.settled())


@needs_library
def test_a_killed_worker_costs_its_own_connections_and_nothing_else() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        load = server.load_in_background(TARGET, "-c", "100", "-d", "600s", "--processes", "1")
        wait_until_busy(server, 100)
        before = server.stats()["shards"]
        kill_worker(server, 0)
        load.send_signal(signal.SIGINT)
        out, _ = load.communicate(timeout=60)
        document = json.loads(out)
        after = server.stats()["shards"]
        assert document["errors"]["mismatched_bytes"] == 0
        assert after[0]["connections"]["dropped"] == before[0]["connections"]["active"]
        assert after[1]["connections"]["dropped"] == after[1]["connections"]["reset"] == 0
        assert running.no_errors(server.load(TARGET, "-c", "100", "-d", "1s"))
        assert running.books_agree(server.settled())


@over_veth
@needs_library
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_linux_clients_get_every_byte_back(workers: int) -> None:
    with netns.wire() as wire, server_on(wire, workers) as server:
        words = (f"{wire.service}:7", "-c", "500", "-s", "10000", "--messages", "1", "-d", "40s")
        document = server.load(*words)
        assert running.no_errors(document)
        assert document["finished"] == 500
        stats = server.settled()
        assert all(shard["connections"]["accepted"] > 0 for shard in stats["shards"])
        assert running.books_agree(stats)
        assert not netns.listening(wire), "the kernel itself listens"


@over_veth
@needs_library
@pytest.mark.timeout(400)
def test_five_hundred_linux_clients_come_and_go_for_a_minute() -> None:
    with netns.wire(clients=4) as wire, server_on(wire, 2) as server:
        pids = server.pids()
        program = str(Path(__file__).with_name("churn.py"))
        words = [wire.service, "7", "500", str(CHURN_S), str(os.getpid()), *wire.clients]
        out = netns.run_in_client(wire, [sys.executable, program, *words])
        seen = json.loads(out)
        endings = {"half-close", "close", "reset", "bytes"}
        assert set(seen) == endings, f"something else than these ends: {seen}"
        stats = server.stats()
        print(seen, stats["total"]["connections"])
        opened = sum(seen[ending] for ending in endings - {"bytes"})
        assert stats["total"]["connections"]["accepted"] == opened
        assert server.pids() == pids, "a worker died"
        assert all(shard["connections"]["accepted"] > 0 for shard in stats["shards"])
        end = time.monotonic() + running.PATIENCE_S
        while time.monotonic() < end:
            stats = server.settled()
            connections = stats["total"]["connections"]
            if connections["active"] == 0 and connections["closed"] == opened:
                break
            time.sleep(0.2)
        # a client's reset goes once: where the wire's queue lost it, the server cannot know
        lost = opened - connections["closed"]
        assert lost <= seen["reset"] // 100
        assert connections["active"] == lost
        assert running.books_agree(stats)


@over_veth
@needs_library
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
        assert server.stats()["total"]["steered"]["in"] > 0


@over_veth
@needs_library
def test_a_sender_is_told_of_room_before_its_persist_timer() -> None:
    """picoTCP by itself: 0.7 MB/s to a service that answers nothing, however quick the machine.

    The quickest of three: a machine that does other things delays some, the timer all.
    """
    send = "dd if=/dev/zero bs=64k count=250 2>&1 | nc -N -w 20 {} 9"
    with netns.wire() as wire, server_on(wire, 2) as server:
        took_s = []
        for _ in range(3):
            started = time.monotonic()
            netns.run_in_client(wire, ["sh", "-c", send.format(wire.service)])
            took_s.append(time.monotonic() - started)
        assert min(took_s) < 10 * max(1.0, watch.slowness()), f"16 MB took {took_s} s"
        assert running.books_agree(server.settled())


@over_veth
@needs_library
def test_netcat_and_curl_are_served() -> None:
    text = b"".join(b"line %d of a conversation\n" % i for i in range(2000))

    def ask(wire: netns.Wire, tcp_port: int, say: bytes) -> bytes:
        command = netns.client_argv(wire, ["nc", "-N", "-w", "5", wire.service, str(tcp_port)])
        done = subprocess.run(command, input=say, capture_output=True, timeout=60, check=True)
        return done.stdout

    with netns.wire() as wire, server_on(wire, 2):
        assert ask(wire, 7, text) == text
        assert ask(wire, 9, text) == b""
        assert b"UTC" in ask(wire, 13, b"")
        take = f"nc -w 5 {wire.service} 19 < /dev/null | head -c 74000"
        lines = netns.run_in_client(wire, ["sh", "-c", take]).splitlines()
        ring = "".join(map(chr, range(32, 127)))  # RFC 864
        assert len(lines) == 1000
        assert [line for line in lines if line not in ring * 2] == []
        assert len(set(lines)) == len(ring)
        page = netns.run_in_client(wire, ["curl", "-s", f"http://{wire.service}/"])
        assert page == "Hello, shard.\n"
        pinged = netns.run_in_client(wire, ["ping", "-c", "2", "-i", "0.2", wire.service])
        assert " 0% packet loss" in pinged
