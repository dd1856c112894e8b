"""Linux shares CPU time by session: each worker has its own, so that none starves beside others."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import running


def session_of(pid: int) -> int:
    """By procfs, as getsid asks only for what one may signal."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])


def test_each_worker_leads_a_session_and_so_does_its_successor() -> None:
    with running.server("--device", f"mem:s{os.getpid()}", "--workers", "2") as server:
        first, second = server.pids()
        assert session_of(first) == first
        assert session_of(second) == second
        os.kill(first, signal.SIGKILL)
        end_s = time.monotonic() + running.PATIENCE_S
        while (successor := server.pids()[0]) in (0, first):
            assert time.monotonic() < end_s, "no successor"
        assert session_of(successor) == successor
