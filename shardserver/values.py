"""Texts of settings turned into values: durations, sizes, addresses, services, CPU lists. Pure.

Every parser takes a text and raises ValueError with a sentence that begins with "expected".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

SERVICE_PORTS = {
    "echo": 7, "discard": 9, "chargen": 19, "daytime": 13, "http": 80, "sockperf": 11111,
}  # fmt: skip
_DURATION_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_SIZE = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_DIGITS_MAX = 20  # of 2^64; int() refuses thousands of digits in words of its own
_RINGS_MAX = 64
RETRIES_MAX = 255  # a connection counts them in a byte
BACKENDS = ("netmap", "xdp", "packet", "tap", "pcap", "vde", "vale", "mem")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True)
class Address:
    """An IPv4 address with its prefix, in host order."""

    ip: int
    prefix: int

    def __str__(self) -> str:
        return f"{ip_text(self.ip)}/{self.prefix}"


@dataclass(frozen=True)
class Service:
    """A built-in service on a TCP port."""

    name: str
    tcp_port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.tcp_port}"


@dataclass(frozen=True)
class DeviceName:
    """What rings are opened on: `backend` may be "auto"."""

    backend: str
    name: str

    @property
    def interface(self) -> str:
        """The network interface in the name, without what stands behind it: eth0 of eth0:copy."""
        return self.name.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.backend}:{self.name}"


def ip_text(ip: int) -> str:
    """Dotted form of an address in host order."""
    return str(ipaddress.IPv4Address(ip))


def mac_text(mac: bytes) -> str:
    """Colon form of a MAC address."""
    return ":".join(f"{octet:02x}" for octet in mac)


def _whole(text: str, most: int) -> int:
    """The whole number that `text` is; -1: it is none, or above `most`."""
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX or int(text) > most:
        return -1
    return int(text)


def parse_text(text: str) -> str:
    """Any text that is not empty."""
    if not text:
        raise ValueError("expected a value, not an empty text")
    return text


def parse_optional_text(text: str) -> str:
    """Any text, an empty one too."""
    return text


def parse_bool(text: str) -> bool:
    """true or false."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("expected true or false")


def parse_count(text: str) -> int:
    """A whole number from 0 to 2^32 - 1."""
    number = _whole(text, 0xFFFFFFFF)
    if number < 0:
        raise ValueError("expected a whole number, 0 or more")
    return number


def parse_some(text: str) -> int:
    """A whole number from 1 to 2^32 - 1: 0 would not mean what it says."""
    number = _whole(text, 0xFFFFFFFF)
    if number < 1:
        raise ValueError("expected a whole number, 1 or more")
    return number


def parse_retries(text: str) -> int:
    """How often something is tried again."""
    number = _whole(text, RETRIES_MAX)
    if number < 1:
        raise ValueError(f"expected a number from 1 to {RETRIES_MAX}")
    return number


def parse_mtu(text: str) -> int:
    """Bytes of the largest packet; 0 leaves it to the device."""
    number = _whole(text, 9000)
    if number != 0 and number < 576:
        raise ValueError("expected an MTU from 576 to 9000, or 0 for the device's")
    return number


def parse_seed(text: str) -> int:
    """A whole number of 64 bits."""
    number = _whole(text, 0xFFFFFFFFFFFFFFFF)
    if number < 0:
        raise ValueError("expected a whole number of at most 64 bits")
    return number


def parse_workers(text: str) -> int:
    """A number of workers, 0 for "auto"."""
    if text == "auto":
        return 0
    number = _whole(text, 64)
    if number < 1:
        raise ValueError("expected auto or a number from 1 to 64")
    return number


def parse_tcp_port(text: str) -> int:
    """A TCP port."""
    number = _whole(text, 65535)
    if number < 1:
        raise ValueError("expected a TCP port from 1 to 65535")
    return number


def parse_duration_us(text: str) -> int:
    """A duration in microseconds: a number with its unit."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)(us|ms|s|m|h)", text, re.ASCII)
    if not found:
        raise ValueError("expected a duration such as 200ms or 1s")
    return round(float(found[1]) * _DURATION_US[found[2]])


def parse_time_us(text: str) -> int:
    """A duration in microseconds that is not zero."""
    us = parse_duration_us(text)
    if us == 0:
        raise ValueError("expected a duration above zero, such as 200ms or 1s")
    return us


def parse_seconds_us(text: str) -> int:
    """A duration in microseconds; a number without a unit is seconds."""
    bare = re.fullmatch(r"\d+(?:\.\d+)?", text, re.ASCII)
    return parse_duration_us(f"{text}s" if bare else text)


def parse_size(text: str) -> int:
    """A size in bytes: a number, with k, m or g for powers of 1024."""
    found = re.fullmatch(r"(\d{1,10})\s*([kmg]?)(?:i?b)?", text.lower(), re.ASCII)
    if not found or int(found[1]) * _SIZE[found[2]] > 0xFFFFFFFF:
        raise ValueError("expected a size such as 65536, 256k or 1m")
    return int(found[1]) * _SIZE[found[2]]


def parse_buffer(text: str) -> int:
    """Bytes of a connection's buffer: the core takes 0 for its default."""
    size = parse_size(text)
    if not 4096 <= size < 1 << 30:
        raise ValueError("expected a size from 4k to below 1g")
    return size


