"""`shardserver tools`: their command line turned into options, their counters into reports. Pure.

Start reading at `add_arguments`, then `from_arguments` and `build`.
"""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Callable
from typing import Any

from shardserver import native_rings, values
from shardserver.errors import UsageError
from shardserver.load.report import human
from shardserver.native_tools import PIPES_MAX, Range, ToolOptions, ToolStats

SCHEMA = 1
TOOLS = {
    "sink": "counts the UDP datagrams to a port (0: any), and drops everything",
    "forward": "sends UDP datagrams to a port (0: any) on from A to B, in their order",
    "bridge": "sends every frame on, from A to B and from B to A",
    "gen": "sends UDP frames as fast as it can, or at a rate",
    "recv": "counts what comes",
    "ping": "sends a datagram, waits until it is back, and times it",
    "pong": "sends every UDP datagram back",
    "lb": "spreads a port over pipes, both directions of a flow to the same one",
}
_TWO_PORTS = ("forward", "bridge")
_SENDERS = ("gen", "ping")
_THREADS = ("sink", "gen", "recv", "pong")
_ROLES = {
    "auto": native_rings.AUTO,
    "owner": native_rings.OWNER,
    "client": native_rings.CLIENT,
}
_WIRE_BYTES = 24  # of a frame on an Ethernet: checksum, preamble, gap

EPILOG = """\
A port is BACKEND:NAME. mem:NAME is both sides of a software NIC: the first to
open it is the card, everybody else a cable (--role decides otherwise);
mem:NAME^ is the host of one with host rings, mem:NAME*. mem:NAME{0 and
mem:NAME}0 are the ends of a pipe, mem:NAME{0@REGION of one that shares,
vale:SWITCH:PORT a port of a software switch; packet:IFACE an interface.

  shardserver tools sink mem:a 7 &
  shardserver tools gen mem:a --dst 10.1.0.1:7 --seconds 3"""


def _common(parser: argparse.ArgumentParser, tool: str) -> None:
    ends = parser.add_argument_group("when it ends")
    ends.add_argument("-n", "--count", default="0", metavar="N", help="after so many frames")
    ends.add_argument(
        "-d", "--seconds", type=float, default=0.0, metavar="SEC", help="after a time"
    )
    how = parser.add_argument_group("how it runs")
    wait = how.add_mutually_exclusive_group()
    wait.add_argument("--busy", action="store_true", help="sync all the time")
    wait.add_argument("--block", action="store_true", help="sleep in poll when idle (default)")
    if tool in _THREADS:
        how.add_argument(
            "-p", "--threads", default="1", metavar="N", help="threads, each with its rings"
        )
    how.add_argument("-a", "--cpu", default="", metavar="CPU", help="of the first thread")
    how.add_argument("--rings", default="0", metavar="N", help="of a device that is made here")
    how.add_argument("--slots", default="0", metavar="N", help="of each ring")
    how.add_argument("--role", choices=_ROLES, default="auto", help="which side of mem:")
    how.add_argument(
        "-w", "--wait", type=float, default=0.0, metavar="SEC", help="for the link, once it is open"
    )
    how.add_argument("--json", action="store_true", help="one document at the end")


