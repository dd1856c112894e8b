"""What kill -9 of a worker under load costs: its own connections, and everybody else's.

bench/kills.py [--kills N] [--target mem|packet] [--connections N] [--seconds S] [--json]. One of
four workers is killed at a time, by turns, under load from a verifying client (our own stack on
mem:, Linux's TCP over a veth pair for packet:, which needs root). All gaps are the client's: the
time that a connection waited between two replies, the longest in a window of time, by the shard
that owns the connection. Each kill has two windows of the same length: the one after it, and the
one before it, without a kill. Right after the kill a second client opens new connections, as many
as it takes for one to be the killed shard's; they count as answered when each of them has its echo.
How it is done: tests/fault/killing.py.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("integration", "fault")]
import killing
import netns

ALLOWED_US = 50_000  # for the others, or twice what they wait for without a kill
ANSWERS_US = 100_000


def ladder(values: Sequence[int]) -> dict[str, int | None]:
    """Nearest-rank quantiles; None without values."""
    ranked = sorted(values)

    def at(q: float) -> int | None:
        return ranked[max(0, math.ceil(q * len(ranked)) - 1)] if ranked else None

    return {"n": len(ranked), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


def others(outcome: killing.Outcome, windows: Sequence[killing.Window], shard: int) -> list[int]:
    """A shard's longest gap in each window that belongs to the kill of another one."""
    pairs = zip(outcome.kills, windows, strict=True)
    return [window.longest(shard) for kill, window in pairs if kill.shard != shard]


def shard_rows(outcome: killing.Outcome) -> list[dict[str, Any]]:
    """Each shard as one of the three that were not killed."""
    return [
        {
            "id": shard,
            "connections": outcome.owners.count(shard),
            "lost": sum(outcome.owners[each] == shard for each in outcome.lost),
            "gap_us": ladder(others(outcome, outcome.after, shard)),
            "gap_without_kill_us": ladder(others(outcome, outcome.without, shard)),
        }
        for shard in range(killing.WORKERS)
    ]


def killed_row(outcome: killing.Outcome) -> dict[str, Any]:
    """The killed shard's connections, over all kills."""
    deaths = list(zip(outcome.kills, outcome.after, outcome.without, strict=True))
    lengths = [gap for kill, after, _ in deaths for gap in after.gaps_us[kill.shard]]
    without = [gap for kill, _, before in deaths for gap in before.gaps_us[kill.shard]]
    return {
        "connections": sum(outcome.owners.count(kill.shard) for kill in outcome.kills),
        "adopted": sum(kill.adopted for kill in outcome.kills),
        "dropped": sum(kill.dropped for kill in outcome.kills),
        "gap_us": ladder(lengths),
        "gap_without_kill_us": ladder(without),
    }


def single(kill: killing.Kill, after: killing.Window, without: killing.Window) -> dict[str, Any]:
    """One kill for who wants to look closer."""
    rest = [shard for shard in range(killing.WORKERS) if shard != kill.shard]
    return {
        "shard": kill.shard,
        "adopted": kill.adopted,
        "dropped": kill.dropped,
        "answered_us": kill.answered_us,
        "gap_us": after.longest(kill.shard),
        "others_gap_us": max(after.longest(shard) for shard in rest),
        "others_gap_without_kill_us": max(without.longest(shard) for shard in rest),
    }


def laws(document: dict[str, Any]) -> dict[str, bool]:
    """What must hold, by name."""
    rows, new = document["shards"], document["new_connections"]
    after_us = max(row["gap_us"]["max"] or 0 for row in rows)
    without_us = max(row["gap_without_kill_us"]["max"] or 0 for row in rows)
    answered = new["answered_us"]
    in_time = answered["n"] == document["kills"] and (answered["max"] or 0) < ANSWERS_US
    return {
        "every byte is right": document["wrong_bytes"] == 0,
        "no connection is lost": not any(row["lost"] for row in rows),
        "the others wait no longer than 50 ms, or twice what they do without a kill": after_us
        <= max(ALLOWED_US, 2 * without_us),
        "the killed shard answers new connections again within 100 ms": in_time,
        "no new connection is refused, reset or given up": not any(
            new[how] for how in ("refused", "resets", "timeouts")
        ),
        "stats never step back": not document["stats"]["stepped_back"],
    }


