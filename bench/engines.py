"""The native engine beside picoTCP: same port, same client, interleaved in one run.

bench/engines.py [--markdown] [--pairs N] [--seconds S] [--quick]: tables; --markdown adds how
it was measured, for bench/README.md. Needs make picotcp and make test (the programs). CPU 0 serves,
CPU 1 is the client.
1. The stack alone: the server's turns in CPU time, client and shard in lockstep on mem:, virtual
   time (bench/native/engine_cost.c), and their instructions (callgrind on rr_server).
2. The whole server on mem:, our own stack as the client.
3. The same on AF_PACKET over veth, Linux's own TCP as the client; as root.
Each figure is the median of the pairs; the ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]
import netns
import running

from shardserver import native_engine

BUILD = ROOT / "build" / "release"
ENGINES = ("native", "picotcp")
CONNECTIONS = (1, 100, 400)
REQUESTS = 6400
CHURNS = 10  # of 400 connections each

Runs = dict[str, list[float]]
Bench = Callable[[str], float]
Place = Callable[[str], AbstractContextManager[tuple[running.Server, str]]]


def pairs_of(number: int, measure: Bench) -> Runs:
    """One figure of each engine after the other, so often."""
    found: Runs = {engine: [] for engine in ENGINES}
    for _ in range(number):
        for engine in ENGINES:
            found[engine].append(measure(engine))
    return found


def row(name: str, found: Runs, inverse: bool = False) -> str:
    """A line of the table: medians, and how many times better native is."""
    native, picotcp = (found[engine] for engine in ENGINES)
    ratios = [b / a if inverse else a / b for a, b in zip(native, picotcp, strict=True)]
    figures = " | ".join(f"{statistics.median(found[engine]):,.0f}" for engine in ENGINES)
    span = f" ({min(ratios):.1f} to {max(ratios):.1f})" if len(ratios) > 1 else ""
    return f"| {name} | {figures} | {statistics.median(ratios):.1f} x{span} |"


def head(what: str) -> None:
    """The table's first two lines."""
    print(f"\n| {what} | native | picoTCP | native is better by |\n|---|---|---|---|", flush=True)


def plural(connections: int) -> str:
    return f"{connections} connection{'s' * (connections > 1)}"


def cost(engine: str, connections: int) -> dict[str, float]:
    """One run of engine_cost."""
    command = ["taskset", "-c", "0", str(BUILD / "engine_cost"), engine, str(connections)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: dict[str, float] = json.loads(done.stdout)
    return document


def costs(connections: int, pairs: int) -> Callable[[str, float], Runs]:
    """Runs of both engines; the answer picks one of their figures, in a unit."""
    runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(pairs):
        for engine in ENGINES:
            runs[engine].append(cost(engine, connections))

    def column(key: str, factor: float) -> Runs:
        return {engine: [factor * run[key] for run in runs[engine]] for engine in ENGINES}

    return column


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


def stack_alone(options: argparse.Namespace) -> None:
    """The first table."""
    head("the server's turns alone")
    for connections in CONNECTIONS:
        column = costs(connections, options.pairs)
        name = f"64-byte request, {plural(connections)}, ns"
        print(row(name, column("request_ns", 1), True), flush=True)
    print(row("connection opened and closed, ns", column("connection_ns", 1), True))
    print(row("bulk echo, 8 connections, ns/KiB", column("bulk_ns_per_byte", 1024), True))
    print(row("memory of an idle connection, bytes", column("idle_bytes", 1), True), flush=True)
    for connections in () if options.quick else CONNECTIONS:
        found = pairs_of(1, partial(instructions, connections))
        print(row(f"instructions per request, {plural(connections)}", found, True), flush=True)


@contextmanager
def on_mem(engine: str) -> Iterator[tuple[running.Server, str]]:
    """A server on the software NIC, and its target for load."""
    device = f"mem:bench{os.getpid()}"
    words = ("--device", device, "--workers", "1", "--cpus", "0", "--engine", engine)
    with running.server(*words) as server:
        yield server, device


@contextmanager
def on_veth(engine: str) -> Iterator[tuple[running.Server, str]]:
    """A server on AF_PACKET at one end of a veth pair; the client's kernel is at the other."""
    with netns.wire(queues=1) as wire:
        words = ["--device", f"packet:{wire.server_if}", "--ip", f"{wire.service}/24"]
        words += ["--workers", "1", "--cpus", "0", "--engine", engine]
        prefix, client = netns.server_argv(wire, []), netns.client_argv(wire, [])
        with running.server(*words, prefix=prefix, client_prefix=client) as server:
            yield server, f"{wire.service}:7"


def load(server: running.Server, target: str, words: Sequence[str]) -> dict[str, float]:
    """One run of the client on CPU 1: its figures, without an error."""
    command = [*server.client_prefix, "taskset", "-c", "1", *running.COMMAND, "load", target]
    done = subprocess.run(
        [*command, "--json", "--processes", "1", *words],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **server.environment},
    )  # fmt: skip
    document = json.loads(done.stdout)
    if "errors" not in document or any(document["errors"].values()):
        raise SystemExit(f"{target}: {document.get('errors', document)}")
    figures = {key: document[key] for key in ("finished", "duration_s")}
    return {**figures, **document["rate"]}


