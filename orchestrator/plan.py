"""Topology and configuration → which shard runs on which ring, CPU and node. Pure.

The order of CPUs: those of the ring's NUMA node first, one per physical core, then the SMT
siblings, then other nodes. A ring whose IRQ is bound to one usable CPU runs there. When there
are more shards than CPUs the order starts again, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from orchestrator import sharing
from orchestrator.sharing import NOT_SHARED, Sharing
from orchestrator.topology import Cpu, NetmapPort, Topology
from shardserver import values
from shardserver.config import Config
from shardserver.errors import (
    ConfigInvalidError,
    DeviceUnavailableError,
    NoPermissionError,
    UsageError,
)
from shardserver.nic import policy
from shardserver.nic.probe import LADDER, interface_of
from shardserver.values import Address, DeviceName

_NO_RUNG = "run as root, or in a network namespace of your own; --device mem:NAME needs neither"
MEM_ADDRESS = Address(values.parse_ip("10.77.0.1"), 16)
NOTHING: Mapping[str, str] = MappingProxyType({})
# In shared memory: no interface, no address to collide with.
SOFTWARE = ("mem", "vale")
HARDWARE_RINGS = frozenset({"netmap", "xdp"})
# As many rings as are asked for, whatever the interface has.
SOFTWARE_RINGS = frozenset({*SOFTWARE, "tap", "pcap", "vde"})


@dataclass(frozen=True)
class ShardPlan:
    """Where one shard runs."""

    shard: int
    ring: str
    cpu: int
    node: int


@dataclass(frozen=True)
class Plan:
    """What `start` will do. `notes` explain choices that nobody made by name; `changes` are those
    of the interface, in words."""

    device: DeviceName
    ifindex: int
    address: Address
    shards: tuple[ShardPlan, ...]
    ladder: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sharing: Sharing = NOT_SHARED
    changes: tuple[str, ...] = ()

    @property
    def policy(self) -> str:
        """Who gets the interface's frames."""
        return self.sharing.policy


def choose_backend(
    wanted: DeviceName, available: Sequence[str], refused: Mapping[str, str] = NOTHING
) -> tuple[str, tuple[str, ...]]:
    """The backend, and for "auto" the ladder with a reason for every rung passed over.

    `refused`: what cannot be opened on this interface, and why.
    """
    if wanted.backend != "auto":
        if wanted.backend in available:
            return wanted.backend, ()
        raise DeviceUnavailableError(
            f"{wanted}: the backend {wanted.backend} is not in this build",
            f"this build has {', '.join(available)}: give --device "
            f"{'packet:' + wanted.name if 'packet' in available else 'mem:NAME'}",
        )
    ladder: list[str] = []
    for backend in LADDER:
        why = refused.get(backend, "") if backend in available else "not in this build"
        if not why:
            return backend, (*ladder, f"{backend}: taken")
        ladder.append(f"{backend}: {why}")
    kind = NoPermissionError if "CAP_" in ladder[-1] else DeviceUnavailableError
    raise kind(f"{wanted.name}: no backend can open it: {'; '.join(ladder)}", _NO_RUNG)


def _check_interface(device: DeviceName, topology: Topology) -> None:
    name = interface_of(device)
    if not name:
        return
    who = name if device.backend == "auto" else str(device)
    if topology.interface is None:
        have = ", ".join(topology.interfaces) or "none"
        raise DeviceUnavailableError(
            f"{who}: this network namespace has no interface {name}", f"interfaces here: {have}"
        )
    if not topology.interface.up:
        raise DeviceUnavailableError(f"{who}: the interface is down", f"ip link set {name} up")


