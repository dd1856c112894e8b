"""The whole server on the software NIC, through the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import running

SERVER = ("--device", f"mem:t{os.getpid()}")
TARGET = f"mem:t{os.getpid()}"


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_byte_comes_back_and_every_shard_takes_part(workers: int) -> None:
    with running.server(*SERVER, "--workers", str(workers)) as server:
        document = server.load(TARGET, "-c", "100", "-d", "1s")
        assert running.no_errors(document)
        assert document["connections"] == document["finished"] == 100
        assert document["messages"] > 1000
        assert all(shard["rx_frames"] > 0 for shard in document["shards"])
        assert running.books_agree(server.settled())


def test_stats_tell_how_large_bursts_are() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        assert running.no_errors(server.load(TARGET, "-c", "100", "-d", "500ms"))
        stats = server.stats()
        for shard in stats["shards"]:
            batches = {int(least): turns for least, turns in shard["rx"]["batches"].items()}
            frames = shard["rx"]["frames"] + shard["steered"]["in"]
            least = sum(low * turns for low, turns in batches.items())
            most = sum(min(2 * low - 1, 64) * turns for low, turns in batches.items())
            assert least <= frames <= most
            assert 0 < sum(batches.values()) <= shard["counters"]["turns_busy"]
        lines = server.run("stats", "-v", "-n", server.name).stdout.splitlines()
        assert ["frames", "a", "turn", "1", "2-3", "4-7", "8-15", "16-31", "32-63", "64"] in [
            line.split() for line in lines
        ]


def test_the_host_behind_the_card_is_served_beside_the_wire() -> None:
    """mem:NAME* has host rings; their worker has the host's connections, the others the wire's."""
    with running.server("--device", f"{TARGET}*", "--workers", "3") as server:
        wire = server.load(TARGET, "-c", "20", "-d", "1s")
        host = server.load(f"{TARGET}^", "-c", "20", "-d", "1s")
        for document in (wire, host):
            assert running.no_errors(document)
            assert document["connections"] == document["finished"] == 20
        accepted = [shard["counters"]["conns_accepted"] for shard in server.stats()["shards"]]
        assert (sum(accepted[:2]), accepted[2]) == (20, 20)
        assert running.books_agree(server.settled())


def test_a_thousand_connections_at_once() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        document = server.load(TARGET, "-c", "1000", "-d", "2s")
        assert running.no_errors(document)
        assert document["finished"] == 1000


def test_a_thousand_connect_at_once_through_a_backlog_of_forty() -> None:
    with running.server(*SERVER, "--workers", "2", "--backlog-max", "40") as server:
        words = ("-c", "1000", "--messages", "1", "-s", "64", "-d", "40s")
        document = server.load(TARGET, *words, timeout=90)
        assert running.no_errors(document)
        assert document["finished"] == 1000
        stats = server.settled()
        assert stats["total"]["verdicts"]["tcp_backlog_full"] > 0
        assert running.books_agree(stats)


def test_a_connection_that_nobody_takes_times_out() -> None:
    with running.server(*SERVER, "--workers", "1", "--conns-max", "10") as server:
        began_s = time.monotonic()
        document = server.load(TARGET, "-c", "14", "--timeout", "500ms", "-d", "500ms")
        assert (document["connections"], document["errors"]["timeouts"]) == (10, 4)
        assert time.monotonic() - began_s < 10  # a SYN alone is tried for a minute


def test_a_load_finds_the_server_of_its_target() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        words = ("load", "-c", "4", "-d", "200ms", "--json")
        found = json.loads(server.run(*words, TARGET).stdout)
        assert [shard["id"] for shard in found["shards"]] == [0, 1]
        other = json.loads(server.run(*words, f"{TARGET}:9").stdout)
        assert (other["shards"], other["balance"]) == ([], None)


def test_a_killed_load_takes_its_processes_along() -> None:
    quick = ("--workers", "2", "--graceful-timeout", "100ms")  # its connections have no peer then
    with running.server("--device", "mem:orphan", *quick) as server:
        load = server.load_in_background("mem:orphan", "-c", "20", "-d", "600s", "--processes", "2")
        end_s = time.monotonic() + 60
        while server.stats()["total"]["connections"]["accepted"] < 20:
            assert time.monotonic() < end_s
        clients = Path(f"/proc/{load.pid}/task/{load.pid}/children").read_text().split()
        assert len(clients) == 2
        load.kill()
        load.wait(60)
        while any(is_running(pid) for pid in clients):
            assert time.monotonic() < end_s, "a client goes on without its load"
            time.sleep(0.01)


def is_running(pid: str) -> bool:
    """Also not a zombie that nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_ten_thousand_connections_send_a_thousand_bytes_each() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        document = server.load(TARGET, "-c", "10000", "--messages", "1", "-s", "1000", "-d", "40s")
        assert running.no_errors(document)
        assert document["finished"] == 10000
        assert document["bytes"] == 10_000_000


