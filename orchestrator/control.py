"""`control`: the process that speaks ZeroMQ for the server. Start reading at `Control.loop`.

ROUTER answers clients, PUB carries events and a snapshot a second, one DEALER per worker asks it
how it is. It may be killed at any time: its listening sockets are the orchestrator's, and the
next `control` takes them over (ZMQ_USE_FD). No packet waits for it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq

from orchestrator import commands
from orchestrator.telemetry import InstanceInfo
from shardserver import logs, native, native_conns, process, protocol
from shardserver.channel import Channel
from shardserver.errors import ProtocolError
from shardserver.protocol import FromOrchestrator, Notice, ShardTable, WorkerQuery, WorkerReport

TICK_S = 1.0
_HIGH_WATER = 1000
_BURST = 64  # requests answered before the other sockets have their turn


@dataclass(frozen=True)
class Job:
    """All that `control` is given."""

    instance: InstanceInfo
    read_stats: Callable[[int], native.ShardStats]
    read_conns: Callable[[int, int], native_conns.Part]
    router: socket.socket
    router_endpoint: str
    publisher: socket.socket
    publisher_endpoint: str
    worker_endpoints: Sequence[str]
    channel: socket.socket
    close_others: Callable[[], None]


class Control:
    """The sockets and the loop over them."""

    def __init__(self, job: Job) -> None:
        self._context = zmq.Context(io_threads=1)
        self._router = self._bound(zmq.ROUTER, job.router, job.router_endpoint)
        self._publisher = self._bound(zmq.PUB, job.publisher, job.publisher_endpoint)
        self._workers = [self._connected(endpoint) for endpoint in job.worker_endpoints]
        self._channel = Channel(job.channel, FromOrchestrator)
        self._view = commands.View(
            job.instance, job.read_stats, job.read_conns, self._channel.send, self._ask_worker
        )
        self._known = False
        self._query = 0

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        made.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        made.setsockopt(zmq.MAXMSGSIZE, protocol.MESSAGE_MAX)
        return made

    def _bound(self, kind: int, listener: socket.socket, endpoint: str) -> zmq.Socket[bytes]:
        made = self._socket(kind)
        made.setsockopt(zmq.USE_FD, listener.detach())
        made.bind(endpoint)
        return made

    def _connected(self, endpoint: str) -> zmq.Socket[bytes]:
        made = self._socket(zmq.DEALER)
        made.setsockopt(zmq.SNDHWM, 4)  # a worker that is replaced needs no old questions
        made.connect(endpoint)
        return made

    def loop(self) -> int:
        """Serves until the orchestrator is gone."""
        poller = zmq.Poller()
        for made in (self._router, *self._workers, self._channel.socket):
            poller.register(made, zmq.POLLIN)
        due_s = time.monotonic()
        while True:
            ready = dict(poller.poll(int(max(0.0, due_s - time.monotonic()) * 1000) + 1))
            if self._channel.fileno() in ready and not self._hear_orchestrator():
                return 0
            if self._router in ready and self._known:
                self._answer_clients()
            for worker in self._workers:
                if worker in ready:
                    self._hear_worker(worker)
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + TICK_S
                self._tick()

    def _hear_orchestrator(self) -> bool:
        """False when it is gone."""
        messages = self._channel.receive()
        for message in messages or []:
            match message:
                case ShardTable(shards=shards, stopping=stopping, confirm_by_s=confirm_by_s):
                    self._view.shards = shards
                    self._view.stopping = stopping
                    self._view.confirm_by_s = confirm_by_s
                    self._known = True
                case Notice(event=event):
                    self._publish("event", event)
        return messages is not None

    def _answer_clients(self) -> None:
        for _ in range(_BURST):
            try:
                parts = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) != 2:  # not a DEALER of ours: nothing that we could answer
                continue
            reply = commands.carry_out(self._view, parts[1])
            with contextlib.suppress(zmq.ZMQError):  # the client is gone, or does not read
                self._router.send_multipart([parts[0], protocol.encode(reply)], zmq.NOBLOCK)

    def _hear_worker(self, worker: zmq.Socket[bytes]) -> None:
        while True:
            try:
                report: WorkerReport = protocol.decode(worker.recv(zmq.NOBLOCK), WorkerReport)
            except zmq.Again:
                return
            except ProtocolError as error:
                logs.get().error("a worker's report: %s", error)
                continue
            self._view.reports[report.shard] = (time.monotonic(), report)
            if report.message:
                logs.get().info("shard %d: %s", report.shard, report.message)

    def _ask_worker(self, shard: int, command: str) -> bool:
        self._query += 1
        query = protocol.encode(WorkerQuery(str(self._query), command))
        try:
            self._workers[shard].send(query, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _publish(self, topic: str, message: object) -> None:
        with contextlib.suppress(zmq.Again):
            self._publisher.send_multipart([topic.encode(), protocol.encode(message)], zmq.NOBLOCK)

    def _tick(self) -> None:
        if not self._known:
            return
        for info in self._view.shards:
            if info.pid:
                self._ask_worker(info.id, "ping")
        self._publish("stats", self._view.snapshot())

    def close(self) -> None:
        """Closes the sockets and ends the context's threads."""
        self._context.destroy(linger=0)


def main(job: Job) -> int:
    """Runs `control`; returns the exit code."""
    job.close_others()
    process.die_with(job.instance.pid)
    process.Title("control")
    control = Control(job)
    try:
        return control.loop()
    finally:
        control.close()