def report(outcome: killing.Outcome, kind: str, plan: killing.Plan) -> dict[str, Any]:
    """The document."""
    times = [kill.answered_us for kill in outcome.kills if kill.answered_us is not None]
    unkilled = [kill.unkilled_us for kill in outcome.kills if kill.unkilled_us is not None]
    counts = {name: outcome.probes[name] for name in ("refused", "resets", "timeouts")}
    document: dict[str, Any] = {
        "schema": 1,
        "target": kind,
        "kills": len(outcome.kills),
        "seconds": round(outcome.seconds, 1),
        "window_us": int(plan.window_s * 1_000_000),
        "phases": dict(outcome.phases.most_common()),
        "messages": outcome.load["messages"],
        "wrong_bytes": outcome.load["mismatched_bytes"] + outcome.probes["mismatched_bytes"],
        "shards": shard_rows(outcome),
        "killed": killed_row(outcome),
        "successor_serves_us": ladder(outcome.serves_us),
        "new_connections": {
            "opened": outcome.probes["connected"],
            **counts,
            "answered_us": ladder(times),
            "answered_without_kill_us": ladder(unkilled),
        },
        "stats": {"samples": outcome.samples, "stepped_back": outcome.stepped_back},
        "machine": {"cpus": os.cpu_count(), "load_1m": round(os.getloadavg()[0], 2)},
        "cpu_wait": {
            name: round(wait_ns / 1e9 / outcome.seconds, 3)
            for name, wait_ns in sorted(outcome.cpu_wait_ns.items())
        },
        "each": [
            single(*death)
            for death in zip(outcome.kills, outcome.after, outcome.without, strict=True)
        ],
    }
    return {**document, "laws": laws(document)}


def ms(us: int | None) -> str:
    """Milliseconds in a column."""
    return f"{us / 1000:9.2f}" if us is not None else f"{'-':>9}"


def steps(name: str, found: dict[str, Any]) -> str:
    """One line of quantiles."""
    values = "".join(ms(found[q]) for q in ("p50", "p99", "max"))
    return f"  {name:44}{found['n']:7}{values}"


def render(document: dict[str, Any]) -> str:
    """The report for people."""
    killed, new, machine = (document[key] for key in ("killed", "new_connections", "machine"))
    lines = [
        f"{document['target']}: {document['kills']} kills in {document['seconds']} s, windows of"
        f" {document['window_us'] // 1000} ms; {machine['cpus']} CPUs, load {machine['load_1m']}",
        f"  {document['messages']:,} messages, {document['wrong_bytes']} wrong bytes",
        "  killed in phase " + ", ".join(f"{name} {n}" for name, n in document["phases"].items()),
        f"  longest gap of a connection, ms{'':14}{'n':>6}{'p50':>9}{'p99':>9}{'max':>9}",
    ]
    for row in document["shards"]:
        name = f"shard {row['id']} ({row['connections']} connections, {row['lost']} lost)"
        lines.append(steps(f"{name}, others killed", row["gap_us"]))
        lines.append(steps("    the same without a kill", row["gap_without_kill_us"]))
    lines += [
        steps("each connection of the killed shard", killed["gap_us"]),
        steps("    the same without a kill", killed["gap_without_kill_us"]),
        steps("from its burial until its successor serves", document["successor_serves_us"]),
        steps("until new connections are answered", new["answered_us"]),
        steps("    the same without a kill", new["answered_without_kill_us"]),
        f"  of the load's {killed['connections']} at the killed shards, with short-lived ones:"
        f" {killed['adopted']} adopted, {killed['dropped']} dropped",
        f"  new connections: {new['opened']} opened, {new['refused']} refused, {new['resets']}"
        f" reset, {new['timeouts']} given up",
        "  share of the time ready to run without a CPU: "
        + ", ".join(f"{name} {share:.0%}" for name, share in document["cpu_wait"].items()),
        f"  stats read {document['stats']['samples']} times,"
        f" {len(document['stats']['stepped_back'])} steps back",
    ]
    return "\n".join(
        lines + [f"  {'ok ' if ok else 'NOT'} {law}" for law, ok in document["laws"].items()]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--target", choices=("mem", "packet", "both"), default="both")
    parser.add_argument("-c", "--connections", type=int, default=200)
    parser.add_argument("-s", "--size", type=int, default=64)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=240, help="no kill begins later")
    parser.add_argument("--window", type=float, default=0.25, metavar="SECONDS")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = killing.Plan(
        kills=options.kills,
        connections=options.connections,
        size=options.size,
        pipeline=options.pipeline,
        window_s=options.window,
        limit_s=options.seconds,
    )
    why = "" if options.target == "mem" else netns.unavailable()
    if why:
        raise SystemExit(f"packet: {why}; without it: bench/kills.py --target mem")
    documents = []
    for kind in ("mem", "packet") if options.target == "both" else (options.target,):
        with killing.place(kind) as place:
            outcome = killing.run(place, plan)
        documents.append(report(outcome, kind, plan))
        if not options.json:
            print(render(documents[-1]), flush=True)
    if options.json:
        print(json.dumps(documents, indent=1))
    return 0 if all(all(each["laws"].values()) for each in documents) else 1


if __name__ == "__main__":
    sys.exit(main())