def rate(place: Place, key: str, words: Sequence[str], engine: str) -> float:
    """Of one server and one client."""
    with place(engine) as (server, target):
        return load(server, target, words)[key]


def churn(place: Place, engine: str) -> float:
    """Connections per second: 400 at once open, send 64 bytes, get them back and close."""
    words = ("-c", "400", "--messages", "1", "-d", "30s")
    with place(engine) as (server, target):
        runs = [load(server, target, words) for _ in range(CHURNS)]
    return sum(run["finished"] for run in runs) / sum(run["duration_s"] for run in runs)


def whole_server(place: Place, name: str, options: argparse.Namespace) -> None:
    """The second and the third table."""
    head(name)
    seconds = f"{options.seconds}s"
    for connections in CONNECTIONS:
        words = ("-c", str(connections), "-d", seconds)
        found = pairs_of(options.pairs, partial(rate, place, "messages_per_s", words))
        print(row(f"64-byte requests/s, {plural(connections)}", found), flush=True)
    words = ("-c", "8", "-s", "64k", "-d", seconds)
    found = pairs_of(options.pairs, partial(rate, place, "bytes_per_s", words))
    found = {engine: [each / 1e6 for each in rates] for engine, rates in found.items()}
    print(row("bulk echo, 8 connections, MB/s", found), flush=True)
    found = pairs_of(options.pairs, partial(churn, place))
    print(row("connections/s (open, 64 bytes, close)", found), flush=True)


def first_line(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]


def told(options: argparse.Namespace, version: str) -> str:
    """How it was measured, on what."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cpu = found[1] if found else platform.machine()
    pairs = f"{options.pairs} interleaved pair{'s' * (options.pairs > 1)}"
    return (
        f"`bench/engines.py --markdown` on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} CPUs"
        f" ({cpu}), Linux {platform.release()}, load average {os.getloadavg()[0]:.1f} before the"
        f" run. {version}; {first_line(['gcc', '--version'])}, `-O3` for both, checksums verified"
        " before it; its figures include our filter and egress.\n"
        f"Medians of {pairs}, each with a server of its own; ratios of the pairs, with their"
        " range. The first table is CPU time of the server's turns: one shard and a client stack"
        " in lockstep on `mem:`, requests of 64 bytes in batches of 32 round robin over all"
        " connections; instructions by callgrind. In the others one worker runs on CPU 0 and the"
        f" bundled client in one process on CPU 1, for {options.seconds} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="without callgrind")
    parser.add_argument("--markdown", action="store_true", help="with how it was measured")
    options = parser.parse_args()
    library = native_engine.find("picotcp")
    if not library.version:
        raise SystemExit(f"picoTCP is not built here: make picotcp ({library.why})")
    if not (BUILD / "engine_cost").exists():
        raise SystemExit("build/release/engine_cost is not built: make test")
    if options.markdown:
        print(told(options, library.version))
    stack_alone(options)
    whole_server(on_mem, "one worker on `mem:`, our stack as the client", options)
    why = netns.unavailable()
    if why:
        print(f"\nnot over veth: {why}")
    else:
        whole_server(on_veth, "one worker on `packet:` over veth, Linux as the client", options)


if __name__ == "__main__":
    main()
