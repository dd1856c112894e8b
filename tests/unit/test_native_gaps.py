"""The table of gaps: what a client wrote is read by time and connection."""

from __future__ import annotations

import pytest

from shardserver import errors
from shardserver.native_gaps import Gap, LoadGaps


def test_a_new_table_is_empty() -> None:
    with LoadGaps(connections=2, slots=3, slot_us=1000) as gaps:
        assert gaps.longest(0, 3000) == [0, 0]
        assert list(gaps.long_ones(1)) == []
        assert gaps.lost() == {}


def test_the_longest_gap_of_each_connection_between_two_times() -> None:
    with LoadGaps(connections=2, slots=4, slot_us=1000) as gaps:
        for slot, connection, length_us in ((0, 0, 900), (1, 0, 400), (2, 0, 500), (2, 1, 70)):
            gaps.handle.longest_us[slot * 2 + connection] = length_us
        assert gaps.longest(0, 3999) == [900, 70]
        assert gaps.longest(1000, 2500) == [500, 70]
        assert gaps.longest(1000, 1999) == [400, 0]
        assert gaps.longest(-5000, 10_000_000) == [900, 70]
        assert list(gaps.long_ones(450)) == [Gap(0, 0, 900), Gap(0, 2000, 500)]


def test_lost_connections_stand_behind_the_last_slot() -> None:
    with LoadGaps(connections=3, slots=2, slot_us=1000) as gaps:
        gaps.handle.longest_us[2 * 3 + 1] = 2
        assert gaps.lost() == {1: 1000}
        assert gaps.longest(0, 5000) == [0, 0, 0]


def test_a_table_of_nothing_is_refused() -> None:
    with pytest.raises(errors.ShardserverError, match="0 connections"):
        LoadGaps(connections=0, slots=2, slot_us=1000)
