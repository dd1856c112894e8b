"""Runs a load: client processes over the C engine, their statistics in shared memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import multiprocess

from shardserver import native
from shardserver.errors import ShardserverError
from shardserver.load.options import LoadRequest, shares

PROGRESS_S = 0.5
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "max": 1.0}
START_PATIENCE_S = 60.0
Progress = Callable[[dict[str, int], float], None]  # counters so far, seconds


@dataclass(frozen=True)
class Outcome:
    """Everything a report needs. Latencies in microseconds, times in seconds."""

    request: LoadRequest
    counters: dict[str, int]
    duration_s: float
    latency_us: dict[str, float]
    shards_before: list[dict[str, Any]] = field(default_factory=list)
    shards_after: list[dict[str, Any]] = field(default_factory=list)


def _options(request: LoadRequest, first: int, count: int) -> native.LoadOptions:
    return native.LoadOptions(
        device=request.device,
        ip=request.ip,
        tcp_port=request.tcp_port,
        source_ip=request.source_ip,
        source_n=request.source_n,
        connections=count,
        first_id=first,
        size=request.size,
        pipeline=request.pipeline,
        seed=request.seed,
        duration_us=request.duration_us,
        messages=request.messages,
        timeout_us=request.timeout_us,
        ramp=max(1, request.ramp // request.processes),
        hold=1,
        faults=request.faults,
    )


def _client(
    parent: int, options: native.LoadOptions, stats: native.LoadStats, channel: Any
) -> None:
    native.die_with_parent()
    if os.getppid() != parent:
        return  # killed before that
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.default_int_handler:
            signal.signal(number, signal.SIG_IGN)  # the parent asks us to stop, and counts on
    try:
        native.load_run(options, stats)
        channel.send(None)
    except ShardserverError as error:
        channel.send((type(error), error.message, error.hint))


class _Clients:
    """The processes of one run."""

    def __init__(self, request: LoadRequest) -> None:
        self.request = request
        self.stats: list[native.LoadStats] = []
        self._processes: list[Any] = []
        self._channels: list[Any] = []
        self._done: dict[int, Any] = {}

    def start(self) -> None:
        context = multiprocess.get_context("fork")
        for first, count in shares(self.request.connections, self.request.processes):
            stats = native.LoadStats()
            ours, theirs = context.Pipe(duplex=False)
            options = _options(self.request, first, count)
            arguments = (os.getpid(), options, stats, theirs)
            process = context.Process(target=_client, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.stats.append(stats)
            self._processes.append(process)
            self._channels.append(ours)

    def total(self) -> dict[str, int]:
        sums = dict.fromkeys(native.LoadStats.COUNTERS, 0)
        for stats in self.stats:
            for name, value in stats.read().items():
                sums[name] += value
        return sums

    def poll(self) -> None:
        """Takes the answers of clients that ended; raises the first error."""
        for index, channel in enumerate(self._channels):
            if index in self._done or not channel.poll(0):
                continue
            try:
                self._done[index] = channel.recv()
            except EOFError:
                raise ShardserverError(
                    f"load client {index} died (exit code {self._processes[index].exitcode})"
                ) from None
            if self._done[index] is not None:
                kind, message, hint = self._done[index]
                raise kind(message, hint)

    def running(self) -> bool:
        return len(self._done) < len(self._processes)

    def go(self) -> None:
        for stats in self.stats:
            stats.go()

    def stop(self) -> None:
        for stats in self.stats:
            stats.stop()

    def end(self) -> None:
        for process in self._processes:
            process.join(0.2)
            if process.is_alive():
                process.kill()
                process.join()

    def close(self) -> None:
        self.end()
        for channel in self._channels:
            channel.close()
        for stats in self.stats:
            stats.close()


def _wait_until_connected(clients: _Clients, request: LoadRequest, progress: Progress) -> None:
    """All connections stand, or have failed, before the first message."""
    started = time.monotonic()
    shown = started
    while clients.running() and time.monotonic() < started + START_PATIENCE_S:
        clients.poll()
        now = clients.total()
        failed = now["refused"] + now["timeouts"] + now["resets"]
        if now["connected"] + failed >= request.connections:
            return
        if time.monotonic() - shown >= PROGRESS_S:
            shown = time.monotonic()
            progress(now, shown - started)
        time.sleep(0.005)


def _watch(clients: _Clients, progress: Progress) -> None:
    """Until the last client has ended; an interrupt asks them to end."""
    started = time.monotonic()
    shown = started
    while clients.running():
        try:
            time.sleep(0.01)
            clients.poll()
            if time.monotonic() - shown >= PROGRESS_S:
                shown = time.monotonic()
                progress(clients.total(), shown - started)
        except KeyboardInterrupt:
            clients.stop()


def _outcome(clients: _Clients, before: list[Any], after: list[Any]) -> Outcome:
    with native.LoadStats() as merged:
        for stats in clients.stats:
            merged.merge(stats)
        counters = merged.read()
        latency = {name: merged.quantile_us(q) for name, q in QUANTILES.items()}
    duration = (counters["ended_us"] - counters["started_us"]) / 1e6
    return Outcome(clients.request, counters, max(duration, 0.0), latency, before, after)


def run(
    request: LoadRequest,
    progress: Progress = lambda _total, _seconds: None,
    shards: Callable[[], list[dict[str, Any]]] = list,
) -> Outcome:
    """Runs a load to its end. `shards` tells the server's shards, asked before and after.

    Errors of single connections are counted in the outcome; ShardserverError when a client could
    not run at all.
    """
    clients = _Clients(request)
    before = shards()
    try:
        clients.start()
        _wait_until_connected(clients, request, progress)
        during = shards()
        clients.go()
        _watch(clients, progress)
        after = shards()
        for shard, then in zip(after, during, strict=False):
            shard["connections_during"] = then.get("connections", {}).get("active", 0)
        return _outcome(clients, before, after)
    finally:
        clients.close()
