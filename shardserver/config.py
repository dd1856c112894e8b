"""The settings of a server: one table that makes the flags, the environment and the file.

Start reading at SETTINGS. Precedence: flag, then SHARDSERVER_* variable, then file, then default.
The functions here are pure; reading the file is `read_file`, the one effect.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardserver import values
from shardserver.errors import ConfigInvalidError, UsageError
from shardserver.nic.policy import POLICIES
from shardserver.values import Address, DeviceName, Service

ENVIRONMENT_PREFIX = "SHARDSERVER_"


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def _or_none(parse: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: parse(text) if text else None


@dataclass(frozen=True)
class Setting:
    """One setting. `default` is a text that `parse` understands, so all sources read alike."""

    name: str
    section: str
    parse: Callable[[str], object]
    default: str
    metavar: str
    help: str
    repeats: bool = False

    @property
    def flag(self) -> str:
        """The option's spelling."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable's spelling."""
        return ENVIRONMENT_PREFIX + self.name.upper()


_SERVER = (
    Setting(
        "iface",
        "server",
        values.parse_interface,
        "",
        "NAME",
        "network interface; the same as --device auto:NAME",
    ),
    Setting(
        "device",
        "server",
        _or_none(values.parse_device),
        "",
        "BACKEND:NAME",
        "xdp:eth0, xdp:eth0:MODE (zerocopy, copy or generic, also :busy-poll), packet:eth0, "
        "netmap:eth0, netmap:eth0-1, netmap:x{1 or vale0:1, tap:tap0, pcap:eth0 (or a file: "
        "pcap:./x.pcap), vde:/run/sw.ctl, vale:SWITCH:PORT, or mem:NAME for a "
        "software NIC in shared memory",
    ),
    Setting(
        "backend",
        "server",
        _one_of("auto", *values.BACKENDS),
        "auto",
        "NAME",
        f"auto, {', '.join(values.BACKENDS)}: how the interface's rings are opened",
    ),
    Setting(
        "engine",
        "server",
        _one_of("native", "picotcp"),
        "native",
        "NAME",
        "TCP/IP stack: native, or picotcp (make picotcp builds it)",
    ),
    Setting(
        "workers",
        "server",
        values.parse_workers,
        "auto",
        "auto|N",
        "number of shards; auto is one per ring within the CPUs allowed",
    ),
    Setting(
        "cpus",
        "server",
        values.parse_cpus,
        "auto",
        "LIST|auto",
        "CPUs for the workers, such as 2-9",
    ),
    Setting(
        "numa",
        "server",
        _one_of("strict", "prefer", "off"),
        "prefer",
        "strict|prefer|off",
        "keep CPUs and memory on the ring's NUMA node",
    ),
    Setting(
        "ip",
        "server",
        _or_none(values.parse_address),
        "",
        "ADDRESS/PREFIX",
        "address of the server; mem: has 10.77.0.1/16",
    ),
    Setting(
        "mac",
        "server",
        _or_none(values.parse_mac),
        "",
        "MAC",
        "MAC address of the server; the device's own by default",
    ),
    Setting(
        "gateway",
        "server",
        _or_none(values.parse_gateway),
        "",
        "ADDRESS",
        "next hop for addresses outside the prefix",
    ),
    Setting("port", "server", values.parse_tcp_port, "7", "PORT", "TCP port of the echo service"),
    Setting(
        "service",
        "server",
        values.parse_services,
        "",
        "NAME[:PORT]",
        "one more service: echo, discard, chargen, daytime, http or sockperf",
        repeats=True,
    ),
    Setting("name", "server", values.parse_instance, "default", "NAME", "name of the instance"),
    Setting(
        "user",
        "server",
        values.parse_text,
        "nobody",
        "USER",
        "whom the workers run as when started by root",
    ),
    Setting(
        "group",
        "server",
        values.parse_optional_text,
        "",
        "GROUP",
        "their group; the user's own by default",
    ),
    Setting(
        "graceful_timeout",
        "server",
        values.parse_duration_us,
        "30s",
        "TIME",
        "how long a drain may take before what is left is reset",
    ),
    Setting(
        "boot_timeout",
        "server",
        values.parse_time_us,
        "10s",
        "TIME",
        "how long a worker may take until it serves",
    ),
    Setting(
        "faults",
        "server",
        values.parse_optional_text,
        "",
        "SPEC",
        "faults on every ring: drop=5%%,dup=2%%,reorder=5%%,corrupt=0.1%%,delay=1ms",
    ),
    Setting("seed", "server", values.parse_seed, "0", "N", "seed of the faults"),
)
_TCP = (
    Setting(
        "rto_min",
        "tcp",
        values.parse_time_us,
        "200ms",
        "TIME",
        "shortest retransmission timeout",
    ),
    Setting("delack", "tcp", values.parse_time_us, "40ms", "TIME", "longest delay of an ACK"),
    Setting("time_wait", "tcp", values.parse_time_us, "60s", "TIME", "stay in TIME-WAIT"),
    Setting(
        "retries_max",
        "tcp",
        values.parse_retries,
        "15",
        "N",
        "retransmissions before a connection is given up",
    ),
    Setting(
        "nagle", "tcp", values.parse_bool, "false", "BOOL", "Nagle's algorithm, off by default"
    ),
    Setting(
        "rcv_buf",
        "tcp",
        values.parse_buffer,
        "256k",
        "SIZE",
        "bytes that a connection may have unread",
    ),
    Setting(
        "snd_buf",
        "tcp",
        values.parse_buffer,
        "256k",
        "SIZE",
        "bytes that a connection may have unsent",
    ),
    Setting(
        "backlog_max",
        "tcp",
        values.parse_some,
        "4096",
        "N",
        "connections per shard that may be half open",
    ),
)
_LIMITS = (
    Setting("conns_max", "limits", values.parse_some, "16384", "N", "connections per shard"),
    Setting(
        "actives_max",
        "limits",
        values.parse_count,
        "0",
        "N",
        "of these, with data in flight; 0: all",
    ),
    Setting(
        "chunks_max",
        "limits",
        values.parse_some,
        "16384",
        "N",
        "payload buffers of 2 KiB per shard",
    ),
    Setting("slots", "limits", values.parse_count, "0", "N", "slots per ring; 0: the backend's"),
    Setting(
        "buf_size", "limits", values.parse_size, "0", "SIZE", "bytes per buffer; 0: the backend's"
    ),
    Setting(
        "links", "limits", values.parse_count, "0", "N", "mem: clients that may be attached; 0: 8"
    ),
    Setting("mtu", "limits", values.parse_mtu, "0", "N", "MTU, 576 to 9000; 0: the device's"),
    Setting(
        "spin",
        "limits",
        values.parse_duration_us,
        "0us",
        "TIME",
        "how long an idle worker polls before it sleeps",
    ),
)
_LOG = (
    Setting("log_format", "log", _one_of("text", "json"), "text", "text|json", "form of log lines"),
    Setting(
        "log_level",
        "log",
        _one_of("debug", "info", "warning", "error"),
        "info",
        "LEVEL",
        "debug, info, warning or error",
    ),
    Setting(
        "log_file",
        "log",
        values.parse_optional_text,
        "",
        "PATH",
        "log of a daemon; NAME.log in the runtime directory by default",
    ),
)


def _nic(
    name: str, parse: Callable[[str], object], default: str, metavar: str, text: str
) -> Setting:
    return Setting(name, "nic", parse, default, metavar, text)


_bool = values.parse_bool
_NIC = (
    _nic("policy", _one_of(*POLICIES), "auto", "NAME", f"{', '.join(POLICIES)}: who gets frames"),
    _nic("rings", values.parse_rings, "", "LIST", "policy rings: those that are ours, as 2,4-7"),
    _nic("force", _bool, "false", "BOOL", "take an interface that carries the host's own traffic"),
    _nic("confirm", values.parse_seconds_us, "0", "SECONDS", "stop unless confirmed; 0: stay"),
    _nic(
        "offloads",
        _one_of("auto", "keep", "off"),
        "auto",
        "auto|keep|off",
        "auto: as the backend needs it",
    ),
    _nic("promisc", _bool, "false", "BOOL", "receive frames for every MAC address"),
    _nic("channels", values.parse_count, "0", "N", "queues that the card is to have; 0: keep"),
    _nic("rss", values.parse_rss, "keep", "LIST", "keep, or symmetric and equal[:N] with a comma"),
)
SETTINGS: tuple[Setting, ...] = _SERVER + _TCP + _LIMITS + _NIC + _LOG
BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(setting.section for setting in SETTINGS))


@dataclass(frozen=True)
class Config:
    """What a server runs with. Times in microseconds, sizes in bytes, 0 for "the default"."""

    iface: str
    device: DeviceName | None
    backend: str
    engine: str
    workers: int
    cpus: tuple[int, ...]
    numa: str
    ip: Address | None
    mac: bytes | None
    gateway: int | None
    port: int
    service: tuple[Service, ...]
    name: str
    user: str
    group: str
    graceful_timeout: int
    boot_timeout: int
    faults: str
    seed: int
    rto_min: int
    delack: int
    time_wait: int
    retries_max: int
    nagle: bool
    rcv_buf: int
    snd_buf: int
    backlog_max: int
    conns_max: int
    actives_max: int
    chunks_max: int
    slots: int
    buf_size: int
    links: int
    mtu: int
    spin: int
    policy: str
    rings: tuple[int, ...]
    force: bool
    confirm: int
    offloads: str
    promisc: bool
    channels: int
    rss: tuple[str, ...]
    log_format: str
    log_level: str
    log_file: str

    @property
    def services(self) -> tuple[Service, ...]:
        """Every service: echo on `port`, then those added; one that is named twice counts once."""
        return tuple(dict.fromkeys((Service("echo", self.port), *self.service)))

    @property
    def wanted_device(self) -> DeviceName:
        """The device asked for, with "auto" where the backend is left open."""
        if self.device:
            return self.device
        return DeviceName(self.backend, self.iface)


@dataclass(frozen=True)
class Given:
    """A setting's text and where it was given: "--port", "SHARDSERVER_PORT", "FILE:LINE"."""

    text: str
    origin: str


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def from_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    """What the parsed command line gives: values are texts, or lists of texts."""
    given = {}
    for name, value in flags.items():
        if name in BY_NAME and value is not None:
            text = ",".join(value) if isinstance(value, list) else str(value)
            given[name] = Given(text, BY_NAME[name].flag)
    return given


