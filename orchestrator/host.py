"""The host's interface under a server: what may be taken, what is changed on it, and its way back.

`look` finds what the plan has to know; `prepared` makes the changes, each one journalled before it
is made, and undoes them when the server ends. Decisions are in `shardserver.nic`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator import netif
from orchestrator.plan import Plan
from orchestrator.topology import Queue, Topology
from shardserver import logs
from shardserver.config import Config
from shardserver.errors import ShardserverError
from shardserver.nic import apply, changes, guard, inventory, journal, machine, probe
from shardserver.nic.changes import ChangePlan, Wishes
from shardserver.nic.ethtool import Card


def with_channels(topology: Topology, count: int) -> Topology:
    """The topology as it will be with so many queues. Pure."""
    if not count or topology.interface is None:
        return topology
    have: Sequence[Queue] = topology.interface.queues
    queues = tuple(
        have[index] if index < len(have) else Queue(index, -1, ()) for index in range(count)
    )
    return replace(topology, interface=replace(topology.interface, queues=queues))


def cannot(name: str, available: Sequence[str]) -> dict[str, str]:
    """Backend → why it cannot open the interface, for those that cannot."""
    link = inventory.link_of(name)
    if link is None:
        return {}
    if machine.taken(link.index):
        # The XDP program is a shardserver's: of one that lives, which the device's lock will tell,
        # or of orphans of a killed one that are just leaving.
        link = replace(link, xdp_mode="none")
    found = probe.verdicts(link, machine.read(), available)
    return {backend: why for backend, why in found.items() if why}


def wishes(config: Config, backend: str) -> Wishes:
    """What a server with this configuration wants of its interface. Pure.

    A MAC that is not the card's is no wish: a backend asks for its frames through a socket of its
    own, and the kernel takes that back when the socket closes, whoever is killed.
    """
    return Wishes(backend, config.offloads, config.promisc, config.channels, config.rss)


def plan_changes(name: str, config: Config, backend: str) -> ChangePlan:
    """What would be changed on the interface now. Raises what its driver cannot do."""
    with Card(name) as card:
        settings = apply.read(card)
    return changes.plan(name, settings, wishes(config, backend))


def check_way(name: str, config: Config, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Refuses an interface that the host lives by; with --force, a note."""
    return guard.check(guard.read(environment), name, config.force)


class Preparation:
    """The interface as the server wants it."""

    def __init__(self, change: Callable[[changes.Change], None], plan: ChangePlan) -> None:
        self._change = change
        self._plan = plan
        self.close_in_child: Callable[[], None] = lambda: None

    def before_open(self) -> None:
        """What has to be so when the rings are opened."""
        for change in self._plan.before_open:
            self._change(change)

    def after_open(self) -> None:
        """What opening the rings would undo."""
        for change in self._plan.after_open:
            self._change(change)


def _nothing(change: changes.Change) -> None:
    raise AssertionError(f"unplanned: {change}")


def _tell_undone(name: str, outcome: journal.Outcome, path: Path) -> None:
    log = logs.get()
    for line in outcome.stays:
        log.error("%s: %s; the journal stays: %s", name, line, path)
    for line in outcome.foreign:
        log.warning("%s: changed by somebody else meanwhile, left alone: %s", name, line)
    if not netif.index(name):
        log.info("%s: the interface is gone, and its settings with it", name)
    elif not outcome.stays:
        log.info("%s: every setting is as it was", name)


def restore_stale(name: str, index: int, candidates: Sequence[Path]) -> None:
    """Undoes what a killed server has left on the interface; its settings are not the original."""
    for record in journal.left_behind(candidates, index):
        outcome = journal.restore(record)
        if outcome.stays:
            raise ShardserverError(
                f"{name}: a killed server's changes could not be undone: "
                f"{'; '.join(outcome.stays)}",
                f"shardserver nic restore {name}",
            )
        words = "; ".join(changes.describe(change) for change in record.changes) or "nothing"
        logs.event(
            logging.WARNING,
            "nic_restored",
            f"{name}: the killed server {record.header.pid} had changed it; undone: {words}",
            interface=name,
        )


@contextmanager
def prepared(made: Plan, config: Config, environment: Mapping[str, str]) -> Iterator[Preparation]:
    """Undoes what a killed server left, then gives the means to change; undoes it at the end."""
    name = probe.interface_of(made.device)
    candidates = journal.directories(environment, os.geteuid())
    if not made.ifindex or not name:
        yield Preparation(_nothing, ChangePlan())
        return
    restore_stale(name, made.ifindex, candidates)
    with Card(name) as card:
        found = apply.read(card)
        plan = changes.plan(name, found, wishes(config, made.device.backend))
        for note in plan.notes:
            logs.get().warning("%s", note)
        if not plan.before_open and not plan.after_open:
            yield Preparation(_nothing, plan)
            return
        with _journalled(card, made.ifindex, config.name, candidates) as keeper:
            yield _preparation(keeper, plan)


def _preparation(keeper: journal.Journal, plan: ChangePlan) -> Preparation:
    def change(wanted: changes.Change) -> None:
        keeper.change(wanted)
        logs.event(
            logging.INFO,
            "nic_changed",
            f"{keeper.header.name}: {changes.describe(wanted)} (undone at the end)",
            interface=keeper.header.name,
        )

    made = Preparation(change, plan)
    made.close_in_child = keeper.close_in_child
    return made


@contextmanager
def _journalled(
    card: Card, index: int, instance_name: str, candidates: Sequence[Path]
) -> Iterator[journal.Journal]:
    header = journal.header(card, index, "server", instance_name)
    with journal.opened(card, header, journal.make_directory(candidates)) as keeper:
        try:
            yield keeper
        finally:
            _tell_undone(card.name, keeper.undo(), keeper.path)
