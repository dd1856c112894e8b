"""Links, addresses and default routes of this network namespace, and what XDP a driver can do.

Over rtnetlink and the generic netlink family "netdev", because sysfs shows the namespace in which
it was mounted, /proc/net/route one next hop of several, and neither an attached XDP program.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_ROUTE, _GENERIC = 0, 16
_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_DONE, _ERROR = 3, 2
_REQUEST, _DUMP = 1, 0x300
_RTN_UNICAST = 1
_HEAD = struct.Struct("=IHHII")
_NESTED_MASK = 0x3FFF
_CTRL, _CTRL_GETFAMILY, _NETDEV_DEV_GET = 16, 3, 1
_UNKNOWN_OPERSTATE = 0
OPERSTATES = ("unknown", "absent", "down", "lower-down", "testing", "dormant", "up")
XDP_MODES = ("none", "native", "generic", "offloaded", "several")

# NETDEV_XDP_ACT_*
XDP_BASIC, XDP_REDIRECT, XDP_TRANSMIT, XDP_ZERO_COPY = 1, 2, 4, 8


@dataclass(frozen=True)
class Link:
    """An interface. `master` and `lower` are interface numbers, 0 for none."""

    index: int
    name: str
    type: int
    flags: int
    mac: bytes
    mtu: int
    kind: str = ""
    carrier: bool = True
    operstate: str = "unknown"
    promiscuity: int = 0
    rx_queues: int = 1
    tx_queues: int = 1
    master: int = 0
    lower: int = 0
    xdp_mode: str = "none"
    xdp_program: int = 0


@dataclass(frozen=True)
class HostAddress:
    """An address of this host's kernel."""

    index: int
    address: str
    prefix: int

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True)
class DefaultRoute:
    """A way out: "IPv4" or "IPv6", through interface `index`."""

    family: str
    index: int


def attributes(data: bytes) -> dict[int, bytes]:
    """type → payload of a run of attributes; of a type that comes twice, the last."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            break
        found[kind & _NESTED_MASK] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def _number(found: dict[int, bytes], kind: int, default: int = 0) -> int:
    data = found.get(kind, b"")
    return int.from_bytes(data, "little") if data else default


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").split(b"\0")[0].decode("ascii", "replace")


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, *_ = _HEAD.unpack_from(data, at)
        if length < _HEAD.size:
            return
        yield kind, data[at + _HEAD.size : at + length]
        at += (length + 3) & ~3


def _refusal(data: bytes) -> OSError:
    code = -struct.unpack_from("=i", data)[0]
    return OSError(code, os.strerror(code))


def _receive(sock: socket.socket, dump: bool) -> Iterator[bytes]:
    """The bodies of the answers; a dump ends with a message of its own."""
    while True:
        for kind, data in _messages(sock.recv(1 << 18)):
            if kind == _ERROR:
                raise _refusal(data)
            if kind == _DONE:
                return
            yield data
        if not dump:
            return


def _ask(protocol: int, kind: int, body: bytes, dump: bool = True) -> list[bytes]:
    """The bodies of every answer to one request. OSError where the kernel refuses it."""
    flags = _REQUEST | (_DUMP if dump else 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
        sock.bind((0, 0))
        sock.send(_HEAD.pack(_HEAD.size + len(body), kind, flags, 1, 0) + body)
        return list(_receive(sock, dump))


def parse_link(body: bytes) -> Link:
    """An ifinfomsg with its attributes."""
    _, kind, index, flags, _ = struct.unpack_from("=BxHiII", body)
    found = attributes(body[16:])
    info = attributes(found.get(18, b""))
    xdp = attributes(found.get(43, b""))
    foreign = 37 in found  # IFLA_LINK_NETNSID: the lower one is in another namespace
    operstate = _number(found, 16, _UNKNOWN_OPERSTATE)
    mode = _number(xdp, 2)
    return Link(
        index=index,
        name=_text(found, 3),
        type=kind,
        flags=flags,
        mac=found.get(1, b""),
        mtu=_number(found, 4),
        kind=_text(info, 1),
        carrier=bool(_number(found, 33, 1)),
        operstate=OPERSTATES[operstate] if operstate < len(OPERSTATES) else "unknown",
        promiscuity=_number(found, 30),
        rx_queues=_number(found, 32, 1),
        tx_queues=_number(found, 31, 1),
        master=_number(found, 10),
        lower=0 if foreign else _number(found, 5),
        xdp_mode=XDP_MODES[mode] if mode < len(XDP_MODES) else "several",
        xdp_program=_number(xdp, 4),
    )


def links() -> tuple[Link, ...]:
    """Every interface of this network namespace."""
    bodies = _ask(_ROUTE, _GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
    return tuple(parse_link(body) for body in bodies)


def parse_address(body: bytes) -> HostAddress | None:
    """An ifaddrmsg with its attributes."""
    family, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
    found = attributes(body[8:])
    raw = found.get(2) or found.get(1) or b""  # IFA_LOCAL, or IFA_ADDRESS
    if family not in (socket.AF_INET, socket.AF_INET6) or len(raw) not in (4, 16):
        return None
    return HostAddress(index, str(ipaddress.ip_address(raw)), prefix)


def addresses() -> tuple[HostAddress, ...]:
    """Every address of this host's kernel, of both families."""
    found = (
        parse_address(body) for body in _ask(_ROUTE, _GETADDR, struct.pack("=BBBBI", *[0] * 5))
    )
    return tuple(address for address in found if address)


def _hops(data: bytes) -> Iterator[int]:
    """Interfaces of an RTA_MULTIPATH."""
    at = 0
    while at + 8 <= len(data):
        length, _, _, index = struct.unpack_from("=HBBi", data, at)
        if length < 8:
            return
        yield index
        at += (length + 3) & ~3


def parse_default_route(body: bytes) -> tuple[DefaultRoute, ...]:
    """A route, when it is a default one that leads out: one entry per next hop."""
    family, prefix, kind = body[0], body[1], body[7]
    if prefix != 0 or kind != _RTN_UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
        return ()
    found = attributes(body[12:])
    out = {_number(found, 4), *_hops(found.get(9, b""))} - {0}
    name = "IPv4" if family == socket.AF_INET else "IPv6"
    return tuple(DefaultRoute(name, index) for index in sorted(out))


def default_routes() -> tuple[DefaultRoute, ...]:
    """Default routes of both families, in every table."""
    found: dict[DefaultRoute, None] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # a kernel without IPv6
            for body in _ask(_ROUTE, _GETROUTE, bytes([family]) + bytes(11)):
                found.update(dict.fromkeys(parse_default_route(body)))
    return tuple(found)


def xdp_features() -> dict[int, int] | None:
    """Interface → NETDEV_XDP_ACT_* flags of its driver; None where the kernel does not tell."""
    try:
        name = _attribute(2, b"netdev\0")
        (body,) = _ask(_GENERIC, _CTRL, struct.pack("=BBxx", _CTRL_GETFAMILY, 1) + name, dump=False)
        family = _number(attributes(body[4:]), 1)
        answers = _ask(_GENERIC, family, struct.pack("=BBxx", _NETDEV_DEV_GET, 1))
    except (OSError, ValueError):
        return None
    found = (attributes(body[4:]) for body in answers)
    return {_number(each, 1): _number(each, 3) for each in found}
