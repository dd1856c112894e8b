"""Requests per second of 64-byte echo, interleaved with the kernel's own echo on the same wire.

bench/rr.py [--connections N] [--pairs N] [--seconds S]. As root. Both servers run on CPU 0 behind
the same veth pair (offloads at their defaults), the client on CPU 1, one run after the other in
pairs; the ratio is the median of the pairs. mem: is shown beside it, with our own stack as client.
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
import netns  # noqa: E402
import running  # noqa: E402

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
def packet_echo(wire: netns.Wire) -> Iterator[str]:
    """One worker on CPU 0."""
    words = ["--device", f"packet:{wire.server_if}", "--workers", "1", "--cpus", "0"]
    words += ["--ip", f"{wire.service}/24"]
    with running.server(*words, prefix=netns.server_argv(wire, [])):
        yield f"{wire.service}:7"


def on_veth(options: argparse.Namespace) -> None:
    ratios = []
    with netns.wire(queues=1) as wire:
        netns.run_in_client(wire, ["sysctl", "-qw", "net.ipv4.tcp_congestion_control=cubic"])
        for pair in range(options.pairs):
            with kernel_echo(wire) as target:
                theirs = load(netns.client_argv(wire, []), target, options)
            with packet_echo(wire) as target:
                ours = load(netns.client_argv(wire, []), target, options)
            ratios.append(ours["rate"] / theirs["rate"])
            print(
                f"pair {pair}: packet {ours['rate']:9.0f}/s p50 {ours['p50']:7.1f} us p99"
                f" {ours['p99']:7.1f}   epoll {theirs['rate']:9.0f}/s p50 {theirs['p50']:7.1f}"
                f" p99 {theirs['p99']:7.1f}   ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(
        f"veth, {options.connections} connections, packet/epoll:"
        f" median {statistics.median(ratios):.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} pairs)"
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
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    on_mem(options)
    on_veth(options)


if __name__ == "__main__":
    main()
