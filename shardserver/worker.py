"""The process that runs a shard. Start reading at `main`.

A worker is forked before it is needed: it prepares everything that is the same for all shards,
waits, and is told which shard to take. So a successor is there when a worker dies, and what is
left to do is to adopt the arena. Two rules order the steps: nothing is parsed with a privilege
left, and a successor serves as soon as it can.

Deviation from DESIGN 2.5 (bind the ZeroMQ endpoint, then drop privileges): the orchestrator
made the listening socket, and the worker takes it over by descriptor (ZMQ_USE_FD). That needs
no privilege and passes the seccomp filter, and the endpoint outlives the worker.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import zmq

from shardserver import affinity, privileges, process, protocol
from shardserver.channel import Channel
from shardserver.errors import ProtocolError, ShardserverError
from shardserver.native import Adoption, ShardWord
from shardserver.protocol import (
    Aborted,
    Drained,
    Ready,
    Take,
    ToWorker,
    WorkerOrder,
    WorkerQuery,
    WorkerReport,
)

SLICE_US = 50_000
FIRST_SLICE_US = 200
EXIT_BOOT_FAILED = 3
EXIT_PORT_DEAD = 6
EXIT_ORPHAN = 9


class Core(Protocol):
    """What a worker needs of native.Server; tests bring one of their own."""

    def keep_only(self, shard: int) -> None: ...
    def adopt(self, shard: int) -> Adoption: ...
    def run(self, shard: int, for_us: int) -> None: ...
    def drain(self, shard: int, on: bool) -> None: ...
    def abort_all(self, shard: int) -> int: ...
    def pulse(self, shard: int) -> tuple[int, str]: ...
    def conns_active(self, shard: int) -> int: ...
    def set_state(self, shard: int, state: int) -> None: ...


@dataclass(frozen=True)
class Seat:
    """A shard's place: what its worker needs beyond what all have."""

    shard: int
    cpu: int
    node: int
    memory: Any  # py-libnuma's module, or None
    listener: socket.socket
    endpoint: str


@dataclass(frozen=True)
class Job:
    """All that a worker is given. `close_others` closes what is the orchestrator's."""

    core: Core
    parent: int
    seats: Sequence[Seat]
    numa: str
    identity: privileges.Identity
    confine: Callable[[], None]
    channel: socket.socket
    output: int
    close_others: Callable[[], None]


class Endpoint:
    """The worker's ZeroMQ socket: it answers `control`, and never waits for it."""

    def __init__(self) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 64)
        self._socket.setsockopt(zmq.RCVHWM, 64)
        self._socket.setsockopt(zmq.MAXMSGSIZE, protocol.MESSAGE_MAX)

    def bind(self, listener: socket.socket, endpoint: str) -> None:
        """Takes a listening socket over."""
        self._socket.setsockopt(zmq.USE_FD, listener.detach())
        self._socket.bind(endpoint)

    def answer(self, handle: Callable[[WorkerQuery], WorkerReport]) -> None:
        """Answers what has come; what is not understood is dropped."""
        while True:
            try:
                query = protocol.decode(self._socket.recv(zmq.NOBLOCK), WorkerQuery)
                self._socket.send(protocol.encode(handle(query)), zmq.NOBLOCK)
            except zmq.Again:
                return
            except ProtocolError:
                continue

    def close(self) -> None:
        """Closes the socket and ends the context's threads."""
        self._socket.close()
        self._context.term()


class Worker:
    """A shard that serves."""

    def __init__(self, core: Core, shard: int, channel: Channel) -> None:
        self._core = core
        self._shard = shard
        self._channel = channel
        self._draining = False
        self._told_drained = False

    def loop(self, endpoint: Endpoint, early: Sequence[WorkerOrder] = ()) -> int:
        """Serves until told otherwise; returns the exit code. `early`: came with the seat."""
        orders: Sequence[WorkerOrder] | None = early
        while orders is not None:
            if any(self._carry_out(order) for order in orders):
                return 0
            if self._draining:
                self._tell_when_drained()
            endpoint.answer(self._answer)
            self._core.run(self._shard, SLICE_US)
            orders = self._channel.receive()
        return EXIT_ORPHAN

    def _carry_out(self, order: WorkerOrder) -> bool:
        """True when the worker has to exit."""
        if order.action == "drain":
            self._drain(True)
        if order.action == "abort":
            self._channel.send(Aborted(self._core.abort_all(self._shard)))
        return order.action in ("abort", "exit")

    def _drain(self, on: bool) -> None:
        self._core.drain(self._shard, on)
        self._core.set_state(self._shard, ShardWord.DRAINING if on else ShardWord.RUNNING)
        self._draining = on
        self._told_drained = False

    def _tell_when_drained(self) -> None:
        if not self._told_drained and self._core.conns_active(self._shard) == 0:
            self._told_drained = self._channel.send(Drained())

    def _answer(self, query: WorkerQuery) -> WorkerReport:
        message = ""
        if query.command in ("drain", "resume"):
            self._drain(query.command == "drain")
        elif query.command == "abort":
            message = f"{self._core.abort_all(self._shard)} connections reset"
        elif query.command != "ping":
            message = f"unknown command {query.command}"
        return WorkerReport(
            id=query.id,
            shard=self._shard,
            pid=os.getpid(),
            ok=not message.startswith("unknown"),
            heartbeat=self._core.pulse(self._shard)[0],
            connections=self._core.conns_active(self._shard),
            draining=self._draining,
            message=message,
        )