def _host_side(device: DeviceName, address: Address, topology: Topology) -> tuple[str, ...]:
    """What is left to do on the host's side of a TAP: its address is the user's to give."""
    rest = 32 - address.prefix
    net = address.ip >> rest << rest
    if device.backend != "tap" or rest < 2:
        return ()
    if any(known >> rest << rest == net for known in topology.host_addresses):
        return ()
    host = next(net + place for place in (1, 2) if net + place != address.ip)
    command = f"ip addr add {values.ip_text(host)}/{address.prefix} dev {device.name}"
    return (f"the host reaches the server once its side has an address: {command}",)


def _check_card(config: Config, device: DeviceName, topology: Topology) -> None:
    """What would change a card is not passed over where there is none."""
    if topology.interface is not None and device.backend not in SOFTWARE:
        return
    asked = {
        f"--offloads {config.offloads}": config.offloads != "auto",
        "--promisc": config.promisc,
        f"--channels {config.channels}": config.channels,
        f"--rss {','.join(config.rss)}": config.rss,
    }
    for flag, given in asked.items():
        if given:
            raise ConfigInvalidError(
                f"{device}: {flag} is for a network card, and there is none behind it",
                "leave it out",
            )


def _address(config: Config, device: DeviceName) -> Address:
    address = config.ip
    if address is None and device.backend in SOFTWARE:
        address = MEM_ADDRESS
    if address is None:
        raise UsageError(
            f"{device}: no address for the server",
            "give --ip ADDRESS/PREFIX: one of the interface's network that no host uses",
        )
    _check_gateway(config.gateway, address)
    return address


def _check_gateway(gateway: int | None, address: Address) -> None:
    """A next hop is asked for on the wire: elsewhere nobody would answer. A /32 has no network."""
    if gateway is None:
        return
    text = values.ip_text(gateway)
    if gateway == address.ip:
        raise ConfigInvalidError(f"--gateway {text} is the server's own address", "leave it out")
    rest = 32 - address.prefix
    if rest and gateway >> rest != address.ip >> rest:
        raise ConfigInvalidError(
            f"--gateway {text} is not in the network of {address}",
            "give a next hop of that network, or --ip with another prefix",
        )


def _sharing(config: Config, device: DeviceName, address: Address, topology: Topology) -> Sharing:
    if device.backend in SOFTWARE:  # in shared memory: no host has its address
        topology = replace(topology, host_addresses=())
    return sharing.decide(config, device, address.ip, topology)


def _taken(topology: Topology, queues: tuple[int, ...]) -> Topology:
    """The machine with those of the interface's queues that the server takes; () for all."""
    if not queues or topology.interface is None:
        return topology
    mine = tuple(queue for queue in topology.interface.queues if queue.index in queues)
    return replace(topology, interface=replace(topology.interface, queues=mine))


