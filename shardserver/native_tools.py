"""The C core's tools as Python sees them: options in, counters out. Beside native.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardserver import errors, native
from shardserver.native_rings import AUTO

KINDS = ("sink", "forward", "bridge", "gen", "recv", "ping", "pong", "lb")
PIPES_MAX = 32
_ERROR_MAX = 256
_COUNTERS = (
    "rx_frames",
    "rx_bytes",
    "rx_batches",
    "rx_missed",
    "tx_frames",
    "tx_bytes",
    "tx_batches",
    "tx_dropped",
    "matched",
    "dropped",
    "swapped",
    "copied",
    "lost",
    "syscalls",
    "started_us",
    "ended_us",
)
QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_PER_PIPE = ("pipe_frames", "pipe_dropped", "pipe_held_max")
_RANGES = ("src_ip", "dst_ip", "src_port", "dst_port")
Range = tuple[int, int]


@dataclass(frozen=True)
class ToolOptions:
    """The fields of struct ss_tool_options; 0 is the default. Ranges are (first, how many)."""

    kind: str
    ports: tuple[str, ...]
    roles: tuple[int, ...] = (AUTO, AUTO)
    busy: int = 0
    udp_port: int = 0
    rings: int = 0
    slots: int = 0
    threads: int = 0
    cpu: int = 0
    copy: int = 0
    size: int = 0
    burst: int = 0
    pipes: int = 0
    extra: int = 0
    count: int = 0
    rate: int = 0
    duration_us: int = 0
    src_ip: Range = (0, 0)
    dst_ip: Range = (0, 0)
    src_port: Range = (0, 0)
    dst_port: Range = (0, 0)
    src_mac: bytes = bytes(6)
    dst_mac: bytes = bytes(6)


@dataclass(frozen=True)
class ToolStats:
    """What a tool has counted since its start."""

    counters: dict[str, int]
    pipes: dict[str, list[int]]
    latency_us: dict[str, float]
    error: int
    running: int


def _native_options(options: ToolOptions) -> Any:
    ffi, _ = native.load()
    made = ffi.new("struct ss_tool_options *")
    for name in vars(options):
        if name not in ("kind", "ports", "roles", *_RANGES, "src_mac", "dst_mac"):
            setattr(made, name, getattr(options, name))
    for name in _RANGES:
        first, count = getattr(options, name)
        setattr(made, name, {"first": first, "n": count})
    for place, port in enumerate(options.ports):
        data = port.encode()
        if len(data) >= len(made.port[place]):
            raise errors.ConfigInvalidError(f"{port}: a port's name has at most 63 characters")
        made.port[place][0 : len(data)] = data
        made.role[place] = options.roles[place]
    made.kind = KINDS.index(options.kind)
    ffi.memmove(made.src_mac, options.src_mac, 6)
    ffi.memmove(made.dst_mac, options.dst_mac, 6)
    return made


class Tool:
    """Open ports, and the threads that serve them."""

    def __init__(self, options: ToolOptions) -> None:
        ffi, lib = native.load()
        out = ffi.new("struct ss_tool **")
        error = ffi.new("char[]", _ERROR_MAX)
        code = lib.ss_tool_open(out, _native_options(options), error)
        if code < 0:
            sentence = ffi.string(error).decode("utf-8", "replace")
            raise errors.from_errno(-code, sentence or f"{options.ports[0]}: cannot be opened")
        self._ffi, self._lib = ffi, lib
        self._pipes = options.pipes if options.kind == "lb" else 0
        self._stats = ffi.new("struct ss_tool_stats *")
        self.options = options
        self.handle = out[0]

    def banner(self, place: int) -> str:
        """What was obtained for a port."""
        info = self._ffi.new("struct ss_rings_info *")
        if self._lib.ss_tool_describe(self.handle, place, info) < 0:
            raise errors.UsageError(f"there is no port {place}")
        name = self._ffi.string(info.name).decode()
        return f"{name}: {self._ffi.string(info.banner).decode()}"

    def start(self) -> None:
        """Starts the threads; they end by themselves at count or duration."""
        code = self._lib.ss_tool_start(self.handle)
        if code < 0:
            raise errors.from_errno(-code, f"{self.options.ports[0]}: no thread could be started")

    def stop(self) -> None:
        """Ends the threads and waits for them. Idempotent."""
        self._lib.ss_tool_stop(self.handle)

    def read(self) -> ToolStats:
        """The counters now."""
        stats = self._stats
        self._lib.ss_tool_read(self.handle, stats)
        quantiles = {
            name: self._lib.ss_tool_quantile(stats, q) / 1000 for name, q in QUANTILES.items()
        }
        return ToolStats(
            counters={name: int(getattr(stats, name)) for name in _COUNTERS},
            pipes={name: list(getattr(stats, name))[: self._pipes] for name in _PER_PIPE},
            latency_us=quantiles,
            error=-stats.error,
            running=stats.running,
        )

    def close(self) -> None:
        """Ends the threads, closes the ports. Idempotent."""
        if self.handle is not None:
            self._lib.ss_tool_close(self.handle)
            self.handle = None

    def __enter__(self) -> Tool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
