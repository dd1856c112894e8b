"""`shardserver doctor`: what was found, in lines, and with --fix what was done about it."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from shardserver import __version__, native, native_engine, protocol
from shardserver.errors import DeviceUnavailableError, ShardserverError
from shardserver.nic import (
    apply,
    changes,
    doctor,
    findings,
    guard,
    inventory,
    journal,
    machine,
    netlink,
)
from shardserver.nic.doctor import Engine, Facts, Interface, Irq
from shardserver.nic.ethtool import Card
from shardserver.nic.findings import Finding

_MARKS = {findings.OK: "✓", findings.WARN: "!", findings.FAIL: "✗"}


def _candidates() -> tuple[Path, ...]:
    return journal.directories(os.environ, os.geteuid())


def _interface(name: str) -> Interface:
    from orchestrator import topology

    link = inventory.link_of(name)
    if link is None:
        have = ", ".join(each.name for each in netlink.links())
        raise DeviceUnavailableError(
            f"{name}: this network namespace has no such interface", f"interfaces here: {have}"
        )
    with Card(name) as card:
        settings, driver = apply.read(card), card.driver()
    seen = topology.read(name).interface
    queues = seen.queues if seen else ()
    stale = journal.stale(_candidates(), link.index)
    return Interface(
        link=link,
        settings=settings,
        driver=driver,
        irqs=tuple(Irq(q.index, q.irq, q.irq_cpus) for q in queues if q.irq >= 0),
        node=seen.node if seen else -1,
        carries=tuple(guard.reasons(guard.read(os.environ), name)),
        left=tuple(changes.describe(change) for record in stale for change in record.changes),
        taken=machine.taken(link.index),
    )


def _engines() -> tuple[Engine, ...]:
    found = native_engine.find("picotcp")
    return (
        Engine("native", f"shardserver {__version__}"),
        Engine("picotcp", found.version, found.path, found.why),
    )


def facts(name: str | None) -> Facts:
    """Reads all that is judged."""
    from orchestrator import topology

    return Facts(
        machine=machine.read(),
        available=native.backend_names(),
        python=platform.python_version(),
        executable=str(Path(sys.executable).resolve()),
        library=f"shardserver {__version__}, core of ABI {native.ABI_VERSION}",
        engines=_engines(),
        cpus={cpu.id: cpu.node for cpu in topology.read("").cpus},
        interface=_interface(name) if name else None,
    )


def _try(keeper: journal.Journal, change: changes.Change) -> str:
    """Makes a change; why not, when the driver refuses it."""
    try:
        keeper.change(change)
    except ShardserverError as error:
        keeper.undo_last()
        return error.message
    return ""


def _fix(found: Facts, wanted: Sequence[changes.Change]) -> tuple[list[str], list[str]]:
    """Makes the changes, journalled; what was done, and what the driver refused."""
    its = found.interface
    assert its is not None
    done: list[str] = []
    refused: list[str] = []
    with Card(its.name) as card:
        directory = journal.make_directory(_candidates())
        with journal.kept(card, its.link.index, directory, _candidates()) as keeper:
            for change in wanted:
                why = _try(keeper, change)
                (refused if why else done).append(why or changes.describe(change))
    return done, refused


def _check_fixable(found: Facts, force: bool) -> None:
    its = found.interface
    if its is None:
        return
    if its.taken:
        raise DeviceUnavailableError(
            f"{its.name}: a shardserver has it: nothing is changed under a running server",
            "shardserver stop",
        )
    if its.left:
        raise DeviceUnavailableError(
            f"{its.name}: a killed server has left it changed",
            f"shardserver nic restore {its.name}",
        )
    guard.check(guard.read(os.environ), its.name, force)


def _print(found: Sequence[Finding]) -> None:
    for finding in found:
        head = f" {_MARKS[finding.status]} {finding.topic:<10} {finding.text}"
        print(f"{head}\n   {'':<10} → {finding.fix}" if finding.fix else head)


def _summary(found: Facts, listed: Sequence[Finding]) -> str:
    counts = findings.count(listed)
    text = ", ".join(f"{number} {word}" for word, number in counts.items())
    text = text.replace(" 1 warnings", " 1 warning")
    if found.interface is None:
        return f"{text}; of an interface: shardserver doctor IFACE"
    now, after = doctor.best(found), doctor.best_after(found)
    more = f" (after the fixes: {after})" if after and after != now else ""
    return f"{text}; best backend now: {now or 'none'}{more}"


def doctor_command(args: argparse.Namespace) -> int:
    """Examines, fixes if asked, and tells; the code of the gravest failure that is left."""
    found = facts(args.interface)
    listed = doctor.examine(found)
    done: list[str] = []
    refused: list[str] = []
    if args.fix:
        wanted = doctor.fixes(listed)
        if wanted:
            _check_fixable(found, args.force)
            done, refused = _fix(found, wanted)
            found = facts(args.interface)
            listed = doctor.examine(found)
    if args.json:
        document = {
            "schema": 1, "interface": args.interface, "findings": listed,
            **findings.count(listed), "best": doctor.best(found),
            "best_after": doctor.best_after(found), "fixed": done, "refused": refused,
        }  # fmt: skip
        print(protocol.pretty(document))
        return findings.exit_code(listed)
    _print(listed)
    _print_fixes(args, done, refused)
    print(_summary(found, listed))
    return findings.exit_code(listed)


def _print_fixes(args: argparse.Namespace, done: Sequence[str], refused: Sequence[str]) -> None:
    for line in done:
        print(f"fixed {args.interface}: {line}")
    for line in refused:
        print(f"not fixed: {line}")
    if done:
        print(f"undo it with: shardserver nic restore {args.interface}")
    elif args.fix and not refused:
        print("nothing to fix that could be undone; the other commands are yours to run")
