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
from dataclasses import dataclass
from pathlib import Path

from orchestrator import control, plan, rings, topology
from orchestrator.link import ControlLink
from orchestrator.shards import Shard
from orchestrator.signals import Inbox
from orchestrator.supervisor import Hooks, Supervisor, Timings
from orchestrator.telemetry import InstanceInfo
from shardserver import __version__, affinity, instance, logs, native, privileges, worker
from shardserver.config import Config
from shardserver.instance import DeviceLock, InstanceLock, Paths


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
    rings: rings.Rings
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


def _assemble(stack: ExitStack, config: Config, made: plan.Plan, paths: Paths) -> Parts:
    """Each stage in turn; `stack` undoes them."""
    started_s = time.monotonic()
    identity = privileges.resolve(config.user, config.group)
    lock = stack.enter_context(InstanceLock(paths))
    key = instance.device_key(made.device.backend, made.device.name, made.ifindex)
    grace_s = instance.stale_grace_s(lock.was_stale)
    stack.enter_context(DeviceLock(key, str(made.device), grace_s))
    opened = stack.enter_context(rings.opened(made, config))
    router = _listen(stack, paths.control)
    publisher = _listen(stack, paths.events)
    shards = [Shard(shard) for shard in made.shards]
    listeners = [_listen(stack, paths.shard(shard.shard)) for shard in made.shards]
    inbox = stack.enter_context(Inbox())
    return Parts(
        config, made, lock, opened, shards, listeners, router, publisher, inbox, identity, started_s
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
                router=parts.router,
                router_endpoint=_endpoint(paths.control),
                publisher=parts.publisher,
                publisher_endpoint=_endpoint(paths.events),
                worker_endpoints=[seat.endpoint for seat in self._seats],
                channel=channel,
                close_others=lambda: self._close(*parts.listeners),
            )
        )


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


def _supervise(stack: ExitStack, parts: Parts, callbacks: Callbacks) -> None:
    builder = Builder(parts, callbacks.in_child)
    device = parts.rings.device
    supervisor = Supervisor(
        parts.shards,
        parts.rings.server,
        ControlLink(builder.control),
        Timings(parts.config.boot_timeout / 1e6, parts.config.graceful_timeout / 1e6),
        Hooks(
            make_job=builder.worker,
            on_ready=lambda: _tell_ready(parts, callbacks),
            device_fd=device.info.event_fd,
            device_event=device.event,
            reopen_logs=callbacks.reopen_logs,
        ),
    )
    builder.supervisor = supervisor
    stack.callback(supervisor.close)
    worker.preload()
    supervisor.run(parts.inbox)
    if supervisor.aborted:
        logs.get().warning("%d connections were reset", supervisor.aborted)


def make_plan(config: Config) -> plan.Plan:
    """What `run` would do on this machine: --dry-run."""
    name = config.iface or (config.device.name if config.device else "")
    on_wire = not config.device or config.device.backend != "mem"
    machine = topology.read(name if on_wire else "")
    return plan.make(config, machine, native.backend_names())


def run(config: Config, environment: Mapping[str, str], callbacks: Callbacks) -> None:
    """Runs a server until it has stopped; raises what kept it from starting or going on."""
    made = make_plan(config)
    paths = Paths(instance.runtime_dir(environment, os.geteuid()), config.name)
    with ExitStack() as stack:
        parts = _assemble(stack, config, made, paths)
        _banner(parts)
        _supervise(stack, parts, callbacks)
    logs.get().info("stopped; nothing is left")
