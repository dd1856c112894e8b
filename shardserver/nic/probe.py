"""Which backends can open an interface here, and why the others cannot. Pure; start at `why_not`.

What is asked beforehand is what can be asked without touching the interface. A backend that passes
may still be refused when it opens its rings; `--iface` then takes the next one and says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from shardserver.nic import netlink
from shardserver.nic.machine import Machine
from shardserver.nic.netlink import Link
from shardserver.values import DeviceName

# How an interface's rings may be opened, the fastest first. Those that the library was not built
# with are passed over, with the reason.
LADDER = ("netmap", "xdp", "packet")
# Backends that make what they open, or open something else than an interface.
OTHER = {
    "mem": "a software NIC of its own: --device mem:NAME",
    "tap": "makes an interface of its own: --device tap:NAME",
    "vale": "a software switch: --device vale:SWITCH:PORT",
    "vde": "a switch's socket: --device vde:PATH",
}
TAKEN = "a shardserver has it"
_ETHERNET, _LOOPBACK = 1, 772
_XDP_KERNEL = (5, 9)  # BPF_LINK_CREATE for XDP


def _shape(link: Link) -> str:
    if link.type not in (_ETHERNET, _LOOPBACK):
        return "it is no Ethernet interface"
    return "" if link.flags & 1 else f"it is down: ip link set {link.name} up"


def _netmap(link: Link, machine: Machine) -> str:
    return machine.netmap or ("it is the loopback" if link.type == _LOOPBACK else "")


def _xdp_rights(machine: Machine) -> str:
    if not machine.first_user_namespace:
        return "bpf(2) is refused in a user namespace: it needs root outside"
    if not machine.has("net_admin"):
        return "CAP_NET_ADMIN is missing"
    if not machine.has("bpf", "sys_admin"):
        return "CAP_BPF is missing"
    return "" if machine.has("net_raw") else "CAP_NET_RAW is missing"


def _xdp(link: Link, machine: Machine) -> str:
    if machine.kernel_number < _XDP_KERNEL:
        return f"Linux {machine.kernel} is older than {'.'.join(map(str, _XDP_KERNEL))}"
    if link.type == _LOOPBACK:
        return "it is the loopback"
    if link.xdp_mode != "none":
        number = f" (id {link.xdp_program})" if link.xdp_program else ""
        return f"another {link.xdp_mode} XDP program{number} is on it: ip link show {link.name}"
    return _xdp_rights(machine)


def _copies(link: Link, machine: Machine) -> str:
    return "" if machine.has("net_raw") else "CAP_NET_RAW is missing"


_PROBES: dict[str, Callable[[Link, Machine], str]] = {
    "netmap": _netmap,
    "xdp": _xdp,
    "packet": _copies,
    "pcap": _copies,
}


def why_not(backend: str, link: Link, machine: Machine, available: Sequence[str]) -> str:
    """Why a backend cannot open the interface; "" when nothing speaks against it."""
    if backend not in available:
        return "not in this build"
    if backend in OTHER:
        return OTHER[backend]
    probe = _PROBES.get(backend)
    return _shape(link) or (probe(link, machine) if probe else "")


def verdicts(link: Link, machine: Machine, available: Sequence[str]) -> dict[str, str]:
    """Backend → why not, for the ladder and for whatever else this build has."""
    backends = dict.fromkeys((*LADDER, *available))
    return {b: why_not(b, link, machine, available) for b in backends if b not in OTHER}


def verdicts_taken(link: Link, machine: Machine, available: Sequence[str]) -> dict[str, str]:
    """The same for an interface that a shardserver has: two would answer each frame twice."""
    found = verdicts(link, machine, available)
    return {b: TAKEN if b in available else why for b, why in found.items()}


def best(found: dict[str, str]) -> str:
    """The highest rung of the ladder that can; "" for none."""
    return next((backend for backend in LADDER if found.get(backend) == ""), "")


def xdp_modes(link: Link, machine: Machine) -> str:
    """What XDP the driver can do, in words."""
    if machine.xdp_features is None:
        return "this kernel does not tell what its driver can (Linux 6.3 does)"
    flags = machine.xdp_features.get(link.index, 0)
    if not flags & netlink.XDP_BASIC:
        return "generic only: its driver has no XDP" + (
            " with these queues (the peer's must not be fewer)" if link.kind == "veth" else ""
        )
    if flags & netlink.XDP_ZERO_COPY:
        return "native, zero-copy"
    return "native, copy"


def interface_of(device: DeviceName) -> str:
    """The interface in a device's name, which may carry a ring or options; "" where it has none.

    A name with a "/" is a file, pcap:./x.pcap; netmap's pipes and switches are none.
    """
    if device.backend in OTHER or "/" in device.name[:1]:
        return ""
    if device.backend == "pcap" and "/" in device.name:
        return ""
    if device.backend == "netmap" and re.match(r"vale|.*[{}]", device.name):
        return ""
    name = device.name.partition(":")[0]
    if device.backend == "netmap":
        name = re.split(r"[\^*{}@/]", name)[0]
        ring = re.fullmatch(r"(.+)-\d+", name)
        name = ring[1] if ring else name
    return name
