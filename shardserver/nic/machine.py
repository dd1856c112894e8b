"""What of this machine and process decides which backend can open an interface. Start at `read`."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shardserver.nic import netlink

# Bits of CapEff that some backend asks for.
CAPABILITIES = {
    "net_admin": 12,
    "net_raw": 13,
    "ipc_lock": 14,
    "sys_admin": 21,
    "sys_resource": 24,
    "bpf": 39,
}
_WHOLE = 4294967295  # the first user namespace maps every uid


@dataclass(frozen=True)
class Machine:
    """The machine as this process sees it. Sizes in bytes, -1 for no limit."""

    kernel: str = ""
    capabilities: frozenset[str] = frozenset()
    first_user_namespace: bool = True
    user_namespaces: str = ""  # why others than root cannot make one
    netmap: str = ""  # why /dev/netmap cannot be opened
    tun: str = ""  # why /dev/net/tun cannot be opened
    memlock: int = -1
    memlock_max: int = -1
    huge_pages: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # size → total, free
    huge_transparent: str = ""
    xdp_features: Mapping[int, int] | None = None

    def has(self, *names: str) -> bool:
        """Whether the process has one of these capabilities."""
        return any(name in self.capabilities for name in names)

    @property
    def kernel_number(self) -> tuple[int, int]:
        """(6, 18) of 6.18.44."""
        found = re.match(r"(\d+)\.(\d+)", self.kernel)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def capabilities(status: str) -> frozenset[str]:
    """Effective capabilities in the text of /proc/self/status."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)


def maps_all(uid_map: str) -> bool:
    """Whether a uid_map is that of the first user namespace."""
    return uid_map.split()[:3] == ["0", "0", str(_WHOLE)]


def _device(path: str, absent: str) -> str:
    if not Path(path).exists():
        return f"{path} is absent: {absent}"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{path} may not be opened by this user"
    return ""


def _user_namespaces(proc: Path) -> str:
    for path, bad in (
        ("sys/user/max_user_namespaces", "0"),
        ("sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("sys/kernel/unprivileged_userns_clone", "0"),
    ):
        if _text(proc / path) == bad:
            return f"{path.removeprefix('sys/').replace('/', '.')} is {bad}"
    return ""


def _huge_pages(sysfs: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted((sysfs / "kernel/mm/hugepages").glob("hugepages-*kB")):
        total, free = _text(path / "nr_hugepages"), _text(path / "free_hugepages")
        if total.isdigit() and free.isdigit():
            found[path.name.removeprefix("hugepages-")] = (int(total), int(free))
    return found


def _transparent(sysfs: Path) -> str:
    found = re.search(r"\[(\w+)\]", _text(sysfs / "kernel/mm/transparent_hugepage/enabled"))
    return found[1] if found else ""


def read(sysfs: Path = Path("/sys"), proc: Path = Path("/proc")) -> Machine:
    """Reads the machine."""
    memlock, memlock_max = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return Machine(
        kernel=platform.release(),
        capabilities=capabilities(_text(proc / "self/status")),
        first_user_namespace=maps_all(_text(proc / "self/uid_map")),
        user_namespaces=_user_namespaces(proc),
        netmap=_device("/dev/netmap", "the netmap module is not loaded"),
        tun=_device("/dev/net/tun", "the tun module is not loaded"),
        memlock=memlock,
        memlock_max=memlock_max,
        huge_pages=_huge_pages(sysfs),
        huge_transparent=_transparent(sysfs),
        xdp_features=netlink.xdp_features(),
    )


def taken(index: int) -> bool:
    """Whether a shardserver of this network namespace has the interface (its lock answers)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(f"\0shardserver/device/if{index}")
        except OSError:
            return False
    return True
