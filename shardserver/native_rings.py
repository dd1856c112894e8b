"""The C core's rings as Python sees them: each call wrapped, each return code an exception.

Beside native.py, which loads the library. What teaches rings is shardserver.rings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shardserver import errors, native

AUTO, OWNER, CLIENT = 0, 1, 2
IN, OUT, NO_TX = 1, 2, 4
HOOKS = ("down", "rx_error", "tx_error", "late")
_ERROR_MAX = 256


@dataclass(frozen=True)
class RingsInfo:
    """What was obtained. `bufs`: buffer indices are below it, 0 is unknown."""

    name: str
    backend: str
    banner: str
    rings: int
    mtu: int
    caps: int
    bufs: int
    client: bool
    mac: bytes
    peer_mac: bytes


def _options(options: native.DeviceOptions) -> Any:
    ffi, _ = native.load()
    made = ffi.new("struct ss_device_options *")
    for name in ("rings", "slots", "buf_size", "links", "mtu", "seed"):
        setattr(made, name, getattr(options, name))
    ffi.memmove(made.mac, options.mac, 6)
    faults = options.faults.encode()
    if len(faults) >= len(made.faults):
        raise errors.ConfigInvalidError("the faults' specification is longer than 127 characters")
    made.faults[0 : len(faults)] = faults
    return made


def _raise(code: int, sentence: str) -> None:
    if code < 0:
        raise errors.from_errno(-code, sentence)


class Rings:
    """A set of ring pairs. Closing waits until no view of its memory is left."""

    def __init__(
        self, spec: str, options: native.DeviceOptions, role: int, owner: Rings | None = None
    ) -> None:
        """Opens `spec`; with an owner of this process, attaches to it instead."""
        ffi, lib = native.load()
        out = ffi.new("struct ss_rings **")
        error = ffi.new("char[]", _ERROR_MAX)
        if owner:
            code = lib.ss_rings_attach(out, owner.handle, error)
        else:
            code = lib.ss_rings_open(out, spec.encode(), _options(options), role, error)
        _raise(code, ffi.string(error).decode("utf-8", "replace") or f"{spec}: cannot be opened")
        below = owner.handle if owner else None

        def destroy(handle: Any, _below: Any = below) -> None:  # the owner outlives its links
            lib.ss_rings_close(handle)

        self._ffi, self._lib = ffi, lib
        self.handle: Any = ffi.gc(out[0], destroy)
        self.info = self._describe()

    def _describe(self) -> RingsInfo:
        info = self._ffi.new("struct ss_rings_info *")
        _raise(self._lib.ss_rings_describe(self.handle, info), "rings")
        return RingsInfo(
            name=self._ffi.string(info.name).decode(),
            backend=self._ffi.string(info.backend).decode(),
            banner=self._ffi.string(info.banner).decode(),
            rings=info.rings,
            mtu=info.mtu,
            caps=info.caps,
            bufs=info.bufs,
            client=bool(info.client),
            mac=bytes(info.mac),
            peer_mac=bytes(info.peer_mac),
        )

    def answer(self, on: bool) -> None:
        """Lets a thread answer for this port while the caller opens another of the same."""
        self._lib.ss_rings_answer(self.handle, int(on))

    def ring(self, index: int, tx: bool) -> Any:
        """struct ss_ring * in shared memory; dies with the handle."""
        return self._lib.ss_rings_ring(self.handle, index, int(tx))

    def buffer(self, ring: Any, index: int) -> memoryview:
        """The bytes of buffer `index`. The mapping lives as long as any view of it."""
        handle = self.handle
        size = ring.nr_buf_size
        start = self._ffi.cast("char *", ring) + ring.buf_ofs + index * size
        anchor = self._ffi.gc(start, lambda _: handle)
        return memoryview(self._ffi.buffer(anchor, size))

    def sync(self, index: int, tx: bool) -> None:
        """Gives slots back and fetches what has come."""
        code = self._lib.ss_rings_sync(self.handle, index, int(tx))
        if code < 0:
            _raise(code, f"{self.info.name}: its other side is gone, or its rings are broken")

    def hook(self, index: int, hook: int, value: int) -> None:
        """Turns a test hook of a ring pair."""
        code = self._lib.ss_rings_hook(self.handle, index, hook, value)
        _raise(code, f"{self.info.name}-{index}: no such hook, or a value out of range")

    def audit(self) -> int:
        """Buffers that are in no or in two places; 0 is right."""
        found: int = self._lib.ss_rings_audit(self.handle)
        _raise(found, f"{self.info.name}: only the owner of shared buffers can count them")
        return found

    def same_region(self, other: Rings) -> bool:
        """Buffers may be exchanged between the two by their indices."""
        return bool(self._lib.ss_rings_same_region(self.handle, other.handle))

    def close(self) -> None:
        """Drops the handle; the device closes with the last view of its buffers."""
        self.handle = None


@contextlib.contextmanager
def _arrays(sets: Sequence[Rings], events: Sequence[int]) -> Iterator[tuple[Any, Any, Any]]:
    ffi, _ = native.load()
    handles = ffi.new("struct ss_rings *[]", [each.handle for each in sets])
    yield handles, ffi.new("uint32_t[]", list(events)), ffi.new("uint32_t[]", len(sets))


def poll(sets: Sequence[Rings], events: Sequence[int], timeout_us: int) -> list[int]:
    """Syncs, then waits for events of any set; returns each set's. Empty: interrupted."""
    _, lib = native.load()
    with _arrays(sets, events) as (handles, wanted, ready):
        code = lib.ss_rings_poll(handles, wanted, ready, len(sets), timeout_us)
        if code == -4:  # EINTR: Python's signal handlers run before the next look
            return []
        _raise(code, f"{sets[0].info.name}: poll failed: the other side is gone")
        return list(ready)
