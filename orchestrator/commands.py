"""What a client may ask `control`: one function per command, its docstring is the contract.

A command gets a View and the request's properties and returns the result. What it sets off goes
out through the View; nothing here waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator import telemetry
from orchestrator.telemetry import InstanceInfo
from shardserver import config, native, native_conns, protocol
from shardserver.errors import NotRunningError, ProtocolError, ShardserverError, UsageError
from shardserver.protocol import ShardInfo, WorkerReport

STOP_MODES = ("drain", "quick", "now")
SHARD_ACTIONS = ("drain", "resume", "abort")
_UINT32_MAX = 0xFFFFFFFF


@dataclass
class View:
    """What `control` knows, and what it can set off."""

    instance: InstanceInfo
    read_stats: Callable[[int], native.ShardStats]
    read_conns: Callable[[int, int], native_conns.Part]
    order: Callable[[object], bool]
    ask_worker: Callable[[int, str], bool]
    shards: list[ShardInfo] = field(default_factory=list)
    stopping: bool = False
    confirm_by_s: float = 0.0
    reports: dict[int, tuple[float, WorkerReport]] = field(default_factory=dict)

    def snapshot(self) -> dict[str, Any]:
        """The counters as they are now."""
        stats = [self.read_stats(info.id) for info in self.shards]
        return telemetry.snapshot(self.instance, self.shards, stats, time.time())


def _take(properties: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in properties:
        if key not in known:
            raise ProtocolError(f'unknown property "{key}"{config.suggest(key, known)}')


def _shards(view: View, properties: Mapping[str, Any]) -> list[int]:
    wanted = properties.get("shards", [])
    if not isinstance(wanted, list) or not all(type(shard) is int for shard in wanted):
        raise ProtocolError("shards must be a list of shard numbers")
    known = {info.id for info in view.shards}
    for shard in wanted:
        if shard not in known:
            raise UsageError(f"there is no shard {shard}", f"shards are 0 to {len(known) - 1}")
    return wanted or sorted(known)


def _one_of(properties: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = properties.get(key, choices[0])
    if value not in choices:
        raise ProtocolError(f"{key} must be one of {', '.join(choices)}")
    return str(value)


def ping(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {pid, version}: somebody is there."""
    _take(properties, ())
    return {"pid": view.instance.pid, "version": view.instance.version}


def status(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{} → the instance, its overall state, and each shard with its worker's last answer."""
    _take(properties, ())
    now = time.monotonic()
    shards = []
    for info in view.shards:
        heard = view.reports.get(info.id)
        answered = round(now - heard[0], 1) if heard and heard[1].pid == info.pid else None
        shards.append(
            {
                **{name: getattr(info, name) for name in info.__struct_fields__},
                "connections": view.read_stats(info.id).counters.get("conns_active", 0),
                "answered_s_ago": answered,
            }
        )
    instance = {name: getattr(view.instance, name) for name in view.instance.__struct_fields__}
    return {
        "schema": protocol.SCHEMA,
        "time": time.time(),
        "state": telemetry.overall(view.shards, view.stopping),
        "confirm_left_s": round(view.confirm_by_s - now, 1) if view.confirm_by_s else None,
        **instance,
        "shards": shards,
    }


def stats(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{} → a snapshot: counters of each shard and their total."""
    _take(properties, ())
    return view.snapshot()


def connections(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{shard: N, from: N} → {shard, columns, rows, next, changing, states, services, timers}.

    A part of a shard's list, from the arena: what listens, then connections. `from` is 0 or the
    `next` of the part before; a `next` of 0 ends it. Numbers of the columns state, service and
    timer are places in the lists of that name.
    """
    _take(properties, ("shard", "from"))
    shard = properties.get("shard", 0)
    start = properties.get("from", 0)
    if type(start) is not int or not 0 <= start <= _UINT32_MAX:
        raise ProtocolError("from must be a number from 0")
    _shards(view, {"shards": [shard]})
    part = view.read_conns(shard, start)
    return {
        "shard": shard,
        "columns": native_conns.columns(),
        "rows": part.rows,
        "next": part.next,
        "changing": part.changing,
        "states": native_conns.state_names(),
        "services": native.service_names(),
        "timers": native_conns.timer_names(),
    }


def stop(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{mode: drain|quick|now} → {mode}. The server begins to stop; its lock file tells the end."""
    _take(properties, ("mode",))
    mode = _one_of(properties, "mode", STOP_MODES)
    if not view.order(protocol.StopOrder(mode)):
        raise NotRunningError("the orchestrator does not listen")
    return {"mode": mode}


def restart(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{shards: [N]} → {shards}. Replaces their workers; connections are adopted."""
    _take(properties, ("shards",))
    shards = _shards(view, properties)
    if not view.order(protocol.RestartOrder(shards)):
        raise NotRunningError("the orchestrator does not listen")
    return {"shards": shards}


def confirm(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {confirmed, left_s}. A server that awaits it stays; false when none is awaited."""
    _take(properties, ())
    awaited = bool(view.confirm_by_s) and not view.stopping
    if awaited and not view.order(protocol.ConfirmOrder()):
        raise NotRunningError("the orchestrator does not listen")
    left_s = max(0.0, view.confirm_by_s - time.monotonic()) if awaited else 0.0
    return {"confirmed": awaited, "left_s": round(left_s, 1)}


def shard(view: View, properties: Mapping[str, Any]) -> dict[str, Any]:
    """{action: drain|resume|abort, shards: [N]} → {action, asked}. Asks the workers directly."""
    _take(properties, ("action", "shards"))
    action = _one_of(properties, "action", SHARD_ACTIONS)
    asked = [number for number in _shards(view, properties) if view.ask_worker(number, action)]
    return {"action": action, "asked": asked}


Command = Callable[[View, Mapping[str, Any]], dict[str, Any]]
COMMANDS: dict[str, Command] = {
    "ping": ping,
    "status": status,
    "stats": stats,
    "connections": connections,
    "stop": stop,
    "restart": restart,
    "confirm": confirm,
    "shard": shard,
}


def carry_out(view: View, data: bytes) -> protocol.Reply:
    """Answers one request, whatever it is."""
    request_id = ""
    try:
        request: protocol.Request = protocol.decode(data, protocol.Request)
        request_id = request.id
        command = COMMANDS.get(request.command)
        if command is None:
            raise UsageError(
                f'unknown command "{request.command}"{config.suggest(request.command, COMMANDS)}',
                f"commands are {', '.join(COMMANDS)}",
            )
        result = command(view, request.properties)
    except ShardserverError as error:
        body = protocol.error_body(error)
        return protocol.Reply(request_id, "error", time.time(), error=body)
    return protocol.Reply(request_id, "ok", time.time(), result=result)