def test_a_bad_wire_loses_no_byte() -> None:
    faults = "drop=5%,reorder=5%,dup=2%,corrupt=0.1%"
    with running.server(*SERVER, "--workers", "2") as server:
        words = ("-c", "50", "--messages", "20", "-s", "4000", "-d", "60s", "--faults", faults)
        document = server.load(TARGET, *words, timeout=90)
        assert running.no_errors(document)
        assert document["bytes"] == 50 * 20 * 4000
        stats = server.settled()
        assert running.books_agree(stats)
        assert stats["total"]["verdicts"]["tcp_bad_checksum"] > 0


def test_large_messages_pass_through_small_buffers() -> None:
    with running.server(*SERVER, "--workers", "2") as server:
        document = server.load(TARGET, "-c", "8", "-s", "300k", "--messages", "10", "-d", "40s")
        assert running.no_errors(document)
        assert document["finished"] == 8


def test_stopping_leaves_nothing_and_a_missing_server_is_one_line() -> None:
    with running.server(*SERVER, "--workers", "1") as server:
        name = server.name
    done = server.run("stats", "-n", name)
    assert done.returncode == 3
    assert done.stderr.startswith(f'error: no server named "{name}" is running')


def test_a_taken_device_and_a_taken_name_are_refused() -> None:
    with running.server(*SERVER, "--workers", "1") as server:
        same = server.run("start", "-D", "-n", server.name, *SERVER)
        assert same.returncode == 1
        assert "is running" in same.stderr
        other = server.run("start", "-D", "-n", f"{server.name}b", *SERVER)
        assert other.returncode in (1, 6)
        assert TARGET in other.stderr


def test_nobody_at_the_target_is_one_line() -> None:
    done = subprocess.run(
        [*running.COMMAND, "load", "mem:nobody-here", "-d", "1s"],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
        check=False,
    )
    assert done.returncode == 3
    assert "no such device" in done.stderr


def test_the_demo_is_exact_and_quick() -> None:
    done = subprocess.run(
        [*running.COMMAND, "demo", "--json", "-d", "1s"],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
        check=False,
    )
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert running.no_errors(document)
    assert len(document["shards"]) >= 2


def of_demo(pid: int) -> list[str]:
    """Command lines of processes that serve or load for the demo of that pid, itself included."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().decode(errors="replace").split("\0")
            if f"demo-{pid}" in words or f"mem:demo-{pid}" in words:
                found.append(" ".join(words))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """As a terminal does it, to the whole group: it sums up what it has, unless it was killed."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(
        [*running.COMMAND, "demo", "-d", "20s"],
        cwd=running.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout
    while "clients" not in demo.stdout.readline():
        assert demo.poll() is None
    assert of_demo(demo.pid)
    time.sleep(1)  # in the middle of the load, not while it connects
    os.killpg(demo.pid, number)
    out, err = demo.communicate(timeout=running.PATIENCE_S)
    if number != signal.SIGKILL:
        assert demo.returncode == 0, err
        assert "100 % byte-exact" in out
    end_s = time.monotonic() + running.PATIENCE_S
    while of_demo(demo.pid):
        assert time.monotonic() < end_s, of_demo(demo.pid)
        time.sleep(0.02)
    if number == signal.SIGKILL:  # its folder goes with the next one's
        assert list(tmp_path.iterdir())
        again = [*running.COMMAND, "demo", "-d", "200ms", "-c", "10"]
        subprocess.run(again, cwd=running.ROOT, env=environment, check=True, capture_output=True)
    assert not list(tmp_path.iterdir())
