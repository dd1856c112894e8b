"""`devices` and `nic`: what the interfaces are, what was changed on them, and the way back."""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from shardserver import cli_show, native, protocol
from shardserver.errors import (
    DeviceUnavailableError,
    NoPermissionError,
    ShardserverError,
    UsageError,
)
from shardserver.nic import apply, changes, inventory, journal
from shardserver.nic.ethtool import Card
from shardserver.nic.inventory import Device
from shardserver.nic.journal import Record
from shardserver.nic.settings import Settings


def _candidates() -> tuple[Path, ...]:
    return journal.directories(os.environ, os.geteuid())


def _queues(device: Device) -> str:
    more = f" of {device.queues_max}" if device.queues_max > device.rx_queues else ""
    same = device.rx_queues == device.tx_queues
    return f"{device.rx_queues}{more}" if same else f"{device.rx_queues} rx, {device.tx_queues} tx"


def _print_device(device: Device) -> None:
    addresses = " ".join(device.addresses) or "no address"
    taken = " · taken by a shardserver" if device.taken else ""
    print(
        f"{device.name}  {device.state} · {device.driver}{f' {device.bus}' * bool(device.bus)}"
        f" · queues {_queues(device)} · {device.mac} · mtu {device.mtu} · {addresses}{taken}"
    )
    for backend, why in device.backends.items():
        mark = "✗" if why else "✓"
        told = why or (device.xdp if backend == "xdp" else "")
        star = " (what --iface takes)" if backend == device.best else ""
        print(f"  {mark} {backend:<7} {told}{star}".rstrip())


def devices(args: argparse.Namespace) -> int:
    """Prints every interface; 0 always."""
    available = native.backend_names()
    found = inventory.read(available)
    if args.json:
        document = {"schema": 1, "backends": list(available), "devices": found}
        print(protocol.pretty(document))
        return 0
    for device in found:
        _print_device(device)
    print(f"this build has {', '.join(available)}; mem:NAME is a software NIC that needs no root")
    return 0


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        have = ", ".join(name for _, name in socket.if_nameindex())
        raise DeviceUnavailableError(
            f"{name}: this network namespace has no such interface", f"interfaces here: {have}"
        ) from None


def _chosen(name: str | None) -> list[Record]:
    found = journal.records(_candidates())
    if name is None:
        return found
    by_old_name = [record for record in found if record.header.name == name]
    return by_old_name or [record for record in found if record.header.index == _index(name)]


def _keeper(record: Record) -> str:
    header = record.header
    if header.keeper == "admin":
        return "doctor --fix; undone by: shardserver nic restore"
    if record.pid:
        return f'the server "{header.instance}" (pid {record.pid}); undone when it stops'
    return f'a killed server "{header.instance}" (pid {header.pid}); undo: shardserver nic restore'


def _print_record(record: Record) -> None:
    now = journal.current_name(record)
    gone = "" if now else " (gone)"
    renamed = f" (was {record.header.name})" if now and now != record.header.name else ""
    name = now or record.header.name
    when = time.strftime("%H:%M:%S", time.localtime(record.header.time))
    print(f"{name}{gone}{renamed}  changed since {when} by {_keeper(record)}")
    for change in record.changes:
        print(f"  {changes.describe(change)}")


def _settings_lines(settings: Settings) -> list[str]:
    on = [name for name, feature in settings.features.items() if feature.active]
    flags = f"{'up' if settings.up else 'down'} · promisc {'on' if settings.promisc else 'off'}"
    lines = [flags, f"offloads on: {', '.join(on)}"]
    for word in ("channels", "rings", "moderation", "pause"):
        value = getattr(settings, word)
        fields = msgspec.structs.asdict(value).items() if value else ()
        told = ", ".join(f"{k} {int(v)}" for k, v in fields)
        lines.append(f"{word}: {told or 'its driver does not tell'}")
    rss = settings.rss
    if rss and (rss.key or rss.table):
        spread = f"{len(rss.table)} buckets over {len(set(rss.table))} queues"
        lines.append(f"rss: key {rss.key or 'not told'}, {spread}")
    else:
        lines.append("rss: its driver does not tell")
    return lines


