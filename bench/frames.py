"""What frames cost: our ports beside raw loops of the same system calls, and gen | sink.

bench/frames.py [raw] [tools] [soft] [--rounds N] [--xdp-bench PATH]. As root, in namespaces of its
own, after `cmake --build build/release`. Pairs are interleaved; the tables show medians, and ratios
are medians of each round's ratio. CPU seconds are of the process itself, its kernel side included.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "release"
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import netns
import running

NOBODY = "02:00:00:00:00:99"
SECONDS = 1.0
LEAD = 0.3  # the receiver is there before its source, and longer
PARTS = ("raw", "tools", "soft")


@dataclass(frozen=True)
class Figure:
    """Of one program in one run."""

    frames: float
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.frames / self.seconds

    @property
    def per_cpu(self) -> float:
        """Frames for each second of CPU time."""
        return self.frames / self.cpu if self.cpu > 0 else float("nan")


def start(namespace: str, argv: list[str]) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", namespace, *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def ready(program: subprocess.Popen[str]) -> None:
    assert program.stdout
    if program.stdout.readline().strip() != "ready":
        program.communicate()
        raise SystemExit("a measured program did not start: is build/release built, are you root?")


def figure(program: subprocess.Popen[str]) -> Figure:
    out, _ = program.communicate(timeout=30)
    frames, seconds, cpu, _ = out.split()[-4:]
    return Figure(float(frames), float(seconds), float(cpu))


@dataclass(frozen=True)
class Pair:
    """Our port and the raw loop, on one wire; `source`: who sends, for those that receive."""

    name: str
    ours: tuple[str, ...]
    raw: tuple[str, ...]
    source: str | None


def run_one(wire: netns.Wire, words: tuple[str, ...], source: str | None) -> Figure:
    program, direction, target, *mac = words
    seconds = SECONDS if source is None else SECONDS + LEAD
    argv = [str(BUILD / program), direction, target, str(seconds), "0", *mac]
    measured = start(wire.server_ns, argv)
    ready(measured)
    if source is None:
        return figure(measured)
    mac_of = NOBODY if source == "tap0" else address(wire.server_ns, wire.server_if)
    side = wire.server_ns if source == "tap0" else wire.client_ns
    sender = start(side, [str(BUILD / "raw_packet"), "tx", source, str(SECONDS), "1", mac_of])
    ready(sender)
    figure(sender)
    return figure(measured)


def address(namespace: str, interface: str) -> str:
    return netns._run(
        ["ip", "netns", "exec", namespace, "cat", f"/sys/class/net/{interface}/address"]
    ).stdout.strip()


def pairs(wire: netns.Wire) -> list[Pair]:
    """All that has a raw loop."""
    mac = address(wire.client_ns, wire.client_if)
    dev = wire.server_if
    client = wire.client_if

    def rx(name: str, spec: str, raw: str, source: str) -> Pair:
        target = spec.split(":", 1)[1]
        how = "copy" if "copies" in name else "rx"
        return Pair(name, ("port_loop", "rx", spec), (raw, how, target), source)

    def tx(name: str, spec: str, raw: tuple[str, ...], mac: str) -> Pair:
        return Pair(name, ("port_loop", "tx", spec, mac), raw, None)

    return [
        rx("packet in (raw looks)", f"packet:{dev}", "raw_packet", client),
        rx("packet in (raw copies)", f"packet:{dev}", "raw_packet", client),
        tx("packet out", f"packet:{dev}", ("raw_packet", "tx", dev, mac), mac),
        rx("xdp in", f"xdp:{dev}", "raw_xdp", client),
        tx("xdp out", f"xdp:{dev}", ("raw_xdp", "tx", dev, mac), mac),
        rx("xdp:generic in", f"xdp:{dev}:generic", "raw_xdp", client),
        rx("tap in", "tap:tap0", "raw_tap", "tap0"),
        tx("tap out", "tap:tap0", ("raw_tap", "tx", "tap0"), NOBODY),
    ]


def measure_raw(rounds: int, xdp_bench: str | None) -> None:
    seen: dict[str, list[tuple[Figure, Figure]]] = {}
    with netns.wire(queues=1) as wire:
        for _ in range(rounds):
            for pair in pairs(wire):
                ours = run_one(wire, pair.ours, pair.source)
                raw = run_one(wire, pair.raw, pair.source)
                seen.setdefault(pair.name, []).append((ours, raw))
        dropped = [drop(wire, xdp_bench) for _ in range(rounds)] if xdp_bench else []
    print("| 60 bytes, one ring | ours, frames/s | raw loop | ours, ns of CPU | raw | ours / raw |")
    print("|---|---|---|---|---|---|")
    for name, rows in seen.items():
        rate = [statistics.median(row[i].rate for row in rows) for i in (0, 1)]
        cost = [statistics.median(1e9 / row[i].per_cpu for row in rows) for i in (0, 1)]
        ratio = statistics.median(row[0].per_cpu / row[1].per_cpu for row in rows)
        print(
            f"| {name} | {rate[0]:,.0f} | {rate[1]:,.0f} | {cost[0]:.0f} | {cost[1]:.0f} "
            f"| {ratio:.2f} |"
        )
    if dropped:
        rate, cost = (statistics.median(column) for column in zip(*dropped, strict=True))
        print(f"xdp-bench drop (in the driver, no socket): {rate:,.0f} frames/s, the sender pays "
              f"{cost:.0f} ns of CPU for each frame")  # fmt: skip


def drop(wire: netns.Wire, path: str) -> tuple[float, float]:
    """Frames a second that xdp-bench saw, and CPU time of the sender, in whose turn they fall."""
    bench = start(wire.server_ns, [path, "drop", wire.server_if, "-i", "1"])
    time.sleep(LEAD)
    mac = address(wire.server_ns, wire.server_if)
    argv = [str(BUILD / "raw_packet"), "tx", wire.client_if, str(SECONDS), "1", mac]
    sender = start(wire.client_ns, argv)
    ready(sender)
    sent = figure(sender)
    bench.send_signal(signal.SIGINT)
    out, _ = bench.communicate(timeout=30)
    found = re.search(r"Packets received\s*:\s*([\d,]+)", out)
    if not found:
        raise SystemExit(f"{path} says nothing: {out}")
    return float(found.group(1).replace(",", "")) / sent.seconds, 1e9 / sent.per_cpu


class Tool:
    """A tool of ours in a process of its own; its CPU time from the first line on."""

    def __init__(self, namespace: str | None, *words: str) -> None:
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        self._process = subprocess.Popen(
            [*prefix, *running.COMMAND, "tools", *words], cwd=ROOT, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise SystemExit(f"tools {' '.join(words)}: did not start")
        self._cpu = self._used()

    def _used(self) -> float:
        """Of the process and its feeder."""
        pid = self._process.pid
        path = Path(f"/proc/{pid}/task")
        children = [path / str(pid) / "children"]
        pids = [str(pid), *" ".join(file.read_text() for file in children).split()]
        ticks = os.sysconf("SC_CLK_TCK")
        fields = [Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split() for each in pids]
        return sum(int(field[11]) + int(field[12]) for field in fields) / ticks

    def spent(self) -> float:
        return self._used() - self._cpu

    def end(self) -> str:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        return self._process.communicate(timeout=30)[0]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def total(text: str, word: str) -> tuple[float, float]:
    found = re.search(rf"{word} (\d+) frames, \d+ bytes in ([\d.]+) s", text)
    if not found:
        raise SystemExit(f"no summary in: {text}")
    return float(found.group(1)), float(found.group(2))


def gen_and_sink(
    gen: tuple[str | None, str], sink: tuple[str | None, str], more: list[str]
) -> tuple[Figure, Figure]:
    """Both for as long; each with its own CPU time."""
    receiver = Tool(sink[0], "sink", sink[1], "7000", "--rings", "1")
    try:
        sender = Tool(gen[0], "gen", gen[1], "--dst", "10.9.0.2:7000", "--rings", "1", *more)
        time.sleep(SECONDS)
        sent_cpu, got_cpu = sender.spent(), receiver.spent()
        sent = Figure(*total(sender.end(), "sent"), sent_cpu)
        got_frames, _ = total(receiver.end(), "received")
    finally:
        receiver.kill()
    return sent, Figure(got_frames, sent.seconds, got_cpu)


@contextmanager
def opened(backend: str, round_number: int) -> Iterator[list[tuple[str | None, str]]]:
    """Where gen and sink run, and on what; extra words for gen come third."""
    name = f"f{os.getpid()}-{round_number}"
    with ExitStack() as stack:
        if backend in ("packet", "xdp", "pcap"):
            wire = stack.enter_context(netns.wire(queues=1))
            mac = address(wire.server_ns, wire.server_if)
            yield [
                (wire.client_ns, f"{backend}:{wire.client_if}"),
                (wire.server_ns, f"{backend}:{wire.server_if}"),
                (None, mac),
            ]
        elif backend == "vde":
            import test_vde_netns

            wire, path = stack.enter_context(test_vde_netns.switch())
            yield [(wire.server_ns, f"vde:{path}"), (wire.server_ns, f"vde:{path}")]
        else:
            forms = {"mem": "mem:{0} mem:{0}", "pipe": "mem:{0}{{0 mem:{0}}}0",
                     "vale": "vale:{0}:a vale:{0}:b"}  # fmt: skip
            left, right = forms[backend].format(name).split()
            yield [(None, left), (None, right)]


def measure_tools(rounds: int) -> None:
    seen: dict[str, list[tuple[Figure, Figure]]] = {}
    for round_number in range(rounds):
        for backend in ("mem", "pipe", "vale", "packet", "xdp", "pcap", "vde"):
            with opened(backend, round_number) as (gen, sink, *mac):
                more = ["--dst-mac", mac[0][1]] if mac else []
                seen.setdefault(backend, []).append(gen_and_sink(gen, sink, more))
        seen.setdefault("tap", []).append(tap_both_ways())
    print("| gen to sink | gen, frames/s | per CPU second | sink, frames/s | per CPU second |")
    print("|---|---|---|---|---|")
    for backend, rows in seen.items():
        cells = [
            f"{statistics.median(pick):,.0f}"
            for i in (0, 1)
            for pick in ([row[i].rate for row in rows], [row[i].per_cpu for row in rows])
        ]
        print(f"| {backend} | {' | '.join(cells)} |")


def tap_both_ways() -> tuple[Figure, Figure]:
    """A TAP's other side is the host: it drops what gen sends, and a raw loop feeds the sink."""
    with netns.lone("tap0") as wire:
        gen = Tool(wire.server_ns, "gen", "tap:tap0", "--dst-mac", NOBODY)
        time.sleep(SECONDS)
        cpu = gen.spent()
        sent = Figure(*total(gen.end(), "sent"), cpu)
        sink = Tool(wire.server_ns, "sink", "tap:tap0", "7000")
        try:
            argv = [str(BUILD / "raw_packet"), "tx", "tap0", str(SECONDS), "1", NOBODY]
            source = start(wire.server_ns, argv)
            ready(source)
            fed = figure(source)
            cpu = sink.spent()
            frames, _ = total(sink.end(), "received")
        finally:
            sink.kill()
    return sent, Figure(frames, fed.seconds, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help="raw, tools, soft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--xdp-bench", help="its program, to measure the driver's share with")
    options = parser.parse_args()
    if why := netns.unavailable():
        raise SystemExit(why)
    if "raw" in options.parts:
        measure_raw(options.rounds, options.xdp_bench)
    if "tools" in options.parts:
        measure_tools(options.rounds)
    if "soft" in options.parts:
        subprocess.run([str(BUILD / "soft_rate")], check=True)


if __name__ == "__main__":
    main()
