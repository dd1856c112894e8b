"""The C core as Python sees it: loads the library, checks that both sides agree, wraps each call.

The only importer of `_ffi`. Every return code is checked here and becomes an exception of
shardserver.errors that carries the core's own sentence. Start reading at `Device` and `Server`;
the load client's calls stand at the end. Calls release the GIL.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from shardserver import __version__, errors

LIBRARY = Path(__file__).with_name("libshardserver.so")
ABI_VERSION = 1
_ERROR_MAX = 256
_LAYOUT_MAX = 64
_REBUILD = "run: make setup"


class ShardWord(IntEnum):
    """enum ss_shard_state: the state word in a shard's statistics page."""

    DOWN = 0
    STARTING = 1
    ADOPTING = 2
    RUNNING = 3
    DRAINING = 4
    STOPPED = 5


class Take(enum.IntEnum):
    """Which frames of a card that is shared with the host are ours: enum ss_take."""

    ADDRESS = 0
    PORTS = 1
    ALL = 2


@dataclass(frozen=True)
class DeviceOptions:
    """What is wanted of a device; 0 is the backend's default."""

    rings: int = 0
    slots: int = 0
    buf_size: int = 0
    links: int = 0
    mtu: int = 0
    ip: int = 0
    take: int = Take.ADDRESS
    tcp_ports: tuple[int, ...] = ()
    queues: int = 0  # a bit each
    mac: bytes = bytes(6)
    seed: int = 0
    faults: str = ""


@dataclass(frozen=True)
class DeviceInfo:
    """What was obtained."""

    name: str
    backend: str
    banner: str
    rings: int
    mtu: int
    mac: bytes
    event_fd: int
    region: int = 0  # devices of one number swap buffers by index; 0: shares none


@dataclass(frozen=True)
class ServerOptions:
    """Addresses in host order, times in microseconds, sizes in bytes; 0 is the default."""

    shards: int
    ip: int
    prefix: int
    gateway: int = 0
    mac: bytes = bytes(6)
    mtu: int = 0
    conns_max: int = 0
    actives_max: int = 0
    chunks_max: int = 0
    rcv_buf: int = 0
    snd_buf: int = 0
    backlog_max: int = 0
    rto_min_us: int = 0
    delack_us: int = 0
    time_wait_us: int = 0
    retries_max: int = 0
    nagle: int = 0
    spin_us: int = 0
    services: tuple[tuple[str, int], ...] = ()
    engine: str = "native"


@dataclass(frozen=True)
class Adoption:
    """What a worker found when it took its shard over."""

    adopted: int
    dropped: int
    undone_lines: int
    generation: int
    took_us: int


@dataclass(frozen=True)
class ShardStats:
    """A shard's words at one instant. Counters only grow, gauges are named so in their text."""

    verdicts: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    rx_frames: int = 0
    rx_bytes: int = 0
    rx_syncs: int = 0
    rx_missed: int = 0
    tx_frames: int = 0
    tx_bytes: int = 0
    tx_syncs: int = 0
    tx_dropped: int = 0
    syscalls: int = 0
    ring_errors: int = 0
    rx_ended: int = 0
    heartbeat: int = 0
    heartbeat_us: int = 0
    phase: str = "idle"


@dataclass(frozen=True)
class LoadOptions:
    """One load client; the fields of struct ss_load_options."""

    device: str = ""
    ip: int = 0
    tcp_port: int = 0
    source_ip: int = 0
    source_n: int = 0
    connections: int = 1
    first_id: int = 0
    size: int = 64
    pipeline: int = 1
    seed: int = 0
    duration_us: int = 0
    messages: int = 0
    timeout_us: int = 0
    ramp: int = 0
    spin_us: int = 0
    hold: int = 0
    faults: str = ""


_RING_WORDS = (
    "rx_frames",
    "rx_bytes",
    "rx_syncs",
    "rx_missed",
    "tx_frames",
    "tx_bytes",
    "tx_syncs",
    "tx_dropped",
    "syscalls",
    "ring_errors",
    "rx_ended",
    "heartbeat",
    "heartbeat_us",
)


