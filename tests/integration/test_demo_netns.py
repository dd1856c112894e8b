"""`shardserver demo --real`: namespaces of its own, AF_PACKET, Linux's own TCP as the client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import netns
import pytest
import running

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]


def real(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*running.COMMAND, "demo", "--real", *words],
        cwd=running.ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_linux_is_the_client_and_every_shard_takes_part(tmp_path: Path) -> None:
    demo = real(tmp_path, "-d", "1s", "-c", "100", "--json")
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 0, err
    document = json.loads(out)
    assert running.no_errors(document)
    assert document["connections"] == document["finished"] == 100
    assert all(shard["rx_frames"] > 0 for shard in document["shards"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_ended_sums_up_and_leaves_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    demo = real(tmp_path, "-d", "90s", "-c", "50")
    assert demo.stderr
    while " messages" not in demo.stderr.readline():  # in the middle of the load
        assert demo.poll() is None
    os.kill(demo.pid, number)
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 0, err
    assert "100 % byte-exact" in out
    assert not list(tmp_path.iterdir())


def processes_of(folder: Path) -> list[int]:
    """Everybody who was told to keep temporary files there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={folder}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def test_one_that_is_killed_takes_all_of_itself_along(tmp_path: Path) -> None:
    demo = real(tmp_path, "-d", "90s", "-c", "50")
    assert demo.stderr
    while " messages" not in demo.stderr.readline():
        assert demo.poll() is None
    assert len(processes_of(tmp_path)) > 5
    demo.kill()
    demo.communicate(timeout=60)
    end = time.monotonic() + 20
    while (left := processes_of(tmp_path)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
