"""Who gets the frames of an interface that the server has opened: the server, or the host. Pure.

What each backend can do is a table; what it cannot is a sentence that says why and what to take
instead. `auto` is the first that the backend can do, the safest for the host first.
"""

from __future__ import annotations

from shardserver.errors import DeviceUnavailableError

MEANING = {
    "exclusive": "every frame is the server's; the host's kernel gets none on this interface",
    "pass": "frames for the server's address and TCP ports are the server's, all others the host's;"
    " both may have the same address",
    "pass-ip": "frames for the server's address are the server's, all others the host's; the "
    "address is one that the host does not have",
    "rings": "the server takes some of the card's rings, the host keeps the others",
}
POLICIES = ("auto", *MEANING)
_COPIES = "it gets copies of what every ring of the card brings (xdp:IFACE can)"
_HOLDS_ALL = "it sees what reaches its own end only; there is no host behind it"
_WHOLE = "only a NIC with all its rings, netmap:IFACE, can be shared with its host like that"
NETMAP_RING = "a netmap ring"  # netmap:IFACE-2
NETMAP_PORT = "a netmap port"  # a pipe, a switch's port, host rings
_ALONE = dict.fromkeys(("pass", "pass-ip", "rings"), _HOLDS_ALL)

# backend → policy → why it cannot; a policy that is not here can.
_CANNOT: dict[str, dict[str, str]] = {
    "mem": _ALONE,
    "vale": _ALONE,
    "tap": _ALONE,
    "vde": _ALONE,
    "packet": {"rings": _COPIES},
    "pcap": {"rings": _COPIES},
    "xdp": {},
    "netmap": {"rings": "a ring is taken by its name, one for a server: netmap:IFACE-2"},
    NETMAP_RING: dict.fromkeys(("exclusive", "pass", "pass-ip"), _WHOLE),
    NETMAP_PORT: dict.fromkeys(("pass", "pass-ip", "rings"), _WHOLE),
}
BACKENDS = tuple(_CANNOT)
_ORDER = ("pass-ip", "exclusive", "pass", "rings")


def can(backend: str, policy: str) -> str:
    """Why a backend cannot do a policy; "" when it can."""
    return _CANNOT.get(backend, {}).get(policy, "")


def choose(backend: str, policy: str, device: str) -> str:
    """The policy in force; raises when the backend cannot do the one that was asked for."""
    possible = [name for name in _ORDER if not can(backend, name)]
    if policy == "auto":
        return possible[0]
    why = can(backend, policy)
    if why:
        raise DeviceUnavailableError(
            f"{device}: {backend} cannot do --policy {policy}: {why}",
            f"{backend} can: " + "; ".join(f"{name} ({MEANING[name]})" for name in possible),
        )
    return policy


def explain(policy: str) -> str:
    """The policy with its meaning, for the banner and --dry-run."""
    return f"{policy}: {MEANING[policy]}"
