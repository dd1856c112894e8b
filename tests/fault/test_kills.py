"""kill -9 of a worker under load is a matter of its own shard: nobody else notices.

`bench/kills.py` measures the same and tells how long everything takes. Here the machine may be
busy with anything, so times are only compared with what the same run shows without a kill.
"""

from __future__ import annotations

import statistics

import killing
import netns
import pytest
import running

from shardserver.native_gaps import LoadGaps

pytestmark = pytest.mark.net  # takes long rather than root

PLAN = killing.Plan(kills=12, connections=100, limit_s=25.0)
GENEROUS_US = 50_000
needs_wire = pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or "")


def others_us(outcome: killing.Outcome, windows: list[killing.Window]) -> list[int]:
    """The longest gap of the shards that were not killed, for each kill."""
    return [
        max(window.longest(shard) for shard in range(killing.WORKERS) if shard != kill.shard)
        for kill, window in zip(outcome.kills, windows, strict=True)
    ]


@pytest.mark.parametrize("kind", ["mem", pytest.param("packet", marks=needs_wire)])
def test_only_the_killed_shard_notices_a_kill(kind: str) -> None:
    with killing.place(kind) as place:
        outcome = killing.run(place, PLAN)
        assert running.books_agree(place.server.settled())
    assert len(outcome.kills) >= killing.WORKERS  # each shard once, however slow the machine is
    assert outcome.load["messages"] > 1000
    assert outcome.load["mismatched_bytes"] == outcome.probes["mismatched_bytes"] == 0
    assert outcome.lost == {}
    assert outcome.load["finished"] == outcome.load["connected"] == PLAN.connections
    assert outcome.stepped_back == []
    for kill in outcome.kills:
        assert kill.answered_us is not None, f"shard {kill.shard} takes no connection any more"
        assert kill.dropped == 0
        assert kill.adopted >= outcome.owners.count(kill.shard)
    assert not any(outcome.probes[how] for how in ("refused", "resets", "timeouts"))
    noticed_us = statistics.median(others_us(outcome, outcome.after))
    unkilled_us = max(others_us(outcome, outcome.without))
    assert noticed_us <= max(GENEROUS_US, 2 * unkilled_us)


def test_a_counter_that_steps_back_is_found() -> None:
    old = {"rx": {"frames": 7, "batch": 2.5}, "connections": {"active": 3, "accepted": 3}}
    new = {"rx": {"frames": 8, "batch": 1.5}, "connections": {"active": 1, "accepted": 2}}
    assert list(killing.descents(old, old, "total")) == []
    assert list(killing.descents(old, new, "total")) == ["total.connections.accepted: 3 -> 2"]


def test_a_gap_belongs_to_the_window_that_it_touched_after_the_kill() -> None:
    with LoadGaps(connections=4, slots=100, slot_us=10) as gaps:
        for connection, ended_us, length_us in (
            (0, 480, 30),  # over before the kill at 500
            (1, 520, 90),  # the kill falls into it
            (2, 900, 390),  # begun in the window, ended long after it
            (3, 900, 290),  # begun after the window
        ):
            gaps.handle.longest_us[ended_us // 10 * 4 + connection] = length_us
        windows = killing.Windows(gaps, window_us=100)
        assert windows.after(500) == [0, 90, 390, 0]
        assert windows.before(500) == [30, 0, 0, 0]