def _redirect(output: int) -> None:
    """Standard output and error go to the orchestrator, which keeps the last lines."""
    os.set_blocking(output, False)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    faulthandler.enable(file=2)


def _prepare(job: Job) -> tuple[process.Title, list[str]]:
    """What is the same for every shard, privileges first of all."""
    os.setsid()  # where Linux shares CPU time by session, a pinned worker has a share of its own
    _redirect(job.output)
    job.close_others()
    title = process.Title("worker")
    privileges.drop(job.identity)
    process.die_with(job.parent)
    try:
        job.confine()
    except ShardserverError as error:
        return title, [f"not confined: {error.message}"]
    return title, []


def _warm(job: Job) -> None:
    """Touches what a take-over will touch: a forked process pays for each page at its first use."""
    for message in (Take(0), Ready(0, 0, 0, 0, 0, 0.0)):
        protocol.decode(protocol.encode(message), ToWorker | Ready)
    job.core.pulse(0)
    time.monotonic()


def _wait_for_seat(job: Job, channel: Channel) -> tuple[Seat, list[WorkerOrder]] | None:
    """The seat to take, and the orders that came with it; None when there will be none."""
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    while True:
        poller.poll()
        orders = channel.receive()
        if orders is None:
            return None
        for at, order in enumerate(orders):
            if isinstance(order, Take):
                return job.seats[order.shard], orders[at + 1 :]
            if order.action in ("abort", "exit"):
                return None


def _take(job: Job, seat: Seat) -> Adoption:
    """Adopts the shard and serves a first slice, wherever the scheduler has put us."""
    core = job.core
    core.set_state(seat.shard, ShardWord.ADOPTING)
    adoption = core.adopt(seat.shard)
    core.run(seat.shard, FIRST_SLICE_US)
    core.set_state(seat.shard, ShardWord.RUNNING)
    return adoption


def _settle(job: Job, seat: Seat, endpoint: Endpoint, title: process.Title) -> None:
    """What could wait until the shard serves."""
    for warning in (
        affinity.pin(seat.cpu),
        affinity.bind_memory(seat.memory, seat.node, job.numa),
    ):
        if warning:
            sys.stderr.write(f"{warning}\n")
    job.core.keep_only(seat.shard)
    endpoint.bind(seat.listener, seat.endpoint)
    for other in job.seats:
        if other is not seat:
            other.listener.close()
    title.set(f"shard-{seat.shard}")


def _serve(
    job: Job, channel: Channel, endpoint: Endpoint, title: process.Title, warnings: list[str]
) -> int:
    told = _wait_for_seat(job, channel)
    if told is None:
        return 0
    seat, orders = told
    try:
        adoption = _take(job, seat)
    except (ShardserverError, OSError) as error:
        sys.stderr.write(f"shard {seat.shard} cannot start: {error}\n")
        return EXIT_BOOT_FAILED
    channel.send(Ready(**vars(adoption), at_s=time.monotonic(), warnings=warnings))
    _settle(job, seat, endpoint, title)
    try:
        return Worker(job.core, seat.shard, channel).loop(endpoint, orders)
    except ShardserverError as error:
        sys.stderr.write(f"shard {seat.shard}: {error}\n")
        return EXIT_PORT_DEAD


def main(job: Job) -> int:
    """A worker from its fork to its end; returns the process's exit code."""
    title, warnings = _prepare(job)
    endpoint = Endpoint()
    _warm(job)
    try:
        return _serve(job, Channel(job.channel, ToWorker), endpoint, title, warnings)
    finally:
        endpoint.close()


def preload() -> None:
    """In the orchestrator, before the first fork: a successor imports nothing and copies little.

    ZeroMQ is imported by this module, and not more: no context before the fork.
    """
    gc.collect()
    gc.freeze()