def _sender(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it sends")
    group.add_argument(
        "-s", "--size", default="60", metavar="BYTES", help="of a frame, without CRC"
    )
    group.add_argument("-R", "--rate", default="0", metavar="PPS", help="frames a second")
    for side in ("src", "dst"):
        group.add_argument(
            f"--{side}", default="", metavar="IP[:PORT][-IP[:PORT]]", help="addresses, in turn"
        )
        group.add_argument(f"--{side}-mac", default="", metavar="MAC", help="default: the port's")


def _one(commands: Any, tool: str) -> None:
    parser = commands.add_parser(
        tool,
        help=TOOLS[tool],
        description=TOOLS[tool].capitalize() + ".",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("port", metavar="A" if tool in _TWO_PORTS else "PORT")
    if tool in _TWO_PORTS:
        parser.add_argument("port_b", metavar="B")
    if tool in ("sink", "forward"):
        parser.add_argument("udp_port", metavar="UDPPORT", help="0: any")
    _common(parser, tool)
    if tool in _SENDERS:
        _sender(parser)
    if tool == "gen":
        parser.add_argument("-b", "--burst", default="512", metavar="N", help="frames a sync")
    if tool in ("forward", "bridge", "pong"):
        parser.add_argument("-c", "--copy", action="store_true", help="never exchange buffers")
    if tool == "lb":
        parser.add_argument("--pipes", default="2", metavar="N", help="mem:NAME{0 and on")
        parser.add_argument(
            "--extra", default="1024", metavar="N", help="frames kept for pipes that are full"
        )


def add_arguments(parser: Any) -> None:
    """The grammar of `tools`, in its own parser."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(
        dest="tool", metavar="TOOL", required=True, parser_class=type(parser), prog=parser.prog
    )
    for tool in TOOLS:
        _one(commands, tool)


def _value(args: argparse.Namespace, option: str, parse: Callable[[str], int] | None = None) -> int:
    text = getattr(args, option, "0")
    try:
        return (parse or values.parse_count)(text)
    except ValueError as wrong:
        name = "UDPPORT" if option == "udp_port" else f"--{option}"
        raise UsageError(f'{name} "{text}": {wrong}', f"see tools {args.tool} -h") from None


def _big(text: str) -> int:
    """A count with k, m or g: powers of 1000, as rates are said."""
    units = {"k": 10**3, "m": 10**6, "g": 10**9}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:].lower() in units else (text, 1)
    try:
        found = round(float(number) * unit)
    except (ValueError, OverflowError):
        found = -1
    if not 0 <= found < 1 << 63:
        raise ValueError("expected a number such as 1000000 or 1.5m")
    return found


def _udp_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("expected a UDP port from 0 to 65535")
    return int(text)


def parse_range(text: str) -> tuple[Range, Range]:
    """(address, how many), (port, how many) of "IP[:PORT][-IP[:PORT]]"; zeros are the default."""
    if not text:
        return (0, 0), (0, 0)
    first, dash, last = text.partition("-")
    try:
        low_ip, low_port = _endpoint(first)
        high_ip, high_port = _endpoint(last) if dash else (low_ip, low_port)
        if high_ip < low_ip or high_port < low_port:
            raise ValueError("the end is before the beginning")
    except ValueError as wrong:
        raise UsageError(
            f'"{text}": {wrong}', "give IP, IP:PORT, or a range such as 10.0.0.1:7-10.0.0.9:7"
        ) from None
    ports = (low_port, high_port - low_port + 1) if low_port else (0, 0)
    return (low_ip, high_ip - low_ip + 1), ports


def _endpoint(text: str) -> tuple[int, int]:
    ip, colon, port = text.partition(":")
    return int(ipaddress.IPv4Address(ip)), _udp_port(port) if colon else 0


def _mac(args: argparse.Namespace, option: str) -> bytes:
    text = getattr(args, option, "")
    if not text:
        return bytes(6)
    if text.lower() == "ff:ff:ff:ff:ff:ff":
        return b"\xff" * 6
    try:
        return values.parse_mac(text)
    except ValueError as wrong:
        raise UsageError(f'--{option.replace("_", "-")} "{text}": {wrong}', "six octets") from None


def _cpu(args: argparse.Namespace) -> int:
    if not args.cpu:
        return 0
    return 1 + _value(args, "cpu")


def from_arguments(args: argparse.Namespace) -> ToolOptions:
    """The options of a parsed command line; UsageError for what cannot be."""
    src_ip, src_port = parse_range(getattr(args, "src", ""))
    dst_ip, dst_port = parse_range(getattr(args, "dst", ""))
    pipes = _value(args, "pipes") if args.tool == "lb" else 0
    if args.tool == "lb" and not 1 <= pipes <= PIPES_MAX:
        raise UsageError(f"--pipes {pipes}: must be 1 to {PIPES_MAX}", "see tools lb -h")
    for option in ("seconds", "wait"):
        if not 0 <= getattr(args, option) < 1e9:
            raise UsageError(
                f"--{option} {getattr(args, option)}: must be 0 or more",
                f"see tools {args.tool} -h",
            )
    ports = (args.port, args.port_b) if args.tool in _TWO_PORTS else (args.port,)
    for port in ports:
        if not port.partition(":")[2]:
            raise UsageError(f"{port}: not a port's name", "give BACKEND:NAME such as mem:a")
    return ToolOptions(
        kind=args.tool,
        ports=ports,
        roles=(_ROLES[args.role],) * 2,
        busy=int(args.busy),
        udp_port=_value(args, "udp_port", _udp_port),
        rings=_value(args, "rings"),
        slots=_value(args, "slots"),
        threads=_value(args, "threads"),
        cpu=_cpu(args),
        copy=int(getattr(args, "copy", False)),
        size=_value(args, "size"),
        burst=_value(args, "burst"),
        pipes=pipes,
        extra=_value(args, "extra"),
        count=_value(args, "count", _big),
        rate=_value(args, "rate", _big),
        duration_us=round(args.seconds * 1e6),
        src_ip=src_ip,
        dst_ip=dst_ip,
        src_port=src_port,
        dst_port=dst_port,
        src_mac=_mac(args, "src_mac"),
        dst_mac=_mac(args, "dst_mac"),
    )


def _direction(counters: dict[str, int], way: str, seconds: float) -> dict[str, Any]:
    frames, batches = counters[f"{way}_frames"], counters[f"{way}_batches"]
    return {
        "frames": frames,
        "bytes": counters[f"{way}_bytes"],
        "batches": batches,
        "average_batch": round(frames / batches, 2) if batches else 0.0,
        "frames_per_s": round(frames / seconds, 1) if seconds else 0.0,
        "lost": counters["rx_missed" if way == "rx" else "tx_dropped"],
    }


def pipe_name(port: str, number: int) -> str:
    """The end of lb's pipe that its consumer opens."""
    name = port.partition(":")[2].replace("{", "_").replace("}", "_")
    return f"mem:{name}}}{number}"


def build(options: ToolOptions, stats: ToolStats, seconds: float, cpu_s: float) -> dict[str, Any]:
    """The document of `tools --json`, schema 1."""
    counters = stats.counters
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "tool": options.kind,
        "ports": list(options.ports),
        "seconds": round(seconds, 6),
        "cpu_s": round(cpu_s, 6),
        "rx": _direction(counters, "rx", seconds),
        "tx": _direction(counters, "tx", seconds),
        "syscalls": counters["syscalls"],
        "matched": counters["matched"],
        "dropped": counters["dropped"],
        "swapped": counters["swapped"],
        "copied": counters["copied"],
    }
    if options.kind == "ping":
        document["answered"] = counters["matched"]
        document["unanswered"] = counters["lost"]
        document["latency_us"] = {name: round(us, 2) for name, us in stats.latency_us.items()}
    if options.kind == "lb":
        document["pipes"] = [
            {"name": pipe_name(options.ports[0], i), "frames": frames, "dropped": dropped,
             "held_max": held}
            for i, (frames, dropped, held) in enumerate(zip(*stats.pipes.values(), strict=True))
        ]  # fmt: skip
    return document


def _ways(kind: str) -> tuple[str, ...]:
    return {"gen": ("tx",), "sink": ("rx",), "recv": ("rx",), "lb": ("rx",)}.get(kind, ("rx", "tx"))


def second_line(kind: str, before: ToolStats, now: ToolStats, seconds: float) -> str:
    """What the last second brought: pkt-gen's line, one part for each direction."""
    parts = []
    for way in _ways(kind):
        frames, size, batches = (
            now.counters[f"{way}_{what}"] - before.counters[f"{way}_{what}"]
            for what in ("frames", "bytes", "batches")
        )
        bits = (size + frames * _WIRE_BYTES) * 8 / seconds
        batch = frames / batches if batches else 0
        parts.append(
            f"{way} {human(frames / seconds):>7}pps {human(bits):>7}bps  batch {batch:6.1f}"
        )
    lost = now.counters["rx_missed"] + now.counters["tx_dropped"] + now.counters["dropped"]
    return "   ".join(parts) + f"   dropped {lost}"


def _pipe_lines(document: dict[str, Any]) -> list[str]:
    return [
        f"  {pipe['name']}: {pipe['frames']} frames, {pipe['dropped']} dropped,"
        f" at most {pipe['held_max']} held"
        for pipe in document.get("pipes", [])
    ]


def render(document: dict[str, Any]) -> str:
    """The summary for people."""
    lines = []
    for way, word in (("rx", "received"), ("tx", "sent")):
        found = document[way]
        if way in _ways(document["tool"]):
            lines.append(
                f"{word} {found['frames']} frames, {found['bytes']} bytes in"
                f" {document['seconds']:.2f} s: {human(found['frames_per_s'])}pps,"
                f" batch {found['average_batch']:.1f}, lost {found['lost']}"
            )
    counts = {name: document[name] for name in ("matched", "dropped", "swapped", "copied")}
    lines.append("  ".join(f"{name} {count}" for name, count in counts.items()))
    if "latency_us" in document:
        latency = "  ".join(f"{name} {us:.1f}" for name, us in document["latency_us"].items())
        lines.append(f"answered {document['answered']}, unanswered {document['unanswered']}")
        lines.append(f"round trip in µs: {latency}")
    return "\n".join(lines + _pipe_lines(document))
