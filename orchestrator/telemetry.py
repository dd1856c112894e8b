"""Counters → the documents that `stats --json` prints and that PUB carries (schema 1). Pure.

A snapshot holds counters and gauges only. Rates are made of two snapshots, in a document of
their own, never beside the counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shardserver.native import ShardStats
from shardserver.protocol import SCHEMA, ShardInfo


class InstanceInfo(msgspec.Struct, frozen=True):
    """What does not change while a server runs."""

    name: str
    version: str
    pid: int
    device: str
    backend: str
    engine: str
    banner: str
    address: str
    services: list[str]
    started: float
    engine_version: str = "native"  # as its library names itself


_CONNECTIONS = {
    "active": "conns_active",
    "accepted": "conns_accepted",
    "closed": "conns_closed",
    "reset": "conns_reset",
    "adopted": "conns_adopted",
    "dropped": "conns_dropped",
}
_RATES = (
    ("rx_frames_per_s", ("rx", "frames")),
    ("tx_frames_per_s", ("tx", "frames")),
    ("rx_bytes_per_s", ("rx", "bytes")),
    ("tx_bytes_per_s", ("tx", "bytes")),
    ("accepted_per_s", ("connections", "accepted")),
    ("retransmits_per_s", ("retransmits",)),
)


_BATCHES = (1, 2, 4, 8, 16, 32, 64)  # each up to the next


def _batch(frames: int, syncs: int) -> float:
    return round(frames / syncs, 2) if syncs else 0.0


def _counters(stats: ShardStats) -> dict[str, Any]:
    counter = stats.counters
    verdict = stats.verdicts
    return {
        "connections": {key: counter.get(name, 0) for key, name in _CONNECTIONS.items()},
        "rx": {
            "frames": stats.rx_frames,
            "bytes": stats.rx_bytes,
            "batch": _batch(stats.rx_frames, stats.rx_syncs),
            "batches": {str(least): counter.get(f"batch_{least}", 0) for least in _BATCHES},
            "missed": stats.rx_missed,
            "ended": stats.rx_ended,
        },
        "tx": {
            "frames": stats.tx_frames,
            "bytes": stats.tx_bytes,
            "batch": _batch(stats.tx_frames, stats.tx_syncs),
            "dropped": stats.tx_dropped,
        },
        "verdicts": dict(verdict),
        "steered": {
            "in": counter.get("steered_in", 0),
            "out": verdict.get("steered_out", 0),
            "dropped": verdict.get("steer_dropped", 0),
        },
        "syscalls": stats.syscalls,
        "ring_errors": stats.ring_errors,
        "copied_bytes": counter.get("copied_bytes", 0),
        "retransmits": counter.get("retransmits", 0),
        "counters": dict(counter),
    }


def _shard(info: ShardInfo, stats: ShardStats) -> dict[str, Any]:
    head = {
        "id": info.id,
        "state": info.state,
        "pid": info.pid,
        "cpu": info.cpu,
        "node": info.node,
        "ring": info.ring,
        "restarts": info.restarts,
    }
    return {**head, **_counters(stats)}


def add(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum, key by key, of nested documents of numbers."""
    total: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            if isinstance(value, Mapping):
                total[key] = add([total.get(key, {}), value])
            else:
                total[key] = total.get(key, 0) + value
    return total


def _total(infos: Sequence[ShardInfo], stats: Sequence[ShardStats]) -> dict[str, Any]:
    total = add([_counters(one) for one in stats])
    for way in ("rx", "tx"):
        syncs = sum(getattr(one, f"{way}_syncs") for one in stats)
        total[way]["batch"] = _batch(total[way]["frames"], syncs)
    return {"restarts": sum(info.restarts for info in infos), **total}


def snapshot(
    instance: InstanceInfo,
    infos: Sequence[ShardInfo],
    stats: Sequence[ShardStats],
    time_s: float,
) -> dict[str, Any]:
    """What `stats --json` prints."""
    return {
        "schema": SCHEMA,
        "time": time_s,
        "instance": instance.name,
        "device": instance.device,
        "backend": instance.backend,
        "engine": instance.engine,
        "engine_version": instance.engine_version,
        "shards": [_shard(info, one) for info, one in zip(infos, stats, strict=True)],
        "total": _total(infos, stats),
    }


def _value(document: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = document
    for key in path:
        value = value[key]
    return float(value)


def _rate(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> dict[str, float]:
    return {
        name: round((_value(after, path) - _value(before, path)) / seconds, 1)
        for name, path in _RATES
    }


def rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Per second, between two snapshots of one server; {} when no time has passed."""
    seconds = after["time"] - before["time"]
    if seconds <= 0:
        return {}
    earlier = {shard["id"]: shard for shard in before["shards"]}
    return {
        "schema": SCHEMA,
        "time": after["time"],
        "interval_s": round(seconds, 3),
        "shards": [
            {"id": shard["id"], **_rate(earlier[shard["id"]], shard, seconds)}
            for shard in after["shards"]
            if shard["id"] in earlier
        ],
        "total": _rate(before["total"], after["total"], seconds),
    }


def balance(loads: Sequence[float]) -> float:
    """How evenly shards are loaded: the largest over the mean, 1.0 is even."""
    mean = sum(loads) / len(loads) if loads else 0.0
    return round(max(loads) / mean, 2) if mean else 1.0


def overall(infos: Sequence[ShardInfo], stopping: bool) -> str:
    """One word for the whole server."""
    states = {info.state for info in infos}
    if stopping or states & {"draining"}:
        return "draining"
    if states == {"running"}:
        return "running"
    if states & {"fatal", "backoff", "hung"}:
        return "degraded"
    return "starting"