def _check_layout(ffi: Any, lib: Any) -> None:
    entries = ffi.new("struct ss_layout_entry[]", _LAYOUT_MAX)
    count = lib.ss_layout(entries, _LAYOUT_MAX)
    for entry in entries[0 : min(count, _LAYOUT_MAX)]:
        name = ffi.string(entry.name).decode()
        struct, dot, member = name.partition(".")
        kind = ffi.typeof(f"struct {struct}")
        if dot:
            here = (ffi.offsetof(kind, member), ffi.sizeof(dict(kind.fields)[member].type))
        else:
            here = (0, ffi.sizeof(kind))
        if here != (entry.offset, entry.size):
            raise errors.NotBuiltError(
                f"{LIBRARY.name} and _ffi.py disagree about {name}: one of them is older", _REBUILD
            )


@functools.cache
def load() -> tuple[Any, Any]:
    """(ffi, lib), loaded and checked once."""
    try:
        from shardserver._ffi import ffi
    except ImportError:
        raise errors.NotBuiltError(
            "the C core is not built: _ffi.py is missing", _REBUILD
        ) from None
    try:
        lib = ffi.dlopen(str(LIBRARY))
    except OSError as error:
        reason = "it is missing" if not LIBRARY.exists() else str(error)
        raise errors.NotBuiltError(
            f"the C core {LIBRARY.name} cannot be loaded: {reason}", _REBUILD
        ) from None
    found = lib.ss_abi_version()
    if found != ABI_VERSION:
        raise errors.NotBuiltError(
            f"{LIBRARY.name} has ABI version {found}, this package needs {ABI_VERSION}", _REBUILD
        )
    _check_layout(ffi, lib)
    return ffi, lib


