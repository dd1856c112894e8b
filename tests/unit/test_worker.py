"""What a worker is told: its seat, and orders that come at any moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from orchestrator.link import ControlLink
from shardserver import channel, worker
from shardserver.channel import Channel
from shardserver.protocol import Aborted, FromControl, FromWorker, Take, ToWorker, WorkerOrder


class _Core:
    """Counts the turns that it is asked for."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, _shard: int, _for_us: int) -> None:
        self.runs += 1

    def abort_all(self, _shard: int) -> int:
        return 3


def test_an_order_that_comes_with_the_seat_is_carried_out() -> None:
    ours, theirs = channel.pair()
    orchestrator, own = Channel(ours, FromWorker), Channel(theirs, ToWorker)
    orchestrator.send(Take(1))
    orchestrator.send(WorkerOrder("abort"))
    told = worker._wait_for_seat(cast(Any, SimpleNamespace(seats=["first", "second"])), own)
    assert told == ("second", [WorkerOrder("abort")])
    core = _Core()
    made = worker.Worker(cast(Any, core), 1, own)
    assert made.loop(cast(Any, SimpleNamespace(answer=lambda _: None)), told[1]) == 0
    assert core.runs == 0
    assert orchestrator.receive() == [Aborted(3)]
    orchestrator.close()
    own.close()


def test_silence_is_not_the_end_of_control() -> None:
    ours, theirs = channel.pair()
    link = ControlLink(lambda _: 0)
    link.channel = Channel(ours, FromControl)
    assert link.receive() == []
    theirs.close()
    assert link.receive() is None
    link.channel.close()
