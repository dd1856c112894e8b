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

    def longest(self, since_us: int, until_us: int) -> list[int]:
        """Each connection's longest gap, in microseconds, of those that ended between two times.

        0 for a connection to which nothing came. Slots are taken whole.
        """
        first = max(0, since_us // self.slot_us)
        last = min(self.slots - 1, until_us // self.slot_us)
        rows = [self._row(slot) for slot in range(first, last + 1)]
        return [max(column) for column in zip(*rows, strict=True)]

    def long_ones(self, least_us: int) -> Iterator[Gap]:
        """Every gap of at least this length that was noted, by time and connection."""
        for slot in range(self.slots):
            row = self._row(slot)
            if max(row) < least_us:
                continue
            long_ones = [index for index, length_us in enumerate(row) if length_us >= least_us]
            yield from (Gap(each, slot * self.slot_us, row[each]) for each in long_ones)

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
