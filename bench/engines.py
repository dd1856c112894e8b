"""The native engine beside picoTCP: same port, same client, interleaved in one run.

bench/engines.py [--pairs N] [--seconds S] [--quick]: Markdown tables. Needs make picotcp.
1. The stack alone: the server's turns in CPU time, client and shard in lockstep on mem:, virtual
   time (bench/native/engine_cost.c), and their instructions (callgrind on rr_server).
2. The whole server on mem:, one worker on CPU 0, the bundled client on CPU 1: messages/s.
Each figure is the median of the pairs; the ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import running  # noqa: E402

BUILD = ROOT / "build" / "release"
LIBRARY = ROOT / "build" / "picotcp" / "libshardserver_picotcp.so"
ENGINES = ("native", "picotcp")
CONNECTIONS = (1, 100, 400)
REQUESTS = 6400


def pairs_of(number: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """One figure of each engine after the other, so often."""
    found: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(number):
        for engine in ENGINES:
            found[engine].append(measure(engine))
    return found


def row(name: str, found: dict[str, list[float]], form: str, inverse: bool) -> str:
    """A line of the table: medians, and how many times better native is."""
    native, picotcp = (found[engine] for engine in ENGINES)
    ratios = [b / a if inverse else a / b for a, b in zip(native, picotcp, strict=True)]
    figures = " | ".join(format(statistics.median(found[engine]), form) for engine in ENGINES)
    span = f"{min(ratios):.1f} to {max(ratios):.1f}"
    return f"| {name} | {figures} | {statistics.median(ratios):.1f} x ({span}) |"


def cost(engine: str, connections: int) -> dict[str, float]:
    """One run of engine_cost."""
    command = ["taskset", "-c", "0", str(BUILD / "engine_cost"), engine, str(connections)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: dict[str, float] = json.loads(done.stdout)
    return document


def instructions(connections: int, engine: str) -> float:
    """Of the server's turns per request; a run whose table was full is done again."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += ["--toggle-collect=bench_server_turn", str(BUILD / "rr_server")]
    command += [str(connections), str(max(REQUESTS, 2 * connections))]
    environment = {**os.environ, "SIM_ENGINE": engine}
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        collected = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode == 0 and collected:
            return int(collected[1]) / int(done.stdout)
    raise SystemExit(f"callgrind fails:\n{done.stderr}")


def load(rate: str, words: Sequence[str], engine: str) -> float:
    """One run of a server of its own and a client."""
    device = f"mem:bench{os.getpid()}"
    command = ["taskset", "-c", "1", *running.COMMAND, "load", device, "--json", *words]
    server = ("--device", device, "--workers", "1", "--cpus", "0", "--engine", engine)
    for _ in range(3):
        with running.server(*server):
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        document = json.loads(done.stdout)
        if not any(document["errors"].values()):
            return float(document["rate"][rate])
    raise SystemExit(f"{engine}: {document['errors']}")


def head(what: str) -> None:
    print(f"| {what} | native | picoTCP | native is better by |\n|---|---|---|---|")


def stack_alone(options: argparse.Namespace) -> None:
    head("the server's turn alone")
    for connections in CONNECTIONS:
        runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
        for _ in range(options.pairs):
            for engine in ENGINES:
                runs[engine].append(cost(engine, connections))

        def column(
            key: str, runs: dict[str, list[dict[str, float]]] = runs
        ) -> dict[str, list[float]]:
            return {engine: [run[key] for run in runs[engine]] for engine in ENGINES}

        name = f"{connections} connection{'s' * (connections > 1)}"
        print(row(f"64-byte request, {name}, ns", column("request_ns"), ".0f", True))
        if connections == CONNECTIONS[-1]:
            print(row("open and close, ns", column("connection_ns"), ".0f", True))
            print(row("bulk echo, ns/KiB", kib(column("bulk_ns_per_byte")), ".0f", True))
            print(row("idle connection, bytes", column("idle_bytes"), ".0f", True))
    if not options.quick:
        for connections in CONNECTIONS:
            found = pairs_of(1, partial(instructions, connections))
            print(row(f"instructions per request, {connections}", found, ".0f", True), flush=True)


def kib(found: dict[str, list[float]]) -> dict[str, list[float]]:
    return {engine: [1024 * value for value in values] for engine, values in found.items()}


def whole_server(options: argparse.Namespace) -> None:
    seconds = f"{options.seconds}s"
    print()
    head("the whole server on mem:")
    for connections in CONNECTIONS:
        words = ("-c", str(connections), "-d", seconds, "--processes", "1")
        found = pairs_of(options.pairs, partial(load, "messages_per_s", words))
        print(row(f"64-byte messages/s, {connections}", found, ".0f", False), flush=True)
    words = ("-c", "8", "-s", "64k", "-d", seconds, "--processes", "1")
    found = pairs_of(options.pairs, partial(load, "bytes_per_s", words))
    print(row("bulk echo, 8 connections, bytes/s", found, ".3g", False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="without callgrind")
    options = parser.parse_args()
    if not LIBRARY.exists():
        raise SystemExit("picoTCP is not built here: make picotcp")
    stack_alone(options)
    whole_server(options)


if __name__ == "__main__":
    main()
