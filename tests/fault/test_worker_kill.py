"""Workers die by kill -9 under load: no byte is wrong, no connection is lost."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import running

pytestmark = pytest.mark.net  # takes long rather than root

KILLS = 24
SERVER = ("--device", f"mem:k{os.getpid()}", "--workers", "4")
TARGET = f"mem:k{os.getpid()}"


def kill_and_wait(server: running.Server, shard: int) -> None:
    """Kills a shard's worker and waits until another one runs it."""
    pid = server.pids()[shard]
    os.kill(pid, signal.SIGKILL)
    for _ in range(200):
        now = server.stats()["shards"][shard]
        if now["pid"] != pid and now["state"] == "running":
            return
        time.sleep(0.02)
    raise AssertionError(f"shard {shard} was not taken over")


def test_connections_outlive_their_workers() -> None:
    with running.server(*SERVER) as server:
        load = server.load_in_background(TARGET, "-c", "200", "-d", "14s", "--processes", "1")
        time.sleep(1.5)
        kills = 0
        before = server.stats()["total"]
        while kills < KILLS and load.poll() is None:
            kill_and_wait(server, kills % 4)
            kills += 1
            after = server.stats()["total"]
            assert after["rx"]["frames"] >= before["rx"]["frames"], "stats stepped back"
            before = after
        out, _ = load.communicate(timeout=90)
        document = json.loads(out)
        assert kills >= 4  # each shard once, even where two stats calls take seconds
        assert running.no_errors(document)
        assert document["finished"] == document["connections"] == 200
        total = server.stats()["total"]
        assert total["connections"]["adopted"] > 0
        assert total["connections"]["dropped"] == 0
        assert running.books_agree(server.stats())


def test_a_stopped_worker_is_replaced() -> None:
    with running.server(*SERVER) as server:
        pid = server.pids()[1]
        os.kill(pid, signal.SIGSTOP)
        for _ in range(200):
            if server.pids()[1] != pid:
                break
            time.sleep(0.02)
        assert server.pids()[1] != pid
        assert running.no_errors(server.load(TARGET, "-c", "50", "-d", "1s"))


def test_a_killed_client_frees_its_link() -> None:
    with running.server(*SERVER) as server:
        for _ in range(12):  # more than there are links
            load = server.load_in_background(TARGET, "-c", "20", "-d", "20s", "--processes", "1")
            time.sleep(0.7)
            os.killpg(os.getpgid(load.pid), 0)
            kill_tree(load.pid)
            load.communicate(timeout=20)
        assert running.no_errors(server.load(TARGET, "-c", "50", "-d", "1s"))


def kill_tree(pid: int) -> None:
    """Kills a process and its children, all at once as far as one can."""
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path) as file:  # noqa: PTH123 (procfs)
        children = [int(word) for word in file.read().split()]
    for each in (pid, *children):
        os.kill(each, signal.SIGKILL)