def parse_ip(text: str) -> int:
    """An IPv4 address in host order."""
    try:
        return int(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError("expected an IPv4 address such as 10.0.0.1") from None


def parse_address(text: str) -> Address:
    """An IPv4 address with its prefix; without one, /24."""
    ip, slash, prefix = text.partition("/")
    try:
        number = int(ipaddress.IPv4Address(ip))
    except ValueError:
        raise ValueError("expected an address and prefix such as 10.0.0.1/24") from None
    if slash and _whole(prefix, 32) < 0:
        raise ValueError("expected a prefix of 0 to 32, as in 10.0.0.1/24")
    if not _is_host(number):
        raise ValueError("expected a host's address, not zero, loopback, multicast or class E")
    found = Address(number, int(prefix) if slash else 24)
    rest = (1 << (32 - found.prefix)) - 1
    if found.prefix < 31 and number & rest in (0, rest):
        which = "broadcast" if number & rest else "network"
        raise ValueError(f"expected a host's address, not the {which} address of its prefix")
    return found


def _is_host(number: int) -> bool:
    """Whether a machine can have it: no group, not this host itself."""
    return 0 < number < 0xE0000000 and number >> 24 != 127


def parse_gateway(text: str) -> int:
    """The IPv4 address of a next hop, in host order."""
    number = parse_ip(text)
    if not _is_host(number):
        raise ValueError("expected a host's address, not zero, loopback, multicast or class E")
    return number


def parse_mac(text: str) -> bytes:
    """Six octets of a unicast MAC address."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){5}", text):
        raise ValueError("expected a MAC address such as 02:00:00:00:00:01")
    mac = bytes(int(octet, 16) for octet in re.split("[:-]", text))
    if mac[0] & 1 or mac == bytes(6):
        raise ValueError("expected the MAC address of one host, not a group's and not zero")
    return mac


def parse_service(text: str) -> Service:
    """NAME[:PORT] of a built-in service."""
    name, colon, port = text.partition(":")
    if name not in SERVICE_PORTS:
        raise ValueError(f"expected NAME[:PORT] with one of {', '.join(SERVICE_PORTS)}")
    return Service(name, parse_tcp_port(port) if colon else SERVICE_PORTS[name])


def parse_services(text: str) -> tuple[Service, ...]:
    """Services with commas between them."""
    return tuple(parse_service(part.strip()) for part in text.split(",") if part.strip())


def parse_rss(text: str) -> tuple[str, ...]:
    """keep, or symmetric and equal[:N] with a comma between them."""
    found: list[str] = []
    for word in [] if text == "keep" else text.split(","):
        head, colon, count = word.partition(":")
        counted = _whole(count, 1024) >= 1
        known = word in ("symmetric", "equal") or (head == "equal" and counted)
        if not known or (colon and not counted) or head in [w.partition(":")[0] for w in found]:
            raise ValueError("expected keep, symmetric, equal, equal:N or symmetric,equal:N")
        found.append(word)
    return tuple(found)


def parse_cpus(text: str) -> tuple[int, ...]:
    """A CPU list such as 0,2-5, in the order given; () for "auto"."""
    if text == "auto":
        return ()
    cpus: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip(), re.ASCII)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ValueError("expected auto or a list of CPUs such as 0,2-5")
        cpus.extend(range(int(found[1]), int(found[2] or found[1]) + 1))
    return tuple(dict.fromkeys(cpus))


def parse_rings(text: str) -> tuple[int, ...]:
    """A list of rings such as 0,2-5, the lowest first; () for none named."""
    try:
        found = parse_cpus(text) if text else ()
    except ValueError:
        found = (_RINGS_MAX,)
    if text == "auto" or any(ring >= _RINGS_MAX for ring in found):
        raise ValueError("expected a list of rings such as 0,2-5, each below 64")
    return tuple(sorted(found))


def parse_device(text: str) -> DeviceName:
    """BACKEND:NAME; an interface's name alone has the backend "auto", a VALE port's netmap."""
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text):
        return DeviceName("auto", text)
    backend, colon, name = text.partition(":")
    if colon and backend.startswith("vale") and backend != "vale":
        backend, name = "netmap", text
    if not colon or not backend or not re.fullmatch(r"[\x21-\x7e]{1,48}", name):
        raise ValueError("expected BACKEND:NAME such as packet:eth0, xdp:eth0:copy or mem:test")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"expected BACKEND:NAME with one of {', '.join(BACKENDS)}")
    return DeviceName(backend, name)


def parse_interface(text: str) -> str:
    """A network interface's name, or ""."""
    if text.partition(":")[0] in BACKENDS and ":" in text:
        raise ValueError(f"expected an interface's name; as a device it is --device {text}")
    return text


def parse_instance(text: str) -> str:
    """The name of an instance: it becomes part of file names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", text):
        raise ValueError("expected a name of letters, digits, '-', '_' and '.', at most 32")
    return text


def list_text(numbers: Iterable[int]) -> str:
    """Numbers as parse_cpus reads them: 0,2-5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def duration_text(us: int) -> str:
    """A duration in its largest whole unit."""
    for unit in ("h", "m", "s", "ms"):
        if us and us % _DURATION_US[unit] == 0:
            return f"{us // _DURATION_US[unit]}{unit}"
    return f"{us}us"
