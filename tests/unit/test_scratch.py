"""Folders for a run: gone with it, or with the next one; never one that is in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from serving import wait_for

from shardserver import scratch

PREFIX = "ss-scratch-"
HOLDER = """
import sys, tempfile, time
from shardserver import scratch
tempfile.tempdir = sys.argv[1]
with scratch.folder("ss-scratch-") as path:
    (path / "file").write_text("x")
    print(path, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_it_is_gone_with_its_context(temporary: Path) -> None:
    with scratch.folder(PREFIX) as path:
        assert path.parent == temporary
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "file").write_text("x")
    assert not names(temporary)


def test_what_a_killed_one_left_goes_with_the_next(temporary: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(temporary)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    left = Path(holder.stdout.readline().strip())
    with scratch.folder(PREFIX):
        assert left.exists(), "its maker lives"
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=60)
    assert (left / "file").exists()
    with scratch.folder(PREFIX):
        assert not left.exists()
    assert not names(temporary)


def test_what_is_not_provably_a_dead_one_s_stays(temporary: Path) -> None:
    (temporary / f"{PREFIX}nolock").mkdir()  # being made, or of another program
    (temporary / f"{PREFIX}file").write_text("x")
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / scratch.OWNER).write_text("")
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    before = names(temporary)
    scratch.remove_leftovers(PREFIX)
    assert names(temporary) == before
    assert (elsewhere / scratch.OWNER).exists()


def test_another_user_s_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = temporary / f"{PREFIX}theirs"
    left.mkdir()
    (left / scratch.OWNER).write_text("")
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    scratch.remove_leftovers(PREFIX)
    assert left.exists()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    scratch.remove_leftovers(PREFIX)
    assert not left.exists()


def test_many_at_once_take_nothing_from_each_other(temporary: Path) -> None:
    lost: list[Path] = []

    def often() -> None:
        for _ in range(100):
            with scratch.folder(PREFIX) as path:
                (path / "file").write_text("x")
                scratch.remove_leftovers(PREFIX)
                if not (path / "file").exists():
                    lost.append(path)

    threads = [threading.Thread(target=often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost
    wait_for(lambda: not names(temporary), "an empty directory")