def _document(record: Record) -> dict[str, Any]:
    return {
        "interface": journal.current_name(record) or record.header.name,
        "keeper": record.header.keeper,
        "instance": record.header.instance,
        "pid": record.pid,
        "journal": str(record.path),
        "time": record.header.time,
        "changes": list(record.changes),
        "before": record.header.settings,
    }


def _show(args: argparse.Namespace) -> int:
    index = _index(args.interface) if args.interface else 0
    found = [r for r in journal.records(_candidates()) if not index or r.header.index == index]
    settings: Settings | None = None
    if index:
        with Card(args.interface) as card:
            settings = apply.read(card)
    if args.json:
        listed = [_document(record) for record in found]
        print(protocol.pretty({"schema": 1, "settings": settings, "changes": listed}))
        return 0
    if settings:
        print("\n".join([f"{args.interface}  as it is now", *_indented(_settings_lines(settings))]))
    for record in found:
        _print_record(record)
    if not found:
        who = args.interface or "no interface of this network namespace"
        print(f"{who} has no changes of ours" if index else f"{who} has changes of ours")
    return 0


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _undo(record: Record) -> tuple[str, journal.Outcome]:
    """The interface's name, "" when it is gone, and what was left of its changes."""
    name = journal.current_name(record)
    outcome = journal.restore(record)
    if outcome.stays:
        message = f"{name}: {'; '.join(outcome.stays)}"
        kind = ShardserverError if os.geteuid() == 0 else NoPermissionError
        raise kind(message, f"the journal stays: {record.path}; run it again as root")
    return name, outcome


def _restore(args: argparse.Namespace) -> int:
    """Undoes what killed servers and `doctor --fix` have left, the newest first.

    Nothing is undone under a server that runs; that one does it when it stops.
    """
    journal.remove_half_made(_candidates())
    found = _chosen(args.interface)
    busy = {record.header.index: record for record in found if record.pid}
    if args.interface and busy:
        raise journal.refuse_taken(next(iter(busy.values())))
    done = [(record, *_undo(record)) for record in found if record.header.index not in busy]
    if args.json:
        restored = [
            {"interface": name or record.header.name, "gone": not name,
             "changes": list(record.changes), "not_ours": list(outcome.foreign)}
            for record, name, outcome in done
        ]  # fmt: skip
        in_use = [record.header.name for record in busy.values()]
        print(protocol.pretty({"schema": 1, "restored": restored, "in_use": in_use}))
        return 0
    for record, name, outcome in done:
        _print_undone(record, name, outcome)
    for record in busy.values():
        print(f"{record.header.name}: left as it is: {_keeper(record)}")
    if not found:
        print("nothing to restore")
    return 0


def _print_undone(record: Record, name: str, outcome: journal.Outcome) -> None:
    words = "; ".join(changes.describe(change) for change in record.changes) or "nothing"
    told = f"undone: {words}" if name else "is gone, and its changes with it"
    print(f"{name or record.header.name}: {told}")
    for line in outcome.foreign:
        print(f"  not ours, left alone: {line}")


def nic(args: argparse.Namespace) -> int:
    """Runs `nic show` or `nic restore`."""
    return {"show": _show, "restore": _restore}[args.action](args)


def confirm(args: argparse.Namespace) -> int:
    """Tells a server that waits for it that its host can still be reached."""
    from shardserver.client import Client

    with Client(cli_show.paths_for(args), args.timeout) as server:
        answer = server.request("confirm")
        if not answer["confirmed"]:
            raise UsageError(
                "nothing waits for a confirmation", "a server started with --confirm SECONDS does"
            )
        end_s = time.monotonic() + args.timeout
        while server.request("status")["confirm_left_s"] is not None:
            if time.monotonic() >= end_s:
                raise ShardserverError("the confirmation came too late: the server is stopping")
            time.sleep(0.02)
    if args.json:
        print(protocol.pretty({"schema": 1, "confirmed": True}))
    else:
        print(f"confirmed with {answer['left_s']:.0f} s left; the server stays")
    return 0
