"""What the orchestrator tells: log lines, events for subscribers, the table for `control`."""

from __future__ import annotations

import logging
import time
from typing import Any

from orchestrator.lifecycle import State
from orchestrator.link import ControlLink
from orchestrator.shards import Shard
from shardserver import logs
from shardserver.protocol import Event, Notice, Ready, ShardTable


class Announcer:
    """Tells everybody; waits for nobody."""

    def __init__(self, link: ControlLink, shards: list[Shard]) -> None:
        self._link = link
        self._shards = shards
        self.stopping = False
        self.confirm_by_s = 0.0  # of the monotonic clock; 0 when no confirmation is awaited

    def table(self) -> None:
        """The shards as they are now, to `control`."""
        infos = [shard.info() for shard in self._shards]
        self._link.send(ShardTable(infos, self.stopping, self.confirm_by_s))

    def event(self, level: int, name: str, text: str, shard: int = -1, **fields: Any) -> None:
        """A log line and an event of the same name."""
        extra = {"shard": shard, **fields} if shard >= 0 else fields
        logs.event(level, name, text, **extra)
        self._link.send(Notice(Event(name, time.time(), shard, fields)))

    def output(self, shard: Shard, lines: list[str]) -> None:
        """What a worker wrote."""
        for line in lines:
            logs.event(
                logging.WARNING, "worker_output", f"shard {shard.id}: {line}", shard=shard.id
            )

    def death(self, shard: Shard) -> None:
        """A worker has ended and the shard's life has moved on."""
        state = shard.life.state
        pid = shard.info().pid
        then = {
            State.STARTING: f"worker {pid} takes over",
            State.DRAINING: f"worker {pid} drains on",
            State.BACKOFF: f"next try in {shard.life.backoff_s:.1f} s",
            State.FATAL: "it stays down",
        }.get(state, "stopped")
        level = logging.ERROR if state is State.FATAL else logging.WARNING
        self.event(
            logging.INFO if state is State.STOPPED else level,
            "worker_stopped" if state is State.STOPPED else "worker_died",
            f"shard {shard.id}: {shard.reason}; {then}",
            shard.id,
            reason=shard.reason,
            state=str(state),
            restarts=shard.life.restarts,
        )

    def serves(self, shard: Shard, pid: int, ready: Ready) -> None:
        """A worker serves."""
        for warning in ready.warnings:
            self.event(logging.WARNING, "worker_warning", f"shard {shard.id}: {warning}", shard.id)
        if ready.generation <= 1:
            return
        gap_ms = (ready.at_s - shard.died_s) * 1000
        self.event(
            logging.INFO,
            "worker_adopted",
            f"shard {shard.id}: worker {pid} serves after {gap_ms:.1f} ms, "
            f"{ready.adopted} connections adopted, {ready.dropped} dropped",
            shard.id,
            adopted=ready.adopted,
            dropped=ready.dropped,
            gap_ms=round(gap_ms, 2),
            adoption_ms=round(ready.took_us / 1000, 2),
        )
