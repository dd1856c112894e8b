"""A shard's connections, read in parts from its arena; its worker is not asked.

Any process that inherited the server may read, whatever the worker does meanwhile.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

from shardserver import native


@dataclass(frozen=True)
class Part:
    """Rows of struct ss_conn; `next` is where the next part begins, 0 after the last.

    `changing` connections are left out: they changed each time they were looked at.
    """

    rows: list[tuple[int, ...]]
    next: int
    changing: int


@functools.cache
def columns() -> tuple[str, ...]:
    """What a row holds: the fields of struct ss_conn, a number each."""
    ffi, _ = native.load()
    return tuple(name for name, _ in ffi.typeof("struct ss_conn").fields)


@functools.cache
def state_names() -> tuple[str, ...]:
    """States of connections as ss names them, in their order."""
    return native._names(native.load()[1].ss_conn_state_name)


@functools.cache
def timer_names() -> tuple[str, ...]:
    """What a connection may wait for, as ss names it."""
    return native._names(native.load()[1].ss_conn_timer_name)


def read(server: native.Server, shard: int, start: int) -> Part:
    """The part that begins at `start`: 0, or the `next` of the part before."""
    ffi, lib = native.load()
    part = ffi.new("struct ss_conns_part *")
    native._raise(lib.ss_conns_read(server.handle, shard, start, part), None, server.name)
    row = struct.Struct(f"={len(columns())}I")
    size = part.n * row.size
    return Part(list(row.iter_unpack(ffi.buffer(part.conn, size))), part.next, part.changing)
