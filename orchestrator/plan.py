"""Topology and configuration → which shard runs on which ring, CPU and node. Pure.

The order of CPUs: those of the ring's NUMA node first, one per physical core, then the SMT
siblings, then other nodes. A ring whose IRQ is bound to one usable CPU runs there. When there
are more shards than CPUs the order starts again, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.topology import Cpu, Topology
from shardserver import values
from shardserver.config import Config
from shardserver.errors import ConfigInvalidError, DeviceUnavailableError, UsageError
from shardserver.values import Address, DeviceName

MEM_ADDRESS = Address(values.parse_ip("10.77.0.1"), 16)
# How an interface's rings may be opened, the fastest first.
LADDER = ("netmap", "xdp", "packet")
HARDWARE_RINGS = frozenset({"netmap", "xdp"})


@dataclass(frozen=True)
class ShardPlan:
    """Where one shard runs."""

    shard: int
    ring: str
    cpu: int
    node: int


@dataclass(frozen=True)
class Plan:
    """What `start` will do. `notes` explain choices that nobody made by name."""

    device: DeviceName
    ifindex: int
    address: Address
    shards: tuple[ShardPlan, ...]
    ladder: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_backend(wanted: DeviceName, available: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The backend, and for "auto" the ladder with a reason for every rung passed over."""
    known = (*LADDER, "mem", "tap", "pcap", "vde")
    if wanted.backend != "auto":
        if wanted.backend in available:
            return wanted.backend, ()
        if wanted.backend in known:
            raise DeviceUnavailableError(
                f"{wanted}: the backend {wanted.backend} is not in this build",
                f"this build has {', '.join(available)}: give --device "
                f"{'packet:' + wanted.name if 'packet' in available else 'mem:NAME'}",
            )
        raise UsageError(
            f"{wanted}: unknown backend {wanted.backend}", f"backends are {', '.join(available)}"
        )
    ladder: list[str] = []
    for backend in LADDER:
        if backend in available:
            return backend, (*ladder, f"{backend}: taken")
        ladder.append(f"{backend}: not in this build")
    raise DeviceUnavailableError(f"{wanted.name}: no backend of this build can open it")


def _check_interface(name: str, backend: str, topology: Topology) -> None:
    if topology.interface is None:
        have = ", ".join(topology.interfaces) or "none"
        raise DeviceUnavailableError(
            f"{backend}:{name}: this network namespace has no interface {name}",
            f"interfaces here: {have}",
        )
    if not topology.interface.up:
        raise DeviceUnavailableError(
            f"{backend}:{name}: the interface is down", f"ip link set {name} up"
        )


def _address(config: Config, device: DeviceName, topology: Topology) -> Address:
    if config.ip is None:
        if device.backend == "mem":
            return MEM_ADDRESS
        raise UsageError(
            f"{device}: no address for the server",
            "give --ip ADDRESS/PREFIX: one of the interface's network that no host uses",
        )
    if device.backend != "mem" and config.ip.ip in topology.host_addresses:
        raise ConfigInvalidError(
            f"{values.ip_text(config.ip.ip)} is this host's own address: its kernel would "
            "answer the same packets",
            "give --ip an address of the same network that no host uses",
        )
    return config.ip


def _usable(config: Config, topology: Topology) -> tuple[Cpu, ...]:
    if not config.cpus:
        return topology.cpus
    by_id = {cpu.id: cpu for cpu in topology.cpus}
    missing = [cpu for cpu in config.cpus if cpu not in by_id]
    if missing:
        allowed = ",".join(str(cpu.id) for cpu in topology.cpus)
        raise ConfigInvalidError(
            f"--cpus: this process may not use CPU {', '.join(map(str, missing))}",
            f"CPUs allowed here: {allowed}",
        )
    return tuple(by_id[cpu] for cpu in config.cpus)


def order_cpus(cpus: Sequence[Cpu], node: int, mode: str) -> tuple[Cpu, ...]:
    """CPUs in the order in which shards take them."""
    if mode == "strict" and node >= 0:
        cpus = [cpu for cpu in cpus if cpu.node == node]
    seen: dict[tuple[int, int], int] = {}
    ranked = []
    for place, cpu in enumerate(cpus):
        sibling = seen.setdefault((cpu.package, cpu.core), 0)
        seen[(cpu.package, cpu.core)] += 1
        far = int(mode != "off" and node >= 0 and cpu.node != node)
        ranked.append((far, sibling, place, cpu))
    return tuple(entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3]))


