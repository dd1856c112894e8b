"""What a load run is asked to do: command line to a frozen request. No I/O."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass

from shardserver import values
from shardserver.errors import UsageError

ECHO_PORT = 7
MEM_DEFAULT_IP = "10.77.0.1"
PROCESSES_MAX = 4


@dataclass(frozen=True)
class LoadRequest:
    """One run. Addresses in host order, times in microseconds, sizes in bytes."""

    device: str = ""  # name of a mem: device; "": kernel sockets
    ip: int = 0
    tcp_port: int = ECHO_PORT
    connections: int = 100
    duration_us: int = 10_000_000
    size: int = 64
    pipeline: int = 1
    messages: int = 0
    processes: int = 1
    seed: int = 1
    timeout_us: int = 20_000_000
    ramp: int = 256
    source_ip: int = 0
    source_n: int = 0
    faults: str = ""
    instance: str = ""  # whose shards to show in the report; "": none

    @property
    def target(self) -> str:
        """As it was written, more or less."""
        address = f"{ipaddress.ip_address(self.ip)}:{self.tcp_port}"
        return f"mem:{self.device} ({address})" if self.device else address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `shardserver load`."""
    add = parser.add_argument
    add("target", metavar="TARGET", help="IP[:PORT], or mem:NAME[:PORT]; port 7 by default")
    add("-c", "--connections", type=int, default=100, metavar="N", help="default: 100")
    add("-d", "--duration", default="10s", metavar="SECONDS", help="10, 500ms (default: 10s)")
    add("-s", "--size", default="64", metavar="BYTES", help="of a message (default: 64)")
    add("--pipeline", type=int, default=1, metavar="N", help="messages in flight (default: 1)")
    add("--messages", type=int, default=0, metavar="N", help="per connection, then close")
    add("--processes", type=int, default=0, metavar="N", help="default: CPUs, <= 4")
    add("--seed", type=int, default=1, metavar="N", help="of every byte sent (default: 1)")
    add("--timeout", default="20s", metavar="TIME", help="of a silent connection (default: 20s)")
    add("--ip", default="", metavar="IP", help="of the server on a mem: device")
    add("--source", default="", metavar="IP[-IP]", help="addresses to bind")
    add("--faults", default="", metavar="SPEC", help="mem: drop=5%%,dup=2%%,...")
    add(
        "-n",
        "--name",
        default="",
        metavar="NAME",
        help="instance whose shards to show (default: the one here that serves TARGET)",
    )
    add("--json", action="store_true", help="the report as JSON")


def _split_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, ECHO_PORT
    return host, values.parse_tcp_port(port)


def parse_target(target: str, ip: str) -> tuple[str, int, int]:
    """Device name, address and TCP port of a target; UsageError says what is wrong."""
    address = _value("--ip", ip or MEM_DEFAULT_IP, _parse_host)
    try:
        if target.startswith("mem:"):
            name, port = _split_port(target.removeprefix("mem:"))
            if not name:
                raise ValueError("a mem: device needs a name")
            return name, address, port
        host, port = _split_port(target)
        return "", _parse_host(host), port
    except ValueError as wrong:
        raise UsageError(
            f"target {target}: {wrong}", "give an IPv4 address (10.0.0.1:7) or mem:NAME"
        ) from None


def _parse_host(text: str) -> int:
    number = values.parse_ip(text)
    if not 0 < number < 0xE0000000:
        raise ValueError("expected a host's address, not zero, multicast or class E")
    return number


def parse_source(text: str) -> tuple[int, int]:
    """First address and number of addresses of "IP" or "IP-IP"; zeros for ""."""
    if not text:
        return 0, 0
    first, _, last = text.partition("-")
    try:
        low = values.parse_ip(first)
        high = values.parse_ip(last or first)
    except ValueError as wrong:
        raise UsageError(f"source {text}: {wrong}", "give IP or IP-IP") from None
    if high < low:
        raise UsageError(f"source {text}: the last address is before the first", "give IP-IP")
    return low, high - low + 1


def default_processes(connections: int, device: str = "") -> int:
    """One per CPU that may be used, four at most, never more than connections; as a card's host
    one, for it has one link."""
    if device.endswith("^"):
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), PROCESSES_MAX, connections))


def checked(request: LoadRequest) -> LoadRequest:
    """The request, if every number is within its limits."""
    limits = {
        "--connections": (request.connections, 1, 1_000_000),
        "--size": (request.size, 1, 1 << 24),
        "--pipeline": (request.pipeline, 1, 1024),
        "--processes": (request.processes, 1, 64),
        "--messages": (request.messages, 0, 1 << 40),
        "--seed": (request.seed, 0, (1 << 64) - 1),
    }
    for option, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise UsageError(f"{option} {value}: must be {low} to {high}")
    if request.duration_us < 1000:
        raise UsageError("--duration: at least 1ms", "give a time such as 10s")
    if request.timeout_us < 1000:
        raise UsageError("--timeout: at least 1ms", "give a time such as 10s")
    return request


def parse_name(text: str) -> str:
    """An instance's name; "" for none."""
    try:
        return values.parse_instance(text) if text else ""
    except ValueError as wrong:
        raise UsageError(f'--name "{text}": {wrong}') from None


def _value(option: str, text: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(text)
    except ValueError as wrong:
        raise UsageError(f'{option} "{text}": {wrong}', "shardserver load -h") from None


def _check_kind(args: argparse.Namespace, device: str) -> None:
    """What would be passed over in silence is refused."""
    for option, value in (("--faults", args.faults), ("--ip", args.ip)):
        if value and not device:
            raise UsageError(
                f"{option} {value}: only with a mem: target", f"the target is {args.target}"
            )


def from_arguments(args: argparse.Namespace) -> LoadRequest:
    """The request of a parsed command line; UsageError for what cannot be."""
    device, ip, tcp_port = parse_target(args.target, args.ip)
    source_ip, source_n = parse_source(args.source)
    duration_us = _value("--duration", args.duration, values.parse_seconds_us)
    timeout_us = _value("--timeout", args.timeout, values.parse_seconds_us)
    size = _value("--size", args.size, values.parse_size)
    _check_kind(args, device)
    return checked(
        LoadRequest(
            device=device,
            ip=ip,
            tcp_port=tcp_port,
            connections=args.connections,
            duration_us=duration_us,
            size=size,
            pipeline=args.pipeline,
            messages=args.messages,
            processes=args.processes or default_processes(args.connections, device),
            seed=args.seed,
            timeout_us=timeout_us,
            source_ip=source_ip,
            source_n=source_n,
            faults=args.faults,
            instance=parse_name(args.name),
        )
    )


def shares(total: int, parts: int) -> list[tuple[int, int]]:
    """(first, count) of each part of `total` things, as even as can be, without empty parts."""
    parts = min(parts, total)
    base, rest = divmod(total, parts)
    result = []
    first = 0
    for part in range(parts):
        count = base + (part < rest)
        result.append((first, count))
        first += count
    return result
