"""Each way to the wire beside packet: requests and bytes per second of Linux clients, in one run.

bench/wires.py [--rounds N] [--seconds S] [--workers N]. As root. The server's workers share the
machine with one client process; packet and pcap are on a veth pair, tap is the client's own
interface, vde a switch with a TAP. Rounds are interleaved, the table shows their medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import kernel_clients
import netns
import running
import test_vde_netns

REQUESTS = ("-c", "50", "-s", "64")
BULK = ("-c", "8", "-s", "100000")


@contextmanager
def opened(backend: str, workers: int) -> Iterator[str]:
    """A server on the backend; the prefix of its clients and its target, as one command line."""
    with ExitStack() as stack:
        if backend == "tap":
            wire = stack.enter_context(netns.lone("tap0"))
            stack.enter_context(kernel_clients.server_on(wire, "tap:tap0", workers))
            netns.host_side(wire)
        elif backend == "vde":
            wire, path = stack.enter_context(test_vde_netns.switch())
            stack.enter_context(kernel_clients.server_on(wire, f"vde:{path}", workers))
        else:
            wire = stack.enter_context(netns.wire())
            device = f"{backend}:{wire.server_if}"
            stack.enter_context(kernel_clients.server_on(wire, device, workers))
        yield wire.client_ns


def load(namespace: str, words: tuple[str, ...], seconds: int) -> dict[str, float]:
    command = ["ip", "netns", "exec", namespace, *running.COMMAND, "load"]
    command += [f"{netns.SERVICE}:7", *words, "-d", f"{seconds}s", "--processes", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    document = json.loads(done.stdout)
    if any(document["errors"].values()):
        raise SystemExit(f"{document['errors']}")
    rate: float = document["rate"]["messages_per_s"]
    return {"rate": rate, "p50": document["latency_us"]["p50"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", default="packet,tap,pcap,vde")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    backends = options.backends.split(",")
    seen: dict[str, list[tuple[float, float, float]]] = {backend: [] for backend in backends}
    for _ in range(options.rounds):
        for backend in backends:
            with opened(backend, options.workers) as namespace:
                small = load(namespace, REQUESTS, options.seconds)
                bulk = load(namespace, BULK, options.seconds)
            row = (small["rate"], small["p50"], bulk["rate"] * 100_000 / 1e6)
            seen[backend].append(row)
    base = [statistics.median(column) for column in zip(*seen[backends[0]], strict=True)]
    for backend in backends:
        rate, p50, megabytes = (
            statistics.median(column) for column in zip(*seen[backend], strict=True)
        )
        print(
            f"{backend:7} {rate:9.0f} requests/s ({rate / base[0]:.2f})  p50 {p50:7.1f} us  "
            f"{megabytes:7.1f} MB/s ({megabytes / base[2]:.2f})"
        )


if __name__ == "__main__":
    main()
