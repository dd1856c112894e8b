"""A worker that is stopped is replaced, and a client that is killed leaves its place."""

from __future__ import annotations

import os
import signal
import time

import pytest
import running
from kernel_clients import wait_until_busy

pytestmark = pytest.mark.net  # takes long rather than root

SERVER = ("--device", f"mem:k{os.getpid()}", "--workers", "4")
TARGET = f"mem:k{os.getpid()}"


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
            load = server.load_in_background(TARGET, "-c", "20", "-d", "600s", "--processes", "1")
            wait_until_busy(server, 20)
            kill_tree(load.pid)
            load.communicate(timeout=60)
        assert running.no_errors(server.load(TARGET, "-c", "50", "-d", "1s"))


def kill_tree(pid: int) -> None:
    """Kills a process and its children, all at once as far as one can."""
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path) as file:  # noqa: PTH123 (procfs)
        children = [int(word) for word in file.read().split()]
    for each in (pid, *children):
        os.kill(each, signal.SIGKILL)
