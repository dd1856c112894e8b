"""What machine this is: CPUs, NUMA nodes, an interface with its queues and IRQs, from sysfs.

`read` is the effect; what it returns is frozen, and `plan` decides on it.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator import netif
from shardserver import affinity, values

_MAPPED = "0000000000000000FFFF0000"  # ::ffff:0:0/96, as /proc/net/tcp6 writes it


@dataclass(frozen=True)
class Cpu:
    """A CPU that may be used. CPUs of one (package, core) are SMT siblings."""

    id: int
    node: int
    package: int
    core: int


@dataclass(frozen=True)
class Queue:
    """A hardware queue with the IRQ that serves it; -1 and () where the driver tells none."""

    index: int
    irq: int
    irq_cpus: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """A network interface. `node` is -1 when it has none."""

    name: str
    ifindex: int
    mac: bytes
    mtu: int
    node: int
    up: bool
    queues: tuple[Queue, ...]


@dataclass(frozen=True)
class NetmapPort:
    """What a netmap port's name says. `interface` is empty for pipes and VALE ports."""

    interface: str
    ring: int = -1  # the one that the name picks; -1: all
    nic: bool = True  # its NIC rings
    host: bool = False  # its host rings


@dataclass(frozen=True)
class Topology:
    """The machine as far as a plan needs it."""

    cpus: tuple[Cpu, ...]
    nodes: tuple[int, ...]
    interfaces: tuple[str, ...]
    interface: Interface | None
    host_addresses: tuple[int, ...]
    netmap: bool = False  # its kernel module is loaded
    netmap_port: NetmapPort | None = None
    listening: tuple[tuple[int, int], ...] = ()  # addresses and TCP ports of the host's programs
    gateway: int = 0  # of the default route through `interface`; 0: none


def _text(path: Path, default: str = "") -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return default


def _number(path: Path, default: int) -> int:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else default


def _cpu(sysfs: Path, cpu: int) -> Cpu:
    base = sysfs / f"devices/system/cpu/cpu{cpu}"
    nodes = [int(path.name[4:]) for path in base.glob("node[0-9]*")]
    return Cpu(
        id=cpu,
        node=min(nodes, default=0),
        package=_number(base / "topology/physical_package_id", 0),
        core=_number(base / "topology/core_id", cpu),
    )


def _irq_cpus(proc: Path, irq: int) -> tuple[int, ...]:
    text = _text(proc / f"irq/{irq}/effective_affinity_list")
    text = text or _text(proc / f"irq/{irq}/smp_affinity_list")
    try:
        return values.parse_cpus(text) if text else ()
    except ValueError:
        return ()


def _queue_irqs(proc: Path, name: str, device: str, count: int) -> dict[int, int]:
    """Queue → IRQ by the names that drivers give in /proc/interrupts.

    eth0-TxRx-3, eth0-rx-3, i40e-eth0-TxRx-3; by the bus: virtio2-input.3, mlx5_comp3@pci:DEVICE.
    """
    own = re.escape(name)
    irqs: dict[int, int] = {}
    for line in _text(proc / "interrupts").splitlines():
        found = re.match(r"\s*(\d+):", line)
        label = line.split()[-1] if line.split() else ""
        queue = re.fullmatch(
            rf"(?:\w+-|.*@)?{own}(?:-[A-Za-z]+)*[-.](\d+)|{own}-(?:input|rx)\.?(\d+)|"
            rf"{re.escape(device)}-input\.(\d+)|\w+_comp(\d+)@pci:{re.escape(device)}",
            label,
        )
        if found and queue and "tx-" not in label.lower():
            index = int(next(group for group in queue.groups() if group))
            if index < count:
                irqs.setdefault(index, int(found[1]))
    return irqs


