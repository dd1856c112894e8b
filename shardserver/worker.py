"""The process that runs a shard. Start reading at `main`.

Its order is by two rules: nothing is parsed with a privilege left, and a successor serves as
soon as it can. So it pins itself, drops its uid, confines itself, adopts the arena and runs a
first slice; its ZeroMQ endpoint follows. That works under the seccomp filter because the
listening socket was made by the orchestrator (ZMQ_USE_FD): nothing has to be bound here.

Deviation from DESIGN 2.5 (bind, then drop privileges): binding by descriptor needs none, keeps
the endpoint alive while a worker is replaced, and takes a millisecond off the gap.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import zmq

from shardserver import affinity, privileges, process, protocol
from shardserver.channel import Channel
from shardserver.errors import ProtocolError, ShardserverError
from shardserver.native import Adoption, ShardWord
from shardserver.protocol import Aborted, Drained, Ready, WorkerOrder, WorkerQuery, WorkerReport

SLICE_US = 50_000
FIRST_SLICE_US = 1_000
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
class Job:
    """All that a worker is given. `close_others` closes what is its siblings' and parent's."""

    core: Core
    shard: int
    cpu: int
    node: int
    numa: str
    memory: Any
    identity: privileges.Identity
    confine: Callable[[], None]
    listener: socket.socket
    endpoint: str
    channel: socket.socket
    output: int
    close_others: Callable[[], None]


class Endpoint:
    """The worker's ZeroMQ socket: it answers `control`, and never waits for it."""

    def __init__(self, listener: socket.socket, endpoint: str) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 64)
        self._socket.setsockopt(zmq.RCVHWM, 64)
        self._socket.setsockopt(zmq.MAXMSGSIZE, protocol.MESSAGE_MAX)
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

    def __init__(self, job: Job, channel: Channel) -> None:
        self._core = job.core
        self._shard = job.shard
        self._channel = channel
        self._draining = False
        self._told_drained = False

    def loop(self, endpoint: Endpoint) -> int:
        """Serves until told otherwise; returns the exit code."""
        while True:
            self._core.run(self._shard, SLICE_US)
            orders = self._channel.receive()
            if orders is None:
                return EXIT_ORPHAN
            for order in orders:
                if self._carry_out(order):
                    return 0
            if self._draining:
                self._tell_when_drained()
            endpoint.answer(self._answer)

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


def _take_place(job: Job) -> list[str]:
    """CPU, memory, privileges: what may go wrong without harm comes back as warnings."""
    warnings = [affinity.pin(job.cpu), affinity.bind_memory(job.memory, job.node, job.numa)]
    privileges.drop(job.identity)
    job.core.keep_only(job.shard)
    try:
        job.confine()
    except ShardserverError as error:
        warnings.append(f"not confined: {error.message}")
    return [warning for warning in warnings if warning]


def _boot(job: Job, channel: Channel) -> None:
    """Up to the first slice."""
    job.core.set_state(job.shard, ShardWord.STARTING)
    warnings = _take_place(job)
    job.core.set_state(job.shard, ShardWord.ADOPTING)
    adoption = job.core.adopt(job.shard)
    job.core.run(job.shard, FIRST_SLICE_US)
    job.core.set_state(job.shard, ShardWord.RUNNING)
    channel.send(
        Ready(
            adopted=adoption.adopted,
            dropped=adoption.dropped,
            undone_lines=adoption.undone_lines,
            generation=adoption.generation,
            took_us=adoption.took_us,
            warnings=warnings,
        )
    )


def _redirect(output: int) -> None:
    """Standard output and error go to the orchestrator, which keeps the last lines."""
    os.set_blocking(output, False)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    faulthandler.enable(file=2)


def main(job: Job) -> int:
    """Runs the shard; returns the process's exit code."""
    _redirect(job.output)
    job.close_others()
    process.set_title(f"shard-{job.shard}")
    channel = Channel(job.channel, WorkerOrder)
    try:
        _boot(job, channel)
    except (ShardserverError, OSError) as error:
        sys.stderr.write(f"shard {job.shard} cannot start: {error}\n")
        return EXIT_BOOT_FAILED
    endpoint = Endpoint(job.listener, job.endpoint)
    try:
        return Worker(job, channel).loop(endpoint)
    except ShardserverError as error:
        sys.stderr.write(f"shard {job.shard}: {error}\n")
        return EXIT_PORT_DEAD
    finally:
        endpoint.close()


def preload() -> None:
    """In the orchestrator, before the first fork: a successor imports nothing and copies little.

    ZeroMQ is imported by this module, and not more: no context before the fork.
    """
    gc.collect()
    gc.freeze()