def from_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    """What the environment gives; other variables with our prefix are none of our settings."""
    return {
        setting.name: Given(environment[setting.variable], setting.variable)
        for setting in SETTINGS
        if setting.variable in environment
    }


def _line_of(text: str, section: str, key: str) -> int:
    """Line of `key` in its section: tomllib keeps no positions."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([\w.-]+)\s*\]", line)
        if header:
            current = header[1]
        found = re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line)
        if found and current == section and found[1] == key:
            return number
    return 1


def _line_of_section(text: str, section: str) -> int:
    """Line of its header; 1 where it is written otherwise, as a dotted key."""
    header = re.compile(rf"""\s*\[+\s*["']?{re.escape(section)}["'\s.\]]""")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if header.match(line)), 1)


def _text_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(item, (str, int)) for item in value):
        return ",".join(str(item) for item in value)
    if isinstance(value, (str, int)):
        return str(value)
    raise ValueError("expected a text, a number, true, false or a list of these")


def _take_key(where: str, section: str, key: str, value: object) -> Given:
    known = [setting.name for setting in SETTINGS if setting.section == section]
    if key not in known:
        elsewhere = f"; it belongs into [{BY_NAME[key].section}]" if key in BY_NAME else ""
        raise ConfigInvalidError(
            f'{where}: [{section}] unknown key "{key}"{elsewhere or suggest(key, known)}'
        )
    try:
        return Given(_text_of(value), where)
    except ValueError as error:
        raise ConfigInvalidError(f"{where}: [{section}] {key}: {error}") from None


def from_toml(text: str, path: str) -> dict[str, Given]:
    """What a configuration file gives. Errors carry the file and the line."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's own, or a number or nest too large
        found = re.search(r"\(at line (\d+)", str(error))
        line = found[1] if found else "1"
        raise ConfigInvalidError(f"{path}:{line}: not TOML: {error}") from None
    given: dict[str, Given] = {}
    for section, table in document.items():
        if not isinstance(table, dict):
            line = _line_of(text, "", section)
            raise ConfigInvalidError(
                f'{path}:{line}: "{section}" stands outside of a section',
                f"sections are {', '.join(f'[{name}]' for name in SECTIONS)}",
            )
        if section not in SECTIONS:
            raise ConfigInvalidError(
                f"{path}:{_line_of_section(text, section)}: unknown section [{section}]"
                f"{suggest(section, SECTIONS)}",
                f"sections are {', '.join(f'[{name}]' for name in SECTIONS)}",
            )
        for key, value in table.items():
            where = f"{path}:{_line_of(text, section, key)}"
            given[key] = _take_key(where, section, key, value)
    return given


def read_file(path: str) -> dict[str, Given]:
    """Reads a configuration file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigInvalidError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigInvalidError(f"{path}: is not UTF-8 text") from None
    return from_toml(text, path)


def _value(setting: Setting, given: Given) -> object:
    try:
        return setting.parse(given.text)
    except ValueError as error:
        if given.origin.startswith("--"):
            raise UsageError(f'{given.origin} "{given.text}": {error}') from None
        raise ConfigInvalidError(_wrong_value(setting, given, str(error))) from None


def _wrong_value(setting: Setting, given: Given, why: str) -> str:
    if given.origin == setting.variable:
        return f'{given.origin}="{given.text}": {why}'
    return f'{given.origin}: [{setting.section}] {setting.name} = "{given.text}": {why}'


def _check(config: Config, given: Mapping[str, Given]) -> None:
    """What single settings cannot know: contradictions between them."""
    if config.device and config.iface:
        raise ConfigInvalidError(
            f"{given['iface'].origin} {config.iface} and {given['device'].origin} "
            f"{config.device} name two devices",
            "give one of them",
        )
    if config.device and config.backend not in ("auto", config.device.backend):
        raise ConfigInvalidError(
            f"backend {config.backend} contradicts device {config.device}", "give one of them"
        )
    ports = [service.tcp_port for service in config.services]
    for service in config.services:
        if ports.count(service.tcp_port) > 1:
            raise ConfigInvalidError(
                f"two services on TCP port {service.tcp_port}: "
                + ", ".join(str(s) for s in config.services if s.tcp_port == service.tcp_port),
                "give another --port or --service NAME:PORT",
            )
    if len(config.services) > 16:
        raise ConfigInvalidError(f"{len(config.services)} services: at most 16")


def build(*sources: Mapping[str, Given]) -> Config:
    """Merges the sources, the strongest first, over the defaults; checks each and the whole."""
    merged: dict[str, Given] = {}
    for source in reversed(sources):
        merged.update(source)
    # A device named by a stronger source replaces the interface of a weaker one.
    for source in sources:
        named = {"iface", "device"} & set(source)
        if named:
            for other in {"iface", "device"} - named:
                merged.pop(other, None)
            break
    parsed: dict[str, Any] = {
        setting.name: _value(setting, merged.get(setting.name, Given(setting.default, "default")))
        for setting in SETTINGS
    }
    config = Config(**parsed)
    _check(config, merged)
    return config
