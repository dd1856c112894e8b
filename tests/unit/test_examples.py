"""Every program under examples/ runs, and shows what its docstring says."""

import os
import subprocess
import sys

import pytest
from serving import ROOT

EXPECTED = {
    "send_one.py": ["received 60 bytes: 'the first frame'", "rx: given back"],
    "sink.py": ["100 datagrams to UDP port 7"],
    "forward.py": ["buffers change places", "100 of them received; buffers astray: 0"],
    "hold.py": [
        "3 frames seen, none given back: head 0, cur 3, tail 3",
        "poll: nothing new",
        "7 frames held by 8 slots",
        "in order: [1, 2, 3, 4, 5, 6, 7]",
        "head cannot go to 6: it moves forward only",
    ],
}


def run(program: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / program), *words],
        capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", sorted(EXPECTED))
def test_it_runs_and_shows_its_point(program: str) -> None:
    shown = run(program)
    for line in EXPECTED[program]:
        assert line in shown


def test_a_busy_sink_counts_the_same() -> None:
    assert "100 datagrams to UDP port 7" in run("sink.py", "--busy")


def test_no_example_is_left_out() -> None:
    programs = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert programs == set(EXPECTED)
    assert all(name in (ROOT / "examples" / "README.md").read_text() for name in programs)
