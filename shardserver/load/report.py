"""The outcome of a load as a JSON document and as text. Pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from shardserver.load.runner import Outcome

SCHEMA = 1


def _shard_rows(outcome: Outcome) -> list[dict[str, int]]:
    """Frames of each shard during the run, and its connections in the middle of it."""
    before = {shard["id"]: shard for shard in outcome.shards_before}
    rows = []
    for shard in outcome.shards_after:
        then = before.get(shard["id"], {})
        rows.append(
            {
                "id": shard["id"],
                "connections": shard.get("connections_during", 0),
                "rx_frames": shard["rx"]["frames"] - then.get("rx", {}).get("frames", 0),
                "tx_frames": shard["tx"]["frames"] - then.get("tx", {}).get("frames", 0),
            }
        )
    return rows


def balance(rows: list[dict[str, int]]) -> float | None:
    """Largest share over mean, of received frames; None without frames."""
    total = sum(row["rx_frames"] for row in rows)
    if not total:
        return None
    return round(max(row["rx_frames"] for row in rows) * len(rows) / total, 3)


def _first_error(counters: Mapping[str, int]) -> str:
    """Why a first connection failed, as the kernel says; "" where it was not asked."""
    code = counters["first_errno"]
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})" if code else ""


def build(outcome: Outcome) -> dict[str, Any]:
    """The document of `load --json`, schema 1."""
    counters = outcome.counters
    seconds = outcome.duration_s
    rows = _shard_rows(outcome)
    return {
        "schema": SCHEMA,
        "target": outcome.request.target,
        "connections": counters["connected"],
        "messages": counters["messages"],
        "bytes": counters["bytes"],
        "duration_s": round(seconds, 6),
        "errors": {
            name: counters[name] for name in ("mismatched_bytes", "resets", "timeouts", "refused")
        },
        "first_error": _first_error(counters),
        "rate": {
            "messages_per_s": round(counters["messages"] / seconds, 1) if seconds else 0.0,
            "bytes_per_s": round(counters["bytes"] / seconds, 1) if seconds else 0.0,
        },
        "latency_us": {name: round(us, 2) for name, us in outcome.latency_us.items()},
        "largest_gap_us": counters["largest_gap_us"],
        "finished": counters["finished"],
        "shards": rows,
        "balance": balance(rows),
    }


def succeeded(document: dict[str, Any]) -> bool:
    """Every byte right, no connection lost."""
    return not any(document["errors"].values()) and document["messages"] > 0


def human(number: float) -> str:
    """1234567 as 1.23M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f}{unit}"
    return f"{number:.0f}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 process, 2 processes."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def _shard_table(document: dict[str, Any]) -> list[str]:
    if not document["shards"]:
        return []
    lines = ["", "  shard   conns   rx frames   tx frames"]
    for row in document["shards"]:
        lines.append(
            f"  {row['id']:5d}  {row['connections']:6d}  {human(row['rx_frames']):>10}"
            f"  {human(row['tx_frames']):>10}"
        )
    if document["balance"] is not None:
        lines.append(f"  balance {document['balance']:.2f} (max/mean of received frames)")
    return lines


def _ladder(document: dict[str, Any]) -> list[str]:
    latency = document["latency_us"]
    names = {"p50": "50%", "p90": "90%", "p99": "99%", "p99_9": "99.9%", "max": "max"}
    return ["", "  latency"] + [
        f"  {text:>7}  {latency[name]:10.1f} µs" for name, text in names.items()
    ]


def progress_line(total: dict[str, int], seconds: float) -> str:
    """One live line."""
    wrong = total["mismatched_bytes"]
    lost = total["resets"] + total["timeouts"] + total["refused"]
    rate = human(total["messages"] / seconds if seconds else 0)
    return (
        f"{seconds:6.1f} s  {counted(total['active'], 'connection')}"
        f"  {human(total['messages'])} messages  {rate}/s  wrong bytes {wrong}  lost {lost}"
    )


def render(document: dict[str, Any]) -> str:
    """The report for people; the last two lines are easy to grep."""
    errors = "  ".join(f"{name} {count}" for name, count in document["errors"].items())
    lines = _shard_table(document)
    lines += _ladder(document) if document["messages"] else []
    lines += ["", f"  errors   {errors}"]
    if document["first_error"]:
        lines.append(f"  the first: {document['first_error']}")
    elif not document["messages"]:
        answers = "is no echo service" if document["connections"] else "does not answer"
        lines.append(f"  {document['target']} {answers}")
    lines.append("")
    exact = "100 % byte-exact" if succeeded(document) else "NOT byte-exact or not complete"
    lines.append(
        f"{counted(document['messages'], 'message')}, "
        f"{counted(document['connections'], 'connection')}, {exact}"
    )
    lines.append(
        f"Messages/s: {document['rate']['messages_per_s']:.0f}"
        f"  Bytes/s: {document['rate']['bytes_per_s']:.0f}"
    )
    return "\n".join(lines)