def _usable(config: Config, topology: Topology) -> tuple[Cpu, ...]:
    if not config.cpus:
        return topology.cpus
    by_id = {cpu.id: cpu for cpu in topology.cpus}
    missing = [cpu for cpu in config.cpus if cpu not in by_id]
    if missing:
        raise ConfigInvalidError(
            f"--cpus: this process may not use CPU {values.list_text(missing)}",
            f"CPUs allowed here: {values.list_text([cpu.id for cpu in topology.cpus])}",
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


def _netmap_rings(topology: Topology) -> int:
    """Each needs a worker, whatever the CPUs: a ring without one would keep its frames."""
    port = topology.netmap_port or NetmapPort(topology.interface.name if topology.interface else "")
    if port.ring >= 0 or not topology.interface:
        return 1
    nic = len(topology.interface.queues) if port.nic else 0
    return max(1, min(nic + port.host, 64))  # one host ring, unless the name asks for more


def _worker_count(config: Config, device: DeviceName, topology: Topology, cpus: int) -> int:
    if config.workers:
        return config.workers
    if device.backend == "netmap":
        return _netmap_rings(topology)
    if device.backend == "vale":  # a switch's port has one ring pair
        return 1
    own_rings = topology.interface is not None and device.backend not in SOFTWARE_RINGS
    rings = len(topology.interface.queues) if topology.interface and own_rings else 64
    return max(1, min(rings, cpus, 64))


def _place(
    device: DeviceName, count: int, order: Sequence[Cpu], topology: Topology
) -> tuple[ShardPlan, ...]:
    shards = []
    usable = {cpu.id: cpu for cpu in order}
    queues = topology.interface.queues if topology.interface else ()
    one = topology.netmap_port.ring if topology.netmap_port else -1
    for shard in range(count):
        cpu = order[shard % len(order)]
        queue = max(one, shard)
        number = queues[queue].index if queue < len(queues) else shard
        if device.backend in HARDWARE_RINGS and queue < len(queues):
            bound = queues[queue].irq_cpus
            if len(bound) == 1 and bound[0] in usable:
                cpu = usable[bound[0]]
        ring = str(device) if one >= 0 else f"{device}-{number}"
        shards.append(ShardPlan(shard, ring, cpu.id, cpu.node))
    return tuple(shards)


def next_rung(config: Config, available: Sequence[str], refused: Mapping[str, str]) -> bool:
    """Whether the ladder has another backend to try; one asked for by name has none."""
    open_to_choice = config.wanted_device.backend == "auto"
    return open_to_choice and any(r in available and r not in refused for r in LADDER)


def make(
    config: Config,
    topology: Topology,
    available: Sequence[str],
    refused: Mapping[str, str] = NOTHING,
) -> Plan:
    """Decides; raises what the user has to change."""
    wanted = config.wanted_device
    if not wanted.name:
        raise UsageError(
            "no device: nothing to open rings on",
            "give --iface eth0, or --device mem:test for a software NIC",
        )
    if wanted.backend in ("auto", *available):
        _check_interface(wanted, topology)
    absent = {} if topology.netmap else {"netmap": "no /dev/netmap: its module is not loaded"}
    refused = sharing.unable(sharing.wanted_policy(config), {**absent, **refused})
    backend, ladder = choose_backend(wanted, available, refused)
    device = replace(wanted, backend=backend)
    node = topology.interface.node if topology.interface else -1
    order = order_cpus(_usable(config, topology), node, config.numa)
    if not order:
        raise ConfigInvalidError(
            f"{device} is on NUMA node {node}, and no CPU allowed is",
            "give --cpus of that node, or --numa prefer",
        )
    _check_card(config, device, topology)
    address = _address(config, device)
    shares = _sharing(config, device, address, topology)
    count = _worker_count(config, device, _taken(topology, shares.queues), len(order))
    return Plan(
        device=device,
        ifindex=topology.interface.ifindex if topology.interface else 0,
        address=address,
        shards=_place(device, count, order, _taken(topology, shares.queues)),
        ladder=ladder,
        notes=(
            *_notes(
                count,
                order,
                node,
                _taken(topology, shares.queues),
                device.backend in SOFTWARE_RINGS,
            ),
            *_host_side(device, address, topology),
            *shares.notes,
        ),
        sharing=shares,
    )


def _notes(
    count: int, order: Sequence[Cpu], node: int, topology: Topology, software_rings: bool
) -> tuple[str, ...]:
    notes = []
    if count > len(order):
        notes.append(f"{count} shards share {len(order)} CPUs")
    far = [cpu.id for cpu in order[:count] if node >= 0 and cpu.node != node]
    if far:
        notes.append(f"CPU {', '.join(map(str, far))} is not on the interface's NUMA node {node}")
    if topology.interface and not software_rings and count < len(topology.interface.queues):
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
    lines += [f"change    {change} (undone at the end)" for change in plan.changes]
    lines += [
        f"policy    {policy.explain(plan.policy)}",
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
        "policy": plan.policy,
        "changes": list(plan.changes),
        "notes": list(plan.notes),
        "shards": [
            {"id": shard.shard, "ring": shard.ring, "cpu": shard.cpu, "node": shard.node}
            for shard in plan.shards
        ],
    }
