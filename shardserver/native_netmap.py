"""netmap as the C core knows it: names of ports, our declarations, what the module says.

Beside native.py, which loads the library.
"""

from __future__ import annotations

from dataclasses import dataclass

from shardserver import errors, native

_ERROR_MAX = 256
_LAYOUT_MAX = 64


@dataclass(frozen=True)
class NetmapName:
    """The parts of a netmap port's name. `iface` is empty for pipes and VALE ports."""

    port: str
    iface: str
    ring: int
    one_ring: bool
    nic: bool
    host: bool


@dataclass(frozen=True)
class NetmapModule:
    """netmap's numbers; 0 where the module would have to tell. `error` says why it does not."""

    ioc_ctrl: int
    ioc_txsync: int
    ioc_rxsync: int
    memory_bytes: int
    api: int
    mem_id: int
    ring_slots_max: int
    port_rings_max: int
    rings_max: int
    descriptors_max: int
    bufs_max: int
    buf_bytes: int
    error: errors.ShardserverError | None = None


@dataclass(frozen=True)
class LayoutEntry:
    """A structure, or a field of one; arrays without an end have size 0."""

    name: str
    offset: int
    size: int


def netmap_name(text: str) -> NetmapName:
    """Takes a port's name apart ("netmap:" left out); raises what is wrong with it."""
    ffi, lib = native.load()
    out = ffi.new("struct ss_netmap_name *")
    error = ffi.new("char[]", _ERROR_MAX)
    native._raise(lib.ss_netmap_name(text.encode(), out, error), error, text)
    port, iface = (ffi.string(text).decode() for text in (out.port, out.iface))
    return NetmapName(port, iface, out.ring, bool(out.one_ring), bool(out.nic), bool(out.host))


def netmap_layout() -> list[LayoutEntry]:
    """Our declarations of netmap's structures, as the compiler laid them out."""
    ffi, lib = native.load()
    entries = ffi.new("struct ss_layout_entry[]", _LAYOUT_MAX)
    count = min(lib.ss_netmap_layout(entries, _LAYOUT_MAX), _LAYOUT_MAX)
    return [
        LayoutEntry(ffi.string(entry.name).decode(), entry.offset, entry.size)
        for entry in entries[0:count]
    ]


def netmap_module() -> NetmapModule:
    """What the module says; its absence is in `error`, not raised."""
    ffi, lib = native.load()
    module = ffi.new("struct ss_netmap_module *")
    error = ffi.new("char[]", _ERROR_MAX)
    failure: errors.ShardserverError | None = None
    try:
        native._raise(lib.ss_netmap_module(module, error), error, "netmap")
    except errors.ShardserverError as found:
        failure = found
    names = [name for name in NetmapModule.__dataclass_fields__ if name != "error"]
    return NetmapModule(**{name: getattr(module, name) for name in names}, error=failure)


def netmap_adapter(iface: str) -> str:
    """native, emulated, or "" for what netmap cannot take."""
    return {0: "emulated", 1: "native"}.get(native.load()[1].ss_netmap_adapter(iface.encode()), "")