def read_interface(sysfs: Path, proc: Path, name: str) -> Interface | None:
    """The interface, or None when there is none of that name."""
    base = sysfs / "class/net" / name
    ifindex = _number(base / "ifindex", 0)
    if not ifindex or "/" in name:
        return None
    count = max(1, len(list(base.glob("queues/rx-*"))))
    irqs = _queue_irqs(proc, name, (base / "device").resolve().name, count)
    mac = _text(base / "address", "00:00:00:00:00:00")
    return Interface(
        name=name,
        ifindex=ifindex,
        mac=bytes(int(octet, 16) for octet in mac.split(":"))[:6],
        mtu=_number(base / "mtu", 1500),
        node=_number(base / "device/numa_node", -1),
        up=bool(int(_text(base / "flags", "0x0"), 16) & 1),
        queues=tuple(
            Queue(index, irqs.get(index, -1), _irq_cpus(proc, irqs[index]) if index in irqs else ())
            for index in range(count)
        ),
    )


def host_addresses(proc: Path) -> tuple[int, ...]:
    """The IPv4 addresses that this host's kernel answers for in this network namespace."""
    found: list[int] = []
    last = ""
    for line in _text(proc / "net/fib_trie").splitlines():
        address = re.search(r"\|-- (\d+\.\d+\.\d+\.\d+)", line)
        if address:
            last = address[1]
        elif "/32 host LOCAL" in line and last:
            found.append(values.parse_ip(last))
    return tuple(dict.fromkeys(found))


def listening(proc: Path) -> tuple[tuple[int, int], ...]:
    """Where programs of this host wait for TCP connections: address and port; 0 for any."""
    found: list[tuple[int, int]] = []
    for name in ("tcp", "tcp6"):
        for line in _text(proc / "net" / name).splitlines()[1:]:
            words = line.split()
            if len(words) < 4 or words[3] != "0A":
                continue
            address, _, port = words[1].partition(":")
            found.append((_kernel_ip(address), int(port, 16)))
    return tuple(dict.fromkeys(found))


def _kernel_ip(text: str) -> int:
    """An address as /proc/net writes it: in 32-bit words of the machine's order; 0 for any."""
    if len(text) > 8 and text[:24] != _MAPPED:  # IPv6: only [::] hears IPv4 as well
        return 0 if int(text, 16) == 0 else -1
    return int.from_bytes(int(text[-8:], 16).to_bytes(4, sys.byteorder), "big")


def gateway(proc: Path, interface: str) -> int:
    """The router of the default route through an interface; 0 for none."""
    for line in _text(proc / "net/route").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[0] == interface and int(words[1], 16) == int(words[7], 16) == 0:
            return _kernel_ip(words[2])
    return 0


def _interfaces(network: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in network.iterdir())) if network.is_dir() else ()


def _foreign_interface(name: str) -> Interface | None:
    """One that sysfs does not show, because sysfs belongs to another network namespace."""
    ifindex = netif.index(name)
    if not ifindex:
        return None
    mac, mtu, up, count = netif.facts(name)
    queues = tuple(Queue(number, -1, ()) for number in range(count))
    return Interface(name, ifindex, mac, mtu, -1, up, queues)


def _interface(sysfs: Path, proc: Path, name: str) -> Interface | None:
    found = read_interface(sysfs, proc, name)
    if sysfs == Path("/sys") and (found.ifindex if found else 0) != netif.index(name):
        return _foreign_interface(name)
    return found


def read(interface: str, sysfs: Path = Path("/sys"), proc: Path = Path("/proc")) -> Topology:
    """Reads the machine; `interface` may be empty."""
    network = sysfs / "class/net"
    return Topology(
        cpus=tuple(_cpu(sysfs, cpu) for cpu in affinity.allowed_cpus()),
        nodes=affinity.online_nodes(sysfs),
        interfaces=netif.names() if sysfs == Path("/sys") else _interfaces(network),
        interface=_interface(sysfs, proc, interface) if interface else None,
        host_addresses=host_addresses(proc),
        netmap=Path("/dev/netmap").exists(),
        listening=listening(proc),
        gateway=gateway(proc, interface),
    )
