"""`status`, `stats`, `stop` and `restart`: what they ask, and how they print the answer."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shardserver import client, config, instance, protocol
from shardserver.client import Client
from shardserver.errors import ConfigInvalidError, TimedOutError, UsageError
from shardserver.instance import Paths

_SIGNALS = {"drain": signal.SIGTERM, "quick": signal.SIGINT, "now": signal.SIGKILL}
_STATUS_EXIT = {"running": 0, "draining": 0, "starting": 0, "degraded": 8}


def paths_for(args: argparse.Namespace) -> Paths:
    """The files of the instance asked for."""
    setting = config.BY_NAME["name"]
    flag = args.name is not None
    name = args.name if flag else os.environ.get(setting.variable, setting.default)
    try:
        setting.parse(name)
    except ValueError as error:
        if flag:
            raise UsageError(f'{setting.flag} "{name}": {error}') from None
        raise ConfigInvalidError(f'{setting.variable}="{name}": {error}') from None
    return client.paths_of(name, os.environ)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(lines)


def short(number: float) -> str:
    """A number in at most six characters: 41.2k."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{number:.0f}"


def _uptime(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"


def status(args: argparse.Namespace) -> int:
    """Prints what runs; 8 when some shards do not."""
    with Client(paths_for(args), args.timeout) as server:
        answer = server.request("status")
    if args.json:
        print(protocol.pretty(answer))
    else:
        _print_status(answer)
    return _STATUS_EXIT.get(answer["state"], 1)


def _print_status(answer: Mapping[str, Any]) -> None:
    print(
        f"{answer['name']}  {answer['state']}  pid {answer['pid']}, "
        f"uptime {_uptime(answer['time'] - answer['started'])}"
    )
    address = answer["address"].partition("/")[0]
    print(f"engine {answer['engine_version']}  {' '.join(answer['services'])} on {address}")
    print(f"{answer['device']}: {answer['banner']}")
    rows = [["shard", "state", "pid", "cpu", "node", "ring", "restarts", "conns"]]
    rows += [
        [
            str(shard[key])
            for key in ("id", "state", "pid", "cpu", "node", "ring", "restarts", "connections")
        ]
        for shard in answer["shards"]
    ]
    print(table(rows))
    if answer["confirm_left_s"] is not None:
        print(
            f"rolls back in {max(0.0, answer['confirm_left_s']):.0f} s unless confirmed: "
            f"shardserver confirm -n {answer['name']}"
        )
    for shard in answer["shards"]:
        if shard["reason"] and shard["state"] != "running":
            print(f"shard {shard['id']}: {shard['reason']}")


def _compact(number: int) -> str:
    """Exact up to six figures, so that a line has 80 columns; --json has every figure."""
    return str(number) if number < 1_000_000 else short(number)


def _stats_rows(snapshot: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        ["shard", "conns", "accepted", "closed", "reset", "rx", "tx", "batch", "steered",
         "retrans"]
    ]  # fmt: skip
    for shard in [*snapshot["shards"], {"id": "total", **snapshot["total"]}]:
        conns = shard["connections"]
        counts = [conns[name] for name in ("active", "accepted", "closed", "reset")]
        counts += [shard["rx"]["frames"], shard["tx"]["frames"]]
        rows.append(
            [
                str(shard["id"]),
                *map(_compact, counts),
                f"{shard['rx']['batch']:.1f}",
                _compact(shard["steered"]["in"]),
                _compact(shard["retransmits"]),
            ]
        )
    return rows


def _stats_text(snapshot: Mapping[str, Any]) -> str:
    """The table, and each shard that does not run."""
    lines = [table(_stats_rows(snapshot))]
    for shard in snapshot["shards"]:
        if shard["state"] != "running":
            lines.append(f"shard {shard['id']} is {shard['state']}")
    return "\n".join(lines)


def _batch_rows(snapshot: Mapping[str, Any]) -> list[list[str]]:
    """Passes of the worker's loop by the frames that they received."""
    classes = list(snapshot["total"]["rx"]["batches"])
    spans = [
        f"{least}-{int(above) - 1}" if int(above) > int(least) + 1 else least
        for least, above in itertools.pairwise(classes)
    ]
    rows = [["frames a turn", *spans, classes[-1]]]
    for shard in [*snapshot["shards"], {"id": "total", **snapshot["total"]}]:
        rows.append([str(shard["id"]), *(short(n) for n in shard["rx"]["batches"].values())])
    return rows


def _rate_rows(snapshot: Mapping[str, Any], rates: Mapping[str, Any]) -> list[list[str]]:
    rows = [["shard", "conns", "rx/s", "tx/s", "rx B/s", "tx B/s", "accepts/s", "retrans/s"]]
    rates = rates or {"shards": [], "total": {}}  # the clock was set back: this once no rates
    by_id = {shard["id"]: shard for shard in rates["shards"]}
    pairs = [(shard, by_id.get(shard["id"], {})) for shard in snapshot["shards"]]
    pairs.append(({"id": "total", **snapshot["total"]}, rates["total"]))
    for shard, rate in pairs:
        keys = ("rx_frames", "tx_frames", "rx_bytes", "tx_bytes", "accepted", "retransmits")
        cells = [short(rate.get(f"{key}_per_s", 0.0)) for key in keys]
        rows.append([str(shard["id"]), str(shard["connections"]["active"]), *cells])
    return rows


def stats(args: argparse.Namespace) -> int:
    """Prints counters, or with -w rates until interrupted."""
    with Client(paths_for(args), args.timeout) as server:
        if args.watch is None:
            snapshot = server.request("stats")
            print(protocol.pretty(snapshot) if args.json else _stats_text(snapshot))
            if args.verbose and not args.json:
                print("\n" + table(_batch_rows(snapshot)))
            return 0
        return _watch(server, args)


def _watch(server: Client, args: argparse.Namespace) -> int:
    from orchestrator import telemetry

    before = server.request("stats")
    shown = 0
    while not args.count or shown < args.count:
        time.sleep(args.watch)
        after = server.request("stats")
        rates = telemetry.rates(before, after)
        if args.json:
            print(msgspec.json.encode(after).decode())
        else:
            print(time.strftime("%H:%M:%S"))
            print(table(_rate_rows(after, rates)))
        sys.stdout.flush()
        before = after
        shown += 1
    return 0


def _mode(args: argparse.Namespace) -> str:
    return "now" if args.now else "quick" if args.quick else "drain"


def stop(args: argparse.Namespace) -> int:
    """Stops a server and returns when nothing of it is left."""
    paths = paths_for(args)
    mode = _mode(args)
    pid = instance.holder(paths)
    if not pid:
        raise client.not_running(paths)
    try:
        with Client(paths, min(args.timeout, 2.0)) as server:
            server.request("stop", mode=mode)
    except TimedOutError:
        os.kill(pid, _SIGNALS["quick" if mode == "now" else mode])
        if mode == "now":
            os.kill(pid, signal.SIGINT)
    if not instance.wait_until_gone(paths, args.timeout):
        raise TimedOutError(
            f'the server "{paths.name}" (pid {pid}) still runs after {args.timeout:g} s',
            f"shardserver stop -n {paths.name} --quick",
        )
    if args.json:
        print(protocol.pretty({"schema": 1, "instance": paths.name, "stopped": pid}))
    else:
        print(f'server "{paths.name}" (pid {pid}) has stopped')
    return 0


def restart(args: argparse.Namespace) -> int:
    """Replaces workers and returns when their successors serve."""
    with Client(paths_for(args), args.timeout) as server:
        before = {shard["id"]: shard["pid"] for shard in server.request("status")["shards"]}
        wanted = server.request("restart", shards=args.shards)["shards"]
        end_s = time.monotonic() + args.timeout
        while True:
            shards = {shard["id"]: shard for shard in server.request("status")["shards"]}
            left = [
                number
                for number in wanted
                if shards[number]["state"] != "running" or shards[number]["pid"] == before[number]
            ]
            if not left:
                break
            if time.monotonic() >= end_s:
                raise TimedOutError(f"shards {left} have no new worker after {args.timeout:g} s")
            time.sleep(0.02)
    if args.json:
        print(protocol.pretty({"schema": 1, "restarted": wanted}))
    else:
        print(f"{len(wanted)} shard{'s' * (len(wanted) != 1)} restarted")
    return 0
