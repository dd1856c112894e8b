"""A server with made-up rings: real processes, the real orchestrator, no C core.

Run as `fake_server.py DIRECTORY [start's options]`. What the core does is told by files in
DIRECTORY: `boot-fail` and `port-dead` hold a shard's number, `spin-N` makes shard N spin without
a turn, `crash-N` makes it abort, `conns-N` is how many connections it has.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import main, rings
from shardserver import cli, errors, native, privileges
from shardserver.native import Adoption, DeviceInfo, ShardStats

WORD = struct.Struct("=Q")
WORDS = 4  # heartbeat, generation, connections aborted, draining


class FakeCore:
    """Heartbeats in shared memory, and misbehaviour on demand."""

    engine = "native"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._memory = mmap.mmap(-1, 64 * WORDS * WORD.size)

    def _get(self, shard: int, word: int) -> int:
        return WORD.unpack_from(self._memory, (shard * WORDS + word) * WORD.size)[0]

    def _set(self, shard: int, word: int, value: int) -> None:
        WORD.pack_into(self._memory, (shard * WORDS + word) * WORD.size, value)

    def _told(self, name: str) -> str:
        path = self._directory / name
        return path.read_text() if path.exists() else ""

    def keep_only(self, shard: int) -> None: ...

    def set_state(self, shard: int, state: int) -> None: ...

    def wake(self) -> None: ...

    def adopt(self, shard: int) -> Adoption:
        if self._told("boot-fail") == str(shard):
            raise errors.DeviceUnavailableError(f"fake-{shard}: the ring could not be taken over")
        self._set(shard, 1, self._get(shard, 1) + 1)
        return Adoption(self.conns_active(shard), 0, 0, self._get(shard, 1), 1)

    def run(self, shard: int, for_us: int) -> None:
        if self._told("port-dead") == str(shard):
            raise errors.DeviceUnavailableError(f"fake-{shard}: the ring is dead")
        if self._told(f"crash-{shard}"):
            sys.stderr.write("fake: assertion failed: something about the ring\n")
            os.abort()
        while self._told(f"spin-{shard}"):
            pass
        self._set(shard, 0, self._get(shard, 0) + 1)
        time.sleep(min(for_us / 1e6, 0.01))

    def drain(self, shard: int, on: bool) -> None:
        self._set(shard, 3, int(on))

    def abort_all(self, shard: int) -> int:
        return self.conns_active(shard)

    def pulse(self, shard: int) -> tuple[int, str]:
        return self._get(shard, 0), "input"

    def conns_active(self, shard: int) -> int:
        return int(self._told(f"conns-{shard}") or 0)

    def stats(self, shard: int) -> ShardStats:
        return ShardStats(counters={"conns_active": self.conns_active(shard)},
                          rx_frames=self._get(shard, 0))  # fmt: skip


class FakeDevice:
    """A device without rings."""

    info = DeviceInfo("mem:fake", "mem", "made up", 64, 1500, bytes(6), -1)

    def event(self) -> None: ...

    def leave(self) -> None: ...


def run(directory: Path, argv: list[str]) -> int:
    """`shardserver start` over the fake."""

    @contextmanager
    def opened(_plan: object, _config: object) -> Iterator[rings.Rings]:
        yield rings.Rings(FakeDevice(), FakeCore(directory))  # type: ignore[arg-type]

    rings.opened = opened
    native.backend_names = lambda: ("mem", "packet")  # type: ignore[assignment]
    native.confine = lambda: None
    privileges.resolve = lambda _user, _group: privileges.Identity(None, None, "as it is")
    assert main.rings is rings
    return cli.main(["start", "--device", "mem:fake", *argv])


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