def _names(of: Callable[[int], Any]) -> tuple[str, ...]:
    ffi, _ = load()
    names: list[str] = []
    while (name := of(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return tuple(names)


@functools.cache
def verdict_names() -> tuple[str, ...]:
    """Names of the verdicts, in their order."""
    return _names(load()[1].ss_verdict_name)


@functools.cache
def counter_names() -> tuple[str, ...]:
    """Names of the counters, in their order."""
    return _names(load()[1].ss_counter_name)


@functools.cache
def phase_names() -> tuple[str, ...]:
    """What a worker may be doing."""
    return _names(load()[1].ss_phase_name)


@functools.cache
def backend_names() -> tuple[str, ...]:
    """The backends of this build."""
    return _names(load()[1].ss_backend_name)


@functools.cache
def service_names() -> tuple[str, ...]:
    """The services of this build."""
    return _names(load()[1].ss_service_name)


def _raise(code: int, error: Any, what: str) -> None:
    """Raises for a negative return code; `error` may hold the core's sentence."""
    if code >= 0:
        return
    ffi, _ = load()
    sentence = ffi.string(error).decode("utf-8", "replace") if error is not None else ""
    raise errors.from_errno(-code, sentence or f"{what}: {os.strerror(-code)}")


def _fill(struct: Any, options: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(options, name)
        try:
            setattr(struct, name, value)
        except OverflowError:
            raise errors.ConfigInvalidError(
                f"{name} = {value}: more than the core can hold", "give a smaller value"
            ) from None


def _set_text(target: Any, text: str, what: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    if b"\0" in data:
        raise errors.ConfigInvalidError(f"{what} holds a NUL character")
    if len(data) >= len(target):
        raise errors.ConfigInvalidError(f"{what} is longer than {len(target) - 1} characters")
    target[0 : len(data)] = data


class Device:
    """An opened device: its rings live here and in the workers that inherit them."""

    def __init__(self, spec: str, options: DeviceOptions) -> None:
        """Opens "BACKEND:NAME". Raises what the core says."""
        ffi, lib = load()
        native = ffi.new("struct ss_device_options *")
        numbers = ("rings", "slots", "buf_size", "links", "mtu", "ip", "take", "queues", "seed")
        _fill(native, options, numbers)
        for place, tcp_port in enumerate(options.tcp_ports[: len(native.tcp_ports)]):
            native.tcp_ports[place] = tcp_port
        ffi.memmove(native.mac, options.mac, 6)
        _set_text(native.faults, options.faults, "the faults' specification")
        out = ffi.new("struct ss_device **")
        error = ffi.new("char[]", _ERROR_MAX)
        _raise(lib.ss_device_open(out, spec.encode(), native, error), error, spec)
        self._lib = lib
        self.handle = out[0]
        self.info = self._describe()

    def _describe(self) -> DeviceInfo:
        ffi, lib = load()
        info = ffi.new("struct ss_device_info *")
        _raise(lib.ss_device_describe(self.handle, info), None, "device")
        return DeviceInfo(
            name=ffi.string(info.name).decode(),
            backend=ffi.string(info.backend).decode(),
            banner=ffi.string(info.banner).decode(),
            rings=info.rings,
            mtu=info.mtu,
            mac=bytes(info.mac),
            event_fd=info.event_fd,
            region=info.region,
        )

    def event(self) -> bool:
        """Serves attach and hang-up of clients; call when `info.event_fd` is readable.

        True: the process that reads a device of one queue had died, and was replaced.
        """
        code: int = self._lib.ss_device_event(self.handle)
        _raise(code, None, self.info.name)
        return code == 1

    def audit(self) -> int:
        """Buffers that are in no or in two places; 0 is right."""
        found: int = self._lib.ss_device_audit(self.handle)
        _raise(found, None, self.info.name)
        return found

    def leave(self) -> None:
        """In a child that serves no ring: lets go of all of them; statistics stay readable."""
        self._lib.ss_device_leave(self.handle)

    def close(self) -> None:
        """Closes every ring. Idempotent."""
        if self.handle is not None:
            self._lib.ss_device_close(self.handle)
            self.handle = None

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _server_options(options: ServerOptions) -> Any:
    ffi, _ = load()
    native = ffi.new("struct ss_server_options *")
    _fill(
        native,
        options,
        tuple(name for name in vars(options) if name not in ("mac", "services", "engine")),
    )
    ffi.memmove(native.mac, options.mac, 6)
    _set_text(native.engine, options.engine, "the engine's name")
    native.services_n = len(options.services)
    for slot, (name, tcp_port) in zip(native.services, options.services, strict=False):
        _set_text(slot.name, name, "a service's name")
        slot.tcp_port = tcp_port
    return native


class Server:
    """Arenas, tables and statistics of every shard, made before the fork."""

    def __init__(self, device: Device, options: ServerOptions) -> None:
        ffi, lib = load()
        out = ffi.new("struct ss_server **")
        error = ffi.new("char[]", _ERROR_MAX)
        code = lib.ss_server_create(out, device.handle, _server_options(options), error)
        _raise(code, error, device.info.name)
        self._lib = lib
        self._stats = ffi.new("struct ss_shard_stats *")
        self._phases = phase_names()
        self._conns_active = counter_names().index("conns_active")
        self.handle = out[0]
        self.name = device.info.name
        self.shards = options.shards
        engine = ffi.string(lib.ss_server_engine(self.handle)).decode()
        self.engine = f"native {__version__}" if engine == "native" else engine
        self.conns_max = int(lib.ss_server_conns_max(self.handle))

    def close(self) -> None:
        """Unmaps everything. Idempotent."""
        if self.handle is not None:
            self._lib.ss_server_destroy(self.handle)
            self.handle = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wake(self) -> None:
        """Every worker has a turn at once, also one that sleeps."""
        _raise(self._lib.ss_server_wake(self.handle), None, self.name)

    def keep_only(self, shard: int) -> None:
        """Closes this process's descriptors of the other rings."""
        _raise(self._lib.ss_worker_keep_only(self.handle, shard), None, self.name)

    def adopt(self, shard: int) -> Adoption:
        """Takes the shard's arena over, in its worker."""
        ffi, lib = load()
        adoption = ffi.new("struct ss_adoption *")
        error = ffi.new("char[]", _ERROR_MAX)
        _raise(lib.ss_worker_adopt(self.handle, shard, adoption, error), error, self.name)
        return Adoption(
            adoption.adopted,
            adoption.dropped,
            adoption.undone_lines,
            adoption.generation,
            adoption.took_us,
        )

    def run(self, shard: int, for_us: int) -> None:
        """Turns of the worker loop; raises when the port is dead."""
        code = self._lib.ss_worker_run(self.handle, shard, for_us)
        if code < 0:
            why = "it holds what cannot be" if code == -errno.EIO else "the ring is dead"
            _raise(code, None, f"{self.name}-{shard}: the port has stopped, {why}")

    def drain(self, shard: int, on: bool) -> None:
        """No new connections from now on, or again."""
        _raise(self._lib.ss_worker_drain(self.handle, shard, int(on)), None, self.name)

    def abort_all(self, shard: int) -> int:
        """Resets every connection that is left; returns how many."""
        count: int = self._lib.ss_worker_abort_all(self.handle, shard)
        _raise(count, None, self.name)
        return count

    def _read(self, shard: int) -> Any:
        _raise(self._lib.ss_stats_read(self.handle, shard, self._stats), None, self.name)
        return self._stats

    def pulse(self, shard: int) -> tuple[int, str]:
        """(heartbeat, phase) of a shard: what the hang watch looks at."""
        stats = self._read(shard)
        known = stats.phase < len(self._phases)
        return stats.heartbeat, self._phases[stats.phase] if known else "unknown"

    def conns_active(self, shard: int) -> int:
        """Connections that the shard has now."""
        return int(self._read(shard).counter[self._conns_active])

    def set_state(self, shard: int, state: int) -> None:
        """Writes the state word (enum ss_shard_state) of the shard's page."""
        _raise(self._lib.ss_stats_set_state(self.handle, shard, state), None, self.name)

    def stats(self, shard: int) -> ShardStats:
        """A copy of the shard's words; also while its worker hangs or is dead."""
        stats = self._read(shard)
        known = stats.phase < len(self._phases)
        return ShardStats(
            verdicts=dict(zip(verdict_names(), stats.verdict, strict=False)),
            counters=dict(zip(counter_names(), stats.counter, strict=False)),
            phase=self._phases[stats.phase] if known else "unknown",
            **{name: getattr(stats, name) for name in _RING_WORDS},
        )


def confine() -> None:
    """Drops capabilities and installs the seccomp filter in this process."""
    _raise(load()[1].ss_worker_confine(), None, "confinement of the worker")


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends; a change of uid takes it back."""
    _raise(load()[1].ss_die_with_parent(), None, "the wish to end with the parent")


class LoadStats:
    """Statistics of a load client, in memory shared with the processes forked later."""

    COUNTERS = (
        "connected",
        "active",
        "finished",
        "messages",
        "bytes",
        "mismatched_bytes",
        "resets",
        "timeouts",
        "refused",
        "first_errno",
        "started_us",
        "ended_us",
        "largest_gap_us",
    )

    def __init__(self) -> None:
        ffi, lib = load()
        self._lib = lib
        self.handle = lib.ss_load_stats_map()
        if self.handle == ffi.NULL:
            raise errors.ShardserverError("no memory for the load client's statistics")

    def read(self) -> dict[str, int]:
        """Every counter, by name."""
        return {name: getattr(self.handle, name) for name in self.COUNTERS}

    def go(self) -> None:
        """Lets clients that hold begin."""
        self.handle.go = 1

    def withhold(self, connections: int) -> None:
        """So many connections, the last ones, may not be begun yet."""
        self.handle.withheld = connections

    def stop(self) -> None:
        """Asks the client to end."""
        self.handle.stop = 1

    def merge(self, other: LoadStats) -> None:
        """Adds another client's figures to these."""
        self._lib.ss_load_merge(self.handle, other.handle)

    def quantile_us(self, q: float) -> float:
        """Microseconds below which the fraction `q` of all samples lies."""
        return float(self._lib.ss_latency_quantile(self.handle, q)) / 1000.0

    def close(self) -> None:
        """Unmaps the memory. Idempotent."""
        if self.handle is not None:
            self._lib.ss_load_stats_unmap(self.handle)
            self.handle = None

    def __enter__(self) -> LoadStats:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_run(options: LoadOptions, stats: LoadStats, gaps: Any = None) -> None:
    """Runs one load client to its end. Errors of single connections are only counted.

    `gaps`: the handle of a native_gaps.LoadGaps, where somebody asks when each connection waited.
    """
    ffi, lib = load()
    native = ffi.new("struct ss_load_options *")
    _fill(
        native,
        options,
        tuple(name for name in vars(options) if name not in ("device", "faults")),
    )
    _set_text(native.device, options.device, "the device's name")
    _set_text(native.faults, options.faults, "the faults' specification")
    native.gaps = gaps or ffi.NULL
    error = ffi.new("char[]", _ERROR_MAX)
    _raise(lib.ss_load_run(native, stats.handle, error), error, "load")