def _worker_count(config: Config, device: DeviceName, topology: Topology, cpus: int) -> int:
    if config.workers:
        return config.workers
    rings = len(topology.interface.queues) if topology.interface else 64
    return max(1, min(rings, cpus, 64)) if device.backend != "mem" else max(1, min(cpus, 64))


def _place(
    device: DeviceName, count: int, order: Sequence[Cpu], topology: Topology
) -> tuple[ShardPlan, ...]:
    shards = []
    usable = {cpu.id: cpu for cpu in order}
    queues = topology.interface.queues if topology.interface else ()
    for shard in range(count):
        cpu = order[shard % len(order)]
        if device.backend in HARDWARE_RINGS and shard < len(queues):
            bound = queues[shard].irq_cpus
            if len(bound) == 1 and bound[0] in usable:
                cpu = usable[bound[0]]
        shards.append(ShardPlan(shard, f"{device}-{shard}", cpu.id, cpu.node))
    return tuple(shards)


def make(config: Config, topology: Topology, available: Sequence[str]) -> Plan:
    """Decides; raises what the user has to change."""
    wanted = config.wanted_device
    if not wanted.name:
        raise UsageError(
            "no device: nothing to open rings on",
            "give --iface eth0, or --device mem:test for a software NIC",
        )
    backend, ladder = choose_backend(wanted, available)
    device = replace(wanted, backend=backend)
    if backend != "mem":
        _check_interface(device.name, backend, topology)
    node = topology.interface.node if topology.interface else -1
    order = order_cpus(_usable(config, topology), node, config.numa)
    if not order:
        raise ConfigInvalidError(
            f"{device} is on NUMA node {node}, and no CPU allowed is",
            "give --cpus of that node, or --numa prefer",
        )
    count = _worker_count(config, device, topology, len(order))
    return Plan(
        device=device,
        ifindex=topology.interface.ifindex if topology.interface else 0,
        address=_address(config, device, topology),
        shards=_place(device, count, order, topology),
        ladder=ladder,
        notes=_notes(count, order, node, topology),
    )


def _notes(count: int, order: Sequence[Cpu], node: int, topology: Topology) -> tuple[str, ...]:
    notes = []
    if count > len(order):
        notes.append(f"{count} shards share {len(order)} CPUs")
    far = [cpu.id for cpu in order[:count] if node >= 0 and cpu.node != node]
    if far:
        notes.append(f"CPU {', '.join(map(str, far))} is not on the interface's NUMA node {node}")
    if topology.interface and count < len(topology.interface.queues):
        notes.append(
            f"{len(topology.interface.queues)} queues for {count} shards: a ring takes from several"
        )
    return tuple(notes)


def render(plan: Plan, config: Config) -> list[str]:
    """The plan in words: what --dry-run prints."""
    lines = [f"device    {plan.device}"]
    if plan.ladder:
        lines.append(f"backend   {' · '.join(plan.ladder)}")
    services = " ".join(str(service) for service in config.services)
    lines += [
        f"address   {plan.address}",
        f"services  {services}",
        f"engine    {config.engine}",
        f"workers   {len(plan.shards)}",
    ]
    lines += [
        f"  shard {shard.shard:<3} ring {shard.ring:<20} cpu {shard.cpu:<3} node {shard.node}"
        for shard in plan.shards
    ]
    lines += [f"note: {note}" for note in plan.notes]
    return lines


def document(plan: Plan, config: Config) -> dict[str, object]:
    """The plan as data: --dry-run --json."""
    return {
        "schema": 1,
        "device": str(plan.device),
        "address": str(plan.address),
        "engine": config.engine,
        "services": [str(service) for service in config.services],
        "ladder": list(plan.ladder),
        "notes": list(plan.notes),
        "shards": [
            {"id": shard.shard, "ring": shard.ring, "cpu": shard.cpu, "node": shard.node}
            for shard in plan.shards
        ],
    }
