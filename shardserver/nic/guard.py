"""Which interfaces carry the host's own traffic, so that taking one could lock its user out. Pure.

`Ways` is what `read` found; `why_not` decides. An interface carries what its bridge, bond, VLAN or
macvlan carries.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardserver.errors import DeviceUnavailableError
from shardserver.nic import netlink
from shardserver.nic.netlink import DefaultRoute, HostAddress, Link

_STACKED = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"})
_ANCESTORS_MAX = 64


@dataclass(frozen=True)
class Ways:
    """How this host is reached: its links, default routes, addresses, and the login, if any."""

    links: tuple[Link, ...] = ()
    routes: tuple[DefaultRoute, ...] = ()
    addresses: tuple[HostAddress, ...] = ()
    login: str = ""  # SSH_CONNECTION: client address and port, server address and port


def carried(links: Sequence[Link], index: int) -> set[int]:
    """The interface and all that stands on it."""
    found = {index}
    while True:
        above = {link.master for link in links if link.index in found and link.master}
        above |= {link.index for link in links if link.lower in found and link.kind in _STACKED}
        if above <= found:
            return found
        found |= above


def login_interface(ways: Ways) -> int:
    """The interface that has the address which the login came to; 0 for none."""
    words = ways.login.split()
    if len(words) != 4:
        return 0
    try:
        server = ipaddress.ip_address(words[2].partition("%")[0])
    except ValueError:
        return 0
    mapped = getattr(server, "ipv4_mapped", None)
    wanted = str(mapped or server)
    return next((a.index for a in ways.addresses if a.address == wanted), 0)


def reasons(ways: Ways, name: str) -> list[str]:
    """What of the host's an interface carries, in words."""
    own = next((link for link in ways.links if link.name == name), None)
    if own is None:
        return []
    names = {link.index: link.name for link in ways.links}
    above = carried(ways.links, own.index)
    found = []
    for route in ways.routes:
        if route.index in above:
            on = "" if route.index == own.index else f", on {names.get(route.index, '?')}"
            found.append(f"the {route.family} default route{on}")
    login = login_interface(ways)
    if login in above:
        found.append(f"this login (SSH from {ways.login.split()[0]})")
    return list(dict.fromkeys(found))


def check(ways: Ways, name: str, force: bool) -> tuple[str, ...]:
    """Raises when the interface carries what the host lives by; with `force` it is a note."""
    found = " and ".join(reasons(ways, name))
    if not found:
        return ()
    if force:
        return (f"{name} carries {found}; taken by --force",)
    raise DeviceUnavailableError(
        f"{name} carries {found}: the host could be cut off",
        "give another interface; or --force, best with --confirm 30s, which rolls back unless "
        "`shardserver confirm` comes in time",
    )


def _environment_of(pid: int) -> dict[str, str]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in data.split(b"\0"))
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}


def _parent_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def find_login(environment: Mapping[str, str]) -> str:
    """SSH_CONNECTION, also where sudo has cleaned it away: then an ancestor still has it."""
    pid = os.getppid()
    found = environment.get("SSH_CONNECTION", "")
    for _ in range(_ANCESTORS_MAX):
        if found or pid <= 1:
            break
        found = _environment_of(pid).get("SSH_CONNECTION", "")
        pid = _parent_of(pid)
    return found


def read(environment: Mapping[str, str]) -> Ways:
    """How this host is reached now."""
    return Ways(
        links=netlink.links(),
        routes=netlink.default_routes(),
        addresses=netlink.addresses(),
        login=find_login(environment),
    )
