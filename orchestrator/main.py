"""Starts a server, stage by stage, and supervises it. Start reading at `run`.

Every stage is a context manager on one stack: whatever fails, what came before is undone in
reverse order, and nothing is left: no process, file, socket or mapping.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator import control, host, plan, rings, topology
from orchestrator.link import ControlLink
from orchestrator.linkwatch import LinkWatch
from orchestrator.shards import Shard
from orchestrator.signals import Inbox
from orchestrator.supervisor import Hooks, Supervisor, Timings
from orchestrator.telemetry import InstanceInfo
from shardserver import (
    __version__,
    affinity,
    instance,
    logs,
    native,
    native_conns,
    native_netmap,
    privileges,
    worker,
)
from shardserver.config import Config
from shardserver.errors import DeviceUnavailableError, TimedOutError
from shardserver.instance import DeviceLock, InstanceLock, Paths
from shardserver.nic import changes, policy, probe
from shardserver.values import DeviceName


@dataclass(frozen=True)
class Callbacks:
    """What the command line wants to be told."""

    on_ready: Callable[[], None] = lambda: None
    reopen_logs: Callable[[], None] = lambda: None
    in_child: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Parts:
    """A server's parts, made by the stages of `run`."""

    config: Config
    plan: plan.Plan
    lock: InstanceLock
    nic: host.Preparation
    rings: rings.Rings
    watch: LinkWatch
    shards: list[Shard]
    listeners: list[socket.socket]
    router: socket.socket
    publisher: socket.socket
    inbox: Inbox
    identity: privileges.Identity
    started_s: float


def _listen(stack: ExitStack, path: Path) -> socket.socket:
    listener = instance.listen(path)
    stack.callback(listener.close)
    return listener


def _endpoint(path: Path) -> str:
    return f"ipc://{path}"


def _assemble(
    stack: ExitStack, config: Config, made: plan.Plan, environment: Mapping[str, str]
) -> Parts:
    """Each stage in turn; `stack` undoes them."""
    started_s = time.monotonic()
    paths = Paths(instance.runtime_dir(environment, os.geteuid()), config.name)
    identity = privileges.resolve(config.user, config.group)
    lock = stack.enter_context(InstanceLock(paths))
    key = instance.device_key(made.device.backend, made.device.name, made.ifindex)
    grace_s = instance.stale_grace_s(lock.was_stale)
    stack.enter_context(DeviceLock(key, str(made.device), grace_s))
    inbox = stack.enter_context(Inbox())  # a signal must not fall between a change and its undoing
    nic = stack.enter_context(host.prepared(made, config, environment))
    nic.before_open()
    opened = stack.enter_context(rings.opened(made, config))
    nic.after_open()
    watch = stack.enter_context(LinkWatch(_interface(made.device)))
    router = _listen(stack, paths.control)
    publisher = _listen(stack, paths.events)
    shards = [Shard(shard) for shard in made.shards]
    listeners = [_listen(stack, paths.shard(shard.shard)) for shard in made.shards]
    return Parts(
        config=config,
        plan=made,
        lock=lock,
        nic=nic,
        rings=opened,
        watch=watch,
        shards=shards,
        listeners=listeners,
        router=router,
        publisher=publisher,
        inbox=inbox,
        identity=identity,
        started_s=started_s,
    )


def _instance_info(parts: Parts) -> InstanceInfo:
    info = parts.rings.device.info
    return InstanceInfo(
        name=parts.config.name,
        version=__version__,
        pid=os.getpid(),
        device=info.name,
        backend=info.backend,
        engine=parts.config.engine,
        banner=info.banner,
        address=str(parts.plan.address),
        services=[str(service) for service in parts.config.services],
        started=time.time(),
        engine_version=parts.rings.server.engine,
    )


