"""A shard as the orchestrator handles it: its worker's process, channel, output and life.

Effects only, one method each; what they lead to is decided in `lifecycle` and carried out by
`supervisor`.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator import lifecycle, watch
from orchestrator.plan import ShardPlan
from shardserver import channel, process, worker
from shardserver.channel import Channel
from shardserver.protocol import FromWorker, ShardInfo, Take, WorkerOrder

LAST_LINES = 20
_READ_MAX = 65536


class Output:
    """What a worker wrote to standard output and error; keeps its last lines."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.closed = False
        self._partial = ""

    @property
    def last_line(self) -> str:
        """The last line that says something."""
        return next((line for line in reversed(self.last) if line.strip()), "")

    def read(self) -> list[str]:
        """Every line that is there."""
        text = self._partial
        while True:
            try:
                data = os.read(self.fd, _READ_MAX)
            except BlockingIOError:
                break
            if not data:
                self.closed = True
                break
            text += data.decode(errors="replace")
        *lines, self._partial = text.split("\n")
        self.last.extend(lines)
        return lines

    def finish(self) -> list[str]:
        """The rest, when the worker is dead; closes the pipe."""
        lines = self.read()
        if self._partial:
            self.last.append(self._partial)
            lines.append(self._partial)
        os.close(self.fd)
        return lines


@dataclass
class Running:
    """A worker that waits, runs, or has just died and is not buried yet."""

    child: process.Child
    channel: Channel
    output: Output
    served: bool = False
    pulse: watch.Pulse = field(default_factory=watch.Pulse)
    rest: list[str] = field(default_factory=list)


MakeJob = Callable[[socket.socket, int], worker.Job]


def fork_worker(make_job: MakeJob) -> Running:
    """Forks a worker that waits to be told its shard."""
    ours, theirs = channel.pair()
    read_end, write_end = os.pipe()

    def run() -> int:
        ours.close()
        os.close(read_end)
        return worker.main(job)

    try:
        job = make_job(theirs, write_end)
        child = process.fork(run, "worker")
    except BaseException:
        ours.close()
        os.close(read_end)
        raise
    finally:
        theirs.close()
        os.close(write_end)
    return Running(child, Channel(ours, FromWorker), Output(read_end))


def bury(running: Running) -> process.ExitStatus:
    """Reaps a dead worker and closes what led to it; `rest` keeps what it said last."""
    status = running.child.reap()
    running.channel.close()
    running.rest = running.output.finish()
    return status


def close_in_child(running: Running | None) -> None:
    """In a forked process: closes the orchestrator's ends of another worker."""
    if running:
        running.channel.close()
        os.close(running.output.fd)
        os.close(running.child.pidfd)


class Shard:
    """One shard over all of its workers."""

    def __init__(self, plan: ShardPlan) -> None:
        self.plan = plan
        self.life = lifecycle.Life()
        self.running: Running | None = None
        self.due_s = 0.0  # when the boot fails, or the back-off is over
        self.died_s = 0.0
        self.reason = ""

    @property
    def id(self) -> int:
        """Its number."""
        return self.plan.shard

    def take(self, running: Running) -> None:
        """Gives the shard to a waiting worker."""
        self.running = running
        running.channel.send(Take(self.id))

    def order(self, action: str) -> None:
        """Tells the worker something."""
        if self.running:
            self.running.channel.send(WorkerOrder(action))

    def kill(self) -> None:
        """SIGKILL."""
        if self.running:
            self.running.child.kill()

    def bury(self, running: Running) -> process.ExitStatus:
        """Reaps its dead worker."""
        self.running = None
        self.died_s = time.monotonic()
        return bury(running)

    def info(self) -> ShardInfo:
        """The shard for `control`."""
        return ShardInfo(
            id=self.id,
            state=str(self.life.state),
            pid=self.running.child.pid if self.running else 0,
            cpu=self.plan.cpu,
            node=self.plan.node,
            ring=self.plan.ring,
            restarts=self.life.restarts,
            reason=self.reason,
        )
