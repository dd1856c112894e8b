"""Counters → documents: the keys of schema 1, totals, rates apart from counters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import telemetry
from orchestrator.telemetry import InstanceInfo
from shardserver.native import ShardStats
from shardserver.protocol import ShardInfo

INSTANCE = InstanceInfo(
    "default", "0.1.0", 1, "mem:x", "mem", "native", "", "10.77.0.1/16", [], 0.0
)
ISSUE_KEYS = {
    "id", "state", "pid", "cpu", "node", "ring", "restarts", "connections", "rx", "tx", "verdicts",
    "steered", "syscalls", "copied_bytes", "retransmits", "ring_errors",
}  # fmt: skip


def info(shard: int, state: str = "running") -> ShardInfo:
    return ShardInfo(shard, state, 100 + shard, shard, 0, f"mem:x-{shard}", shard)


def stats(frames: int, syncs: int = 1) -> ShardStats:
    return ShardStats(
        verdicts={"tcp_ok": frames, "steered_out": 2, "steer_dropped": 1},
        counters={"conns_active": 3, "conns_accepted": frames, "steered_in": 4, "retransmits": 5},
        rx_frames=frames,
        rx_syncs=syncs,
        tx_frames=frames,
        tx_syncs=syncs,
    )


def snap(frames: list[int], time_s: float = 1.0) -> dict:
    infos = [info(shard) for shard in range(len(frames))]
    return telemetry.snapshot(INSTANCE, infos, [stats(count) for count in frames], time_s)


def test_a_snapshot_has_the_keys_of_the_schema() -> None:
    made = snap([10, 30])
    assert set(made) == {
        "schema", "time", "instance", "device", "backend", "engine", "engine_version", "shards",
        "total",
    }  # fmt: skip
    assert made["schema"] == 1
    shard = made["shards"][1]
    assert set(shard) >= ISSUE_KEYS
    assert set(shard["connections"]) == {
        "active", "accepted", "closed", "reset", "adopted", "dropped",
    }  # fmt: skip
    assert set(shard["rx"]) >= {"frames", "bytes", "batch"}
    assert set(shard["tx"]) >= {"frames", "bytes", "batch"}
    assert shard["steered"] == {"in": 4, "out": 2, "dropped": 1}
    assert set(made["total"]) >= ISSUE_KEYS - {"id", "state", "pid", "cpu", "node", "ring"}


def test_the_total_is_the_sum_and_a_batch_is_a_mean() -> None:
    made = telemetry.snapshot(INSTANCE, [info(0), info(1)], [stats(10, 1), stats(30, 4)], 1.0)
    total = made["total"]
    assert (total["rx"]["frames"], total["restarts"]) == (40, 1)
    assert total["verdicts"]["tcp_ok"] == 40
    assert (made["shards"][1]["rx"]["batch"], total["rx"]["batch"]) == (7.5, 8.0)


def test_batches_are_classes_that_double_and_add_up() -> None:
    words = [
        ShardStats(counters={"batch_1": 5, "batch_64": 2}),
        ShardStats(counters={"batch_1": 1}),
    ]
    made = telemetry.snapshot(INSTANCE, [info(0), info(1)], words, 1.0)
    assert list(made["shards"][0]["rx"]["batches"]) == ["1", "2", "4", "8", "16", "32", "64"]
    assert made["shards"][0]["rx"]["batches"]["64"] == 2
    assert made["total"]["rx"]["batches"] == {
        "1": 6,
        "2": 0,
        "4": 0,
        "8": 0,
        "16": 0,
        "32": 0,
        "64": 2,
    }


def test_rates_are_a_document_of_their_own() -> None:
    rates = telemetry.rates(snap([10, 30], 1.0), snap([20, 90], 3.0))
    assert rates["interval_s"] == 2.0
    assert [shard["rx_frames_per_s"] for shard in rates["shards"]] == [5.0, 30.0]
    assert rates["total"]["rx_frames_per_s"] == 35.0
    assert telemetry.rates(snap([1]), snap([2])) == {}


@given(st.lists(st.lists(st.integers(0, 2**50), min_size=2, max_size=2), min_size=2, max_size=6))
def test_what_only_grows_never_steps_back_in_a_snapshot(steps: list[list[int]]) -> None:
    grown = [0, 0]
    before = snap(grown)
    for step in steps:
        grown = [old + more for old, more in zip(grown, step, strict=True)]
        after = snap(grown)
        for old, new in zip(before["shards"], after["shards"], strict=True):
            assert new["rx"]["frames"] >= old["rx"]["frames"]
        assert after["total"]["rx"]["frames"] >= before["total"]["rx"]["frames"]
        before = after


def test_balance_is_the_largest_over_the_mean() -> None:
    assert telemetry.balance([50, 50]) == 1.0
    assert telemetry.balance([90, 10]) == 1.8
    assert telemetry.balance([]) == 1.0
    assert telemetry.balance([0, 0]) == 1.0


@pytest.mark.parametrize(
    ("states", "stopping", "word"),
    [
        (["running", "running"], False, "running"),
        (["running", "starting"], False, "starting"),
        (["running", "fatal"], False, "degraded"),
        (["running", "backoff"], False, "degraded"),
        (["running", "draining"], False, "draining"),
        (["running"], True, "draining"),
    ],
)
def test_one_word_says_how_the_server_is(states: list[str], stopping: bool, word: str) -> None:
    infos = [info(shard, state) for shard, state in enumerate(states)]
    assert telemetry.overall(infos, stopping) == word