class Builder:
    """Makes the jobs of children; knows what each must close."""

    def __init__(self, parts: Parts, in_child: Callable[[], None]) -> None:
        self._parts = parts
        self._in_child = in_child
        self._info = _instance_info(parts)
        self._seats = [
            worker.Seat(
                shard=shard.shard,
                cpu=shard.cpu,
                node=shard.node,
                memory=affinity.preload(shard.node, parts.config.numa),
                listener=listener,
                endpoint=_endpoint(parts.lock.paths.shard(shard.shard)),
            )
            for shard, listener in zip(parts.plan.shards, parts.listeners, strict=True)
        ]
        self.supervisor: Supervisor | None = None

    def _close(self, *listeners: socket.socket) -> None:
        self._parts.lock.close_in_child()
        self._parts.inbox.close_in_child()
        self._parts.nic.close_in_child()
        self._parts.watch.close_in_child()
        self._in_child()
        for listener in listeners:
            listener.close()
        if self.supervisor:
            self.supervisor.close_in_child()

    def worker(self, channel: socket.socket, output: int) -> worker.Job:
        """The job of the next worker."""
        parts = self._parts
        return worker.Job(
            core=parts.rings.server,
            parent=self._info.pid,
            seats=self._seats,
            numa=parts.config.numa,
            identity=parts.identity,
            confine=native.confine,
            channel=channel,
            output=output,
            close_others=lambda: self._close(parts.router, parts.publisher),
        )

    def control(self, channel: socket.socket) -> int:
        """`control` itself, in its process."""
        parts = self._parts
        paths = parts.lock.paths
        return control.main(
            control.Job(
                instance=self._info,
                read_stats=parts.rings.server.stats,
                read_conns=partial(native_conns.read, parts.rings.server),
                router=parts.router,
                router_endpoint=_endpoint(paths.control),
                publisher=parts.publisher,
                publisher_endpoint=_endpoint(paths.events),
                worker_endpoints=[seat.endpoint for seat in self._seats],
                channel=channel,
                close_others=lambda: self._leave(*parts.listeners),
            )
        )

    def _leave(self, *listeners: socket.socket) -> None:
        """For `control`, which serves no ring: a device stays taken while anybody holds one."""
        self._close(*listeners)
        self._parts.rings.device.leave()


def _banner(parts: Parts) -> None:
    info = parts.rings.device.info
    shards = parts.plan.shards
    cpus = len({shard.cpu for shard in shards})
    shared = " (shared)" if cpus < len(shards) else ""
    log = logs.get()
    log.info(
        "shardserver %s · device %s (%s) · engine %s · %d shard%s on %d CPU%s%s · workers: %s",
        __version__,
        info.name,
        info.banner,
        parts.rings.server.engine,
        len(shards),
        "s" * (len(shards) > 1),
        cpus,
        "s" * (cpus > 1),
        shared,
        parts.identity.note,
    )
    for rung in parts.plan.ladder:
        log.info("backend: %s", rung)
    log.info("policy %s", policy.explain(parts.plan.policy))
    if parts.config.engine != "native":
        log.info("engine: at most %d connections a shard", parts.rings.server.conns_max)
    for note in parts.plan.notes:
        log.info("note: %s", note)


def _tell_ready(parts: Parts, callbacks: Callbacks) -> None:
    for shard in parts.shards:
        info = shard.info()
        logs.get().info("shard %d  pid %d  ring %s  cpu %d", info.id, info.pid, info.ring, info.cpu)
    address = str(parts.plan.address).partition("/")[0]
    services = " ".join(
        f"{service.name} on {address}:{service.tcp_port}" for service in parts.config.services
    )
    seconds = time.monotonic() - parts.started_s
    logs.event(
        logging.INFO,
        "ready",
        f"ready in {seconds:.2f} s · {services} (Press CTRL+C to quit)",
        seconds=round(seconds, 3),
    )
    callbacks.on_ready()


def _device_event(device: native.Device) -> None:
    if device.event():
        logs.event(
            logging.WARNING, "feeder_died", f"{device.info.name}: its feeder died and was replaced"
        )


