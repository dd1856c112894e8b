"""Requests per second of 64-byte echo, interleaved with the kernel's own echo on the same wire.

bench/rr.py [--connections N] [--pairs N] [--seconds S] [--backends packet,xdp]. As root. All
servers run on CPU 0 behind the same veth pair (offloads at their defaults), the client on CPU 1,
one run after the other; each ratio is the median over the rounds. mem: is shown beside it, with our
own stack as client.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import netns
import running

EPOLL = ROOT / "build" / "release" / "epoll_echo"
KERNEL_IP = "10.77.0.3"


def pinned(cpu: int, argv: list[str]) -> list[str]:
    return ["taskset", "-c", str(cpu), *argv]


def load(prefix: list[str], target: str, options: argparse.Namespace) -> dict[str, float]:
    """One run of the client on CPU 1: rate and latency."""
    command = [*prefix, *pinned(1, [*running.COMMAND, "load", target, "--json"])]
    command += ["-c", str(options.connections), "-d", f"{options.seconds}s", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    document = json.loads(done.stdout)
    if any(document["errors"].values()):
        raise SystemExit(f"{target}: {document['errors']}")
    return {"rate": document["rate"]["messages_per_s"], **document["latency_us"]}


@contextmanager
def kernel_echo(wire: netns.Wire) -> Iterator[str]:
    """The C epoll server on the kernel's own address of the same interface."""
    address = f"{KERNEL_IP}/24"
    netns.run_in_server(wire, ["ip", "addr", "replace", address, "dev", wire.server_if])
    command = netns.server_argv(wire, pinned(0, [str(EPOLL), KERNEL_IP, "7"]))
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    try:
        yield f"{KERNEL_IP}:7"
    finally:
        process.kill()
        process.wait()
        netns.run_in_server(wire, ["ip", "addr", "flush", "dev", wire.server_if])


@contextmanager
def ring_echo(wire: netns.Wire, backend: str) -> Iterator[str]:
    """One worker on CPU 0. `backend` may carry a mode: xdp:generic."""
    name, _, mode = backend.partition(":")
    device = ":".join(part for part in (name, wire.server_if, mode) if part)
    words = ["--device", device, "--workers", "1", "--cpus", "0"]
    words += ["--ip", f"{wire.service}/24"]
    with running.server(*words, prefix=netns.server_argv(wire, [])):
        yield f"{wire.service}:7"


def on_veth(options: argparse.Namespace) -> None:
    ratios: dict[str, list[float]] = {backend: [] for backend in options.backends.split(",")}
    with netns.wire(queues=1) as wire:
        setting = "sysctl -qw net.ipv4.tcp_congestion_control"
        netns.run_in_client(wire, ["sh", "-c", f"{setting}=cubic || {setting}=reno"])
        for number in range(options.pairs):
            one_round(number, wire, options, ratios)
    for backend, found in ratios.items():
        print(
            f"veth, {options.connections} connections, {backend}/epoll:"
            f" median {statistics.median(found):.3f}"
            f" ({min(found):.3f} to {max(found):.3f}, {len(found)} rounds)"
        )


def one_round(
    number: int, wire: netns.Wire, options: argparse.Namespace, ratios: dict[str, list[float]]
) -> None:
    """The kernel's echo, then ours on each backend."""
    with kernel_echo(wire) as target:
        theirs = load(netns.client_argv(wire, []), target, options)
    show(number, "epoll", theirs, 1.0)
    for backend, found in ratios.items():
        with ring_echo(wire, backend) as target:
            ours = load(netns.client_argv(wire, []), target, options)
        found.append(ours["rate"] / theirs["rate"])
        show(number, backend, ours, found[-1])


def show(number: int, name: str, result: dict[str, float], ratio: float) -> None:
    print(
        f"round {number}: {name:12} {result['rate']:9.0f}/s  p50 {result['p50']:7.1f} us"
        f"  p99 {result['p99']:7.1f}  ratio {ratio:.3f}",
        flush=True,
    )


def on_mem(options: argparse.Namespace) -> None:
    name = f"mem:bench{os.getpid()}"
    with running.server("--device", name, "--workers", "1", "--cpus", "0") as _:
        time.sleep(0.2)
        ours = load([], name, options)
    print(f"mem, {options.connections} connections: {ours['rate']:.0f}/s p50 {ours['p50']:.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--connections", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--backends", default="packet,xdp")
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    on_mem(options)
    on_veth(options)


if __name__ == "__main__":
    main()
