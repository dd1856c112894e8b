"""When each connection of a load client waited for its replies, and how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardserver import errors, native


@dataclass(frozen=True)
class Gap:
    """Time without a byte of reply. Microseconds since the client's first message.

    It ended within the slot of time that begins at `ended_us`.
    """

    connection: int
    ended_us: int
    length_us: int


class LoadGaps:
    """The longest gap of each connection in each slot of time, shared with processes forked later.

    What comes after the last slot is noted in the last one.
    """

    def __init__(self, connections: int, slots: int, slot_us: int) -> None:
        ffi, lib = native.load()
        self._ffi = ffi
        self._lib = lib
        self.connections = connections
        self.slots = slots
        self.slot_us = slot_us
        self.handle: Any = lib.ss_load_gaps_map(connections, slots, slot_us)
        if self.handle == ffi.NULL:
            raise errors.ShardserverError(
                f"no memory to note the gaps of {connections} connections in {slots} slots"
            )

    def _row(self, number: int) -> memoryview:
        size = self.connections * 4
        address = self.handle.longest_us + number * self.connections
        return memoryview(self._ffi.buffer(address, size)).cast("I")

    def longest(self) -> Iterator[Gap]:
        """Every gap that was noted, by time and connection."""
        for slot in range(self.slots):
            row = self._row(slot)
            if any(row):
                for connection, length_us in enumerate(row):
                    if length_us:
                        yield Gap(connection, slot * self.slot_us, length_us)

    def lost(self) -> dict[int, int]:
        """Connections that were reset, refused or given up, and the slot's begin in which."""
        row = self._row(self.slots)
        return {each: (slot - 1) * self.slot_us for each, slot in enumerate(row) if slot}

    def close(self) -> None:
        """Unmaps the memory. Idempotent."""
        if self.handle is not None:
            self._lib.ss_load_gaps_unmap(self.handle)
            self.handle = None

    def __enter__(self) -> LoadGaps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