def _supervise(stack: ExitStack, parts: Parts, callbacks: Callbacks) -> None:
    builder = Builder(parts, callbacks.in_child)
    device = parts.rings.device
    supervisor = Supervisor(
        parts.shards,
        parts.rings.server,
        ControlLink(builder.control),
        Timings(
            parts.config.boot_timeout / 1e6,
            parts.config.graceful_timeout / 1e6,
            parts.config.confirm / 1e6,
        ),
        Hooks(
            make_job=builder.worker,
            on_ready=lambda: _tell_ready(parts, callbacks),
            device_fd=device.info.event_fd,
            device_event=lambda: _device_event(device),
            reopen_logs=callbacks.reopen_logs,
            link_fd=parts.watch.fileno(),
            link_event=lambda: parts.watch.take(supervisor.give_up, parts.rings.server.wake),
        ),
    )
    builder.supervisor = supervisor
    stack.callback(supervisor.close)
    worker.preload()
    supervisor.run(parts.inbox)
    if supervisor.aborted:
        logs.get().warning("%d connections were reset", supervisor.aborted)
    if supervisor.unconfirmed:
        raise TimedOutError(
            f"not confirmed within {parts.config.confirm / 1e6:g} s: the server was stopped and "
            "every change to the interface undone",
            f"shardserver confirm -n {parts.config.name}, in time, keeps it",
        )


def _interface(device: DeviceName) -> str:
    """The interface that a device stands on, or ""."""
    if device.backend == "netmap":
        name = native_netmap.netmap_name(device.name)
        return name.iface if name.nic or name.host else ""
    if device.backend == "tap":  # made by the open, maybe
        return device.name
    return probe.interface_of(device)


def _netmap_port(wanted: DeviceName) -> topology.NetmapPort:
    """What the name of a netmap port says of its interface and rings."""
    name = native_netmap.netmap_name(wanted.name)
    ring = name.ring if name.one_ring else -1
    return topology.NetmapPort(name.iface, ring, nic=name.nic, host=name.host)


def make_plan(config: Config, refused: Mapping[str, str] = plan.NOTHING) -> plan.Plan:
    """What `run` would do on this machine: --dry-run. `refused`: why a backend did not open it."""
    wanted = config.wanted_device
    port = _netmap_port(wanted) if wanted.backend == "netmap" and wanted.name else None
    name = port.interface if port else probe.interface_of(wanted)
    available = native.backend_names()
    machine = replace(topology.read(name), netmap_port=port)
    machine = host.with_channels(machine, config.channels)
    if wanted.backend == "netmap" and not machine.netmap:  # before anything is changed for it
        raise DeviceUnavailableError(
            f"{wanted}: no /dev/netmap: its module is not loaded",
            "modprobe netmap, or give --device packet:IFACE",
        )
    cannot = {**(host.cannot(name, available) if name else {}), **refused}
    made = plan.make(config, machine, available, cannot)
    if not made.ifindex or not machine.interface:
        return made
    notes = host.check_way(name, config, os.environ)
    planned = host.plan_changes(name, config, made.device.backend)
    words = [changes.describe(c) for c in (*planned.before_open, *planned.after_open)]
    return replace(made, notes=(*made.notes, *notes, *planned.notes), changes=tuple(words))


def _run_on(
    config: Config, made: plan.Plan, environment: Mapping[str, str], calls: Callbacks
) -> None:
    with ExitStack() as stack:
        parts = _assemble(stack, config, made, environment)
        _banner(parts)
        _supervise(stack, parts, calls)


def run(config: Config, environment: Mapping[str, str], callbacks: Callbacks) -> None:
    """Runs a server until it has stopped; raises what kept it from starting or going on.

    Where the backend is left open and one refuses the device, the next rung of the ladder is taken.
    """
    refused: dict[str, str] = {}
    while True:
        made = make_plan(config, refused)
        try:
            _run_on(config, made, environment, callbacks)
            break
        except rings.NotOpenedError as failed:
            refused[made.device.backend] = failed.error.message
            if not plan.next_rung(config, native.backend_names(), refused):
                raise failed.error from None
    logs.get().info("stopped; nothing is left")
