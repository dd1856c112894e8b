"""Kills workers under load and notes what everybody else sees of it. Start reading at `run`.

The load's connections are begun one by one, so that the server's own counters tell which shard
accepted which; then each one asks and waits, over and over, and the client notes how long each
waited and when. A second client does nothing but connect, so that it shows when a killed shard
takes connections again. Stats are read all the time.

Around each kill there are two windows of the same length: the one after it, and the one just before
it, in which nobody was killed. What is said of kills is compared with what the second kind shows.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import resource
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cffi
import multiprocess
import netns
import running

from shardserver import client, instance, native
from shardserver.errors import ShardserverError
from shardserver.native_gaps import LoadGaps

WORKERS = 4
SLOT_US = 5_000
PATIENCE_S = 30.0
PROBES = 10_000  # at most, over a run
SPARE_FILES = 256
PROBES_AT_ONCE = 16  # so that one of them is likely the shard's: all miss one of four in 1 %
SAMPLE_S = 0.02  # between two looks at stats, when nothing is waited for
BUSY_S = 0.05  # how long a worker may sleep before it is killed so
LOOK_S = 0.001  # the same while something is
GAUGES = {"active", "batch", "ended", "conns_active", "conns_time_wait", "chunks_free"}
PLACES = {"id", "pid", "cpu", "node", "time", "schema"}
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Place:
    """A server that stands, and how clients reach it."""

    server: running.Server
    device: str = ""  # name of a mem: device; "": kernel sockets
    ip: str = "10.77.0.1"
    namespace: str = ""  # of the clients
    tcp_port: int = 7


@contextmanager
def place(kind: str) -> Iterator[Place]:
    """A server with four workers: on a "mem" device, or by "packet" on a veth pair, as root."""
    if kind == "mem":
        name = f"kills{os.getpid()}"
        with running.server("--device", f"mem:{name}", "--workers", str(WORKERS)) as server:
            yield Place(server, device=name)
        return
    with netns.wire(queues=WORKERS) as wire:
        words = ["--device", f"packet:{wire.server_if}", "--workers", str(WORKERS)]
        words += ["--ip", f"{wire.service}/24"]
        with running.server(*words, prefix=netns.server_argv(wire, [])) as server:
            yield Place(server, ip=wire.service, namespace=wire.client_ns)


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    kills: int = 100
    connections: int = 200
    size: int = 64
    pipeline: int = 1
    window_s: float = 0.25
    limit_s: float = 240.0  # no kill begins later, but for the first of each shard
    seed: int = 1


@dataclass
class Kill:
    """One worker's death. Times by CLOCK_MONOTONIC."""

    shard: int
    at_us: int
    unkilled_us: int | None  # what the next line took a moment before, without a kill
    answered_us: int | None = None  # from the kill to a new connection's reply; None: not in time
    adopted: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class Window:
    """What one window of time showed: each connection's longest gap in microseconds, by owner."""

    gaps_us: list[list[int]]

    def longest(self, shard: int) -> int:
        """Of a shard's connections."""
        return max(self.gaps_us[shard], default=0)


@dataclass
class Outcome:
    """Everything that a run has found."""

    kills: list[Kill] = field(default_factory=list)
    after: list[Window] = field(default_factory=list)  # one for each kill
    without: list[Window] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    lost: dict[int, int] = field(default_factory=dict)  # connection -> us since the load began
    load: dict[str, int] = field(default_factory=dict)
    probes: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    stepped_back: list[str] = field(default_factory=list)
    cpu_wait_ns: dict[str, int] = field(default_factory=dict)
    phases: Counter[str] = field(default_factory=Counter)  # what the workers did when they died
    serves_us: list[int] = field(default_factory=list)
    seconds: float = 0.0


def enter_namespace(name: str) -> None:
    """Moves this process into a network namespace; "" stays."""
    if not name:
        return
    ffi = cffi.FFI()
    ffi.cdef("int setns(int fd, int nstype);")
    with Path(f"/run/netns/{name}").open("rb") as namespace:
        if ffi.dlopen(None).setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ffi.errno, f"setns to {name} failed")


def _client(
    namespace: str, options: native.LoadOptions, stats: native.LoadStats, gaps: LoadGaps | None
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    native.die_with_parent()
    enter_namespace(namespace)
    native.load_run(options, stats, gaps and gaps.handle)


class Client:
    """A load client in a process of its own; all of its connections are withheld at first."""

    def __init__(self, place: Place, gaps: LoadGaps | None, **options: Any) -> None:
        self.connections = options["connections"]
        self.stats = native.LoadStats()
        self.stats.withhold(self.connections)
        self.begun = 0
        made = native.LoadOptions(
            device=place.device,
            ip=int(ipaddress.IPv4Address(place.ip)),
            tcp_port=place.tcp_port,
            timeout_us=20_000_000,
            duration_us=3_600_000_000,
            ramp=1024,
            **options,
        )
        context = multiprocess.get_context("fork")
        arguments = (place.namespace, made, self.stats, gaps)
        self._process = context.Process(target=_client, args=arguments, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid

    def connect_one(self) -> None:
        """Lets one more connection begin, as long as there are any."""
        if not self._process.is_alive():
            raise ShardserverError(f"a load client ended with {self._process.exitcode}")
        self.begun = min(self.begun + 1, self.connections)
        self.stats.withhold(self.connections - self.begun)

    def answered(self) -> int:
        """Replies so far."""
        return int(self.stats.read()["messages"])

    def finish(self) -> dict[str, int]:
        """Asks the client to end in order; its counters."""
        self.stats.stop()
        self._process.join(PATIENCE_S)
        if self._process.exitcode != 0:
            raise ShardserverError(f"a load client ended with {self._process.exitcode}")
        return self.stats.read()

    def close(self) -> None:
        """Ends it in any case."""
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.stats.close()


class CpuWaits:
    """How long processes were ready to run and had no CPU, as the scheduler counts it."""

    def __init__(self) -> None:
        self._last_ns: dict[int, int] = {}
        self.total_ns: dict[str, int] = {}

    def look(self, name: str, pid: int) -> None:
        """Adds what passed since the last look at this process."""
        try:
            delay_ns = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
        except (OSError, IndexError):
            return  # killed, or a kernel that does not count
        grown_ns = delay_ns - self._last_ns.get(pid, delay_ns)
        self._last_ns[pid] = delay_ns
        self.total_ns[name] = self.total_ns.get(name, 0) + grown_ns


def descents(old: Any, new: Any, path: str) -> Iterator[str]:
    """Every counter that is smaller than it was."""
    if isinstance(new, Mapping):
        for key, value in new.items():
            if key not in GAUGES | PLACES and key in old:
                yield from descents(old[key], value, f"{path}.{key}" if path else key)
    elif isinstance(new, int | float) and new < old:
        yield f"{path}: {old} -> {new}"


class Stats:
    """The server's statistics as its users see them; notes every step back."""

    def __init__(self, control: client.Client, load_pid: int) -> None:
        self._control = control
        self._load_pid = load_pid
        self.waits = CpuWaits()
        self._last: dict[str, Any] = {}
        self.samples = 0
        self.stepped_back: list[str] = []

    def sample(self) -> list[dict[str, Any]]:
        """The shards now."""
        document: dict[str, Any] = self._control.request("stats")
        if self._last:
            self._compare(self._last, document)
        self._last = document
        self.samples += 1
        self.waits.look("client", self._load_pid)
        for shard in document["shards"]:
            self.waits.look(f"shard {shard['id']}", shard["pid"])
        return list(document["shards"])

    def _compare(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        found = list(descents(old["total"], new["total"], "total"))
        for before, now in zip(old["shards"], new["shards"], strict=True):
            found += descents(before, now, f"shard {now['id']}")
        self.stepped_back += found

    def until(self, due_s: float) -> None:
        """Looks again and again until a time has come."""
        while (left_s := due_s - time.monotonic()) > 0:
            self.sample()
            time.sleep(max(0.0, min(SAMPLE_S, left_s)))


def now_us() -> int:
    """By CLOCK_MONOTONIC."""
    return time.monotonic_ns() // 1000


def wait_until_busy(pid: int) -> None:
    """Until a process is ready to run or runs; not for long: an idle one is killed asleep.

    Who kills at any moment mostly meets workers that sleep, since a turn is over in microseconds.
    """
    end_s = time.monotonic() + BUSY_S
    with Path(f"/proc/{pid}/stat").open("rb", buffering=0) as stat:
        while time.monotonic() < end_s:
            if os.pread(stat.fileno(), 512, 0).rpartition(b")")[2][1:2] == b"R":
                return


def phases_of(log: Path) -> Counter[str]:
    """What each worker did when it was killed, as its orchestrator found it."""
    return Counter(re.findall(r"killed by SIGKILL\) in phase (\w+)", log.read_text()))


def service_gaps_us(log: Path) -> list[int]:
    """From each worker's death to its successor's first turn, as the orchestrator logged it."""
    found = re.findall(r"serves after ([0-9.]+) ms", log.read_text())
    return [round(float(gap_ms) * 1000) for gap_ms in found]


def accepted(shards: list[dict[str, Any]]) -> list[int]:
    """Connections that each shard has accepted so far."""
    return [shard["connections"]["accepted"] for shard in shards]


def _wait_until(what: str, holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end_s:
            raise ShardserverError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(LOOK_S)


def connect_all(load: Client, stats: Stats) -> list[int]:
    """Begins the connections one by one; the shard of each."""
    owners = []
    for _ in range(load.connections):
        before = accepted(stats.sample())
        load.connect_one()
        _wait_until(
            "a connection is accepted",
            lambda before=before: sum(accepted(stats.sample())) > sum(before),
        )
        grown = [now - then for now, then in zip(accepted(stats.sample()), before, strict=True)]
        if sum(grown) != 1:
            raise ShardserverError(f"one connection was begun, the shards accepted {grown}")
        owners.append(grown.index(1))
    return owners


class Windows:
    """What a client's gaps say about a moment: the window after it, and the one before."""

    def __init__(self, gaps: LoadGaps, window_us: int) -> None:
        self._gaps = gaps
        self._window_us = window_us
        self._long_ones = list(gaps.long_ones(window_us // 2))

    def after(self, at_us: int) -> list[int]:
        """Each connection's longest gap.

        One that the moment falls into counts, and so does one that was not over with the window.
        """
        end_us = at_us + self._window_us
        longest_us = self._gaps.longest(at_us, end_us)
        for gap in self._long_ones:
            if gap.ended_us - gap.length_us <= end_us <= gap.ended_us:
                longest_us[gap.connection] = max(longest_us[gap.connection], gap.length_us)
        return longest_us

    def before(self, at_us: int) -> list[int]:
        """Each connection's longest gap of those that were over by then."""
        return self._gaps.longest(at_us - self._window_us, at_us - self._gaps.slot_us)


def _probes_max() -> int:
    """So many as there may be open files, since the client has room for all at once."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return PROBES if files == resource.RLIM_INFINITY else min(PROBES, files - SPARE_FILES)


class Run:
    """A run over a server that stands."""

    def __init__(self, place: Place, plan: Plan) -> None:
        self.plan = plan
        self.outcome = Outcome()
        self._random = random.Random(plan.seed)
        slots = int((plan.limit_s + 2 * PATIENCE_S) * 1_000_000 / SLOT_US)
        self.gaps = LoadGaps(plan.connections, slots, SLOT_US)
        size = {"size": plan.size, "seed": plan.seed}
        self.load = Client(
            place, self.gaps, connections=plan.connections, hold=1, pipeline=plan.pipeline, **size
        )
        self.prober = Client(place, None, connections=_probes_max(), messages=1, **size)
        paths = instance.Paths(Path(place.server.runtime), place.server.name)
        self.control = client.Client(paths)
        self.stats = Stats(self.control, self.load.pid)
        self._accepted = [0] * WORKERS
        self._log = paths.log

    def close(self) -> None:
        """Ends the clients."""
        self.control.close()
        self.load.close()
        self.prober.close()
        self.gaps.close()

    def run(self) -> Outcome:
        """Connects, kills, and takes stock."""
        outcome = self.outcome
        outcome.owners = connect_all(self.load, self.stats)
        self._accepted = accepted(self.stats.sample())
        self.load.stats.go()
        _wait_until("the first reply comes", lambda: self.load.stats.read()["messages"] > 0)
        began_s = time.monotonic()
        self.stats.until(began_s + 4 * self.plan.window_s)
        while len(outcome.kills) < self.plan.kills:
            late = time.monotonic() - began_s > self.plan.limit_s
            if late and len(outcome.kills) >= WORKERS:
                break
            self._kill_one(len(outcome.kills) % WORKERS)
        outcome.seconds = time.monotonic() - began_s
        outcome.load = self.load.finish()
        outcome.probes = self.prober.finish()
        self._take_stock()
        return outcome

    def _running(self, shard: int) -> dict[str, Any]:
        """The shard's statistics, once it runs."""
        end_s = time.monotonic() + PATIENCE_S
        while (found := self.stats.sample()[shard])["state"] != "running":
            if time.monotonic() > end_s:
                raise ShardserverError(f"shard {shard} is {found['state']}, not running")
            time.sleep(LOOK_S)
        return found

    def _kill_one(self, shard: int) -> None:
        window_s = self.plan.window_s
        self._running(shard)
        calm_us = now_us()
        unkilled_us = self._probe(shard, calm_us)
        self.stats.until(calm_us / 1e6 + window_s)
        before = self._running(shard)
        pidfd = os.pidfd_open(before["pid"])
        try:
            wait_until_busy(before["pid"])
            kill = Kill(shard, now_us(), unkilled_us)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], PATIENCE_S)
        finally:
            os.close(pidfd)
        kill.answered_us = self._probe(shard, kill.at_us)
        self.stats.until(kill.at_us / 1e6 + window_s)
        after = self.stats.sample()[shard]
        kill.adopted = after["connections"]["adopted"] - before["connections"]["adopted"]
        kill.dropped = after["connections"]["dropped"] - before["connections"]["dropped"]
        self.outcome.kills.append(kill)
        # The next window without a kill begins when this one's traces are gone.
        self.stats.until(time.monotonic() + window_s * (0.5 + self._random.random() / 2))

    def _probe(self, shard: int, since_us: int) -> int | None:
        """Opens connections until one is the shard's; how long until all of them were answered.

        Only its accepting tells whose a connection is, so they come in groups. A group that misses
        the shard costs the time that it took, and the next one is begun.
        """
        end_s = time.monotonic() + PATIENCE_S
        before = self._accepted
        while time.monotonic() < end_s:
            for _ in range(PROBES_AT_ONCE):
                self.prober.connect_one()
            while self.prober.answered() < self.prober.begun:
                if time.monotonic() > end_s:
                    return None
                time.sleep(LOOK_S)
            answered_us = now_us()
            self._accepted = self._all_accepted(end_s)
            if self._accepted[shard] > before[shard]:
                return answered_us - since_us
        return None

    def _all_accepted(self, end_s: float) -> list[int]:
        """What each shard has accepted, once every connection begun so far is counted."""
        begun = self.load.begun + self.prober.begun
        while sum(counts := accepted(self.stats.sample())) < begun:
            if time.monotonic() > end_s:
                raise ShardserverError(f"{begun} connections were begun, {counts} accepted")
            time.sleep(LOOK_S)
        return counts

    def _take_stock(self) -> None:
        outcome = self.outcome
        outcome.lost = self.gaps.lost()
        outcome.samples = self.stats.samples
        outcome.stepped_back = self.stats.stepped_back
        outcome.phases = phases_of(self._log)
        outcome.serves_us = service_gaps_us(self._log)
        outcome.cpu_wait_ns = self.stats.waits.total_ns
        windows = Windows(self.gaps, int(self.plan.window_s * 1_000_000))
        for kill in outcome.kills:
            at_us = kill.at_us - outcome.load["started_us"]
            outcome.after.append(self._by_owner(windows.after(at_us)))
            outcome.without.append(self._by_owner(windows.before(at_us)))

    def _by_owner(self, gaps_us: list[int]) -> Window:
        rows: list[list[int]] = [[] for _ in range(WORKERS)]
        for owner, gap_us in zip(self.outcome.owners, gaps_us, strict=True):
            rows[owner].append(gap_us)
        return Window(rows)


@contextmanager
def _closing(made: Run) -> Iterator[Run]:
    try:
        yield made
    finally:
        made.close()


def run(place: Place, plan: Plan) -> Outcome:
    """Kills the workers of a running server by turns, as the plan says."""
    with _closing(Run(place, plan)) as made:
        return made.run()
