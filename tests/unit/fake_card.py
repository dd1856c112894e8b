"""A network card in memory: drivers as they behave, without one. Made for tests of `nic`."""

from __future__ import annotations

import errno
import os

import msgspec

from shardserver.nic import changes, ethtool
from shardserver.nic.settings import Channels, Feature, Rss, Settings

IFF_RUNNING = 0x40
KEY = "0123456789abcdef" * 5


def features(**on: bool) -> dict[str, Feature]:
    """Offloads by name with "_" for "-"; all can be changed."""
    return {name.replace("_", "-"): Feature(value, value, False) for name, value in on.items()}


def settings(**changed: object) -> Settings:
    """A card with four combined queues, Toeplitz and a table of eight buckets."""
    made: dict[str, object] = {
        "up": True,
        "promisc": False,
        "features": features(rx_gro=True, rx_lro=True, tx_checksum_ipv4=True, rx_hashing=True),
        "channels": Channels(0, 0, 1, 4, 0, 0, 1, 8),
        "rss": Rss(1, KEY, [0, 1, 2, 3, 0, 1, 2, 3]),
    }
    return Settings(**{**made, **changed})  # type: ignore[arg-type]


class FakeCard:
    """Answers as `ethtool.Card` does. `refuses` names methods whose call the driver refuses."""

    def __init__(self, start: Settings, name: str = "eth0") -> None:
        self.name = name
        self.now = start
        self.refuses: set[str] = set()
        self.calls: list[str] = []
        self.own_table = True

    def _take(self, call: str, **changed: object) -> None:
        self.calls.append(call)
        if call in self.refuses:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self.now = msgspec.structs.replace(self.now, **changed)

    def flags(self) -> int:
        up = ethtool.IFF_UP | IFF_RUNNING if self.now.up else 0
        return up | (ethtool.IFF_PROMISC if self.now.promisc else 0)

    def set_flag(self, flag: int, on: bool) -> None:
        self._take("set_flag", **{"up" if flag == ethtool.IFF_UP else "promisc": on})

    def features(self) -> dict[str, Feature]:
        return self.now.features

    def set_features(self, wanted: dict[str, bool]) -> None:
        new = {n: Feature(on, on, False) for n, on in wanted.items()}
        self._take("set_features", features={**self.now.features, **new})

    def channels(self) -> Channels | None:
        return self.now.channels

    def set_channels(self, wanted: Channels) -> None:
        rss = self.now.rss
        if self.own_table and rss:
            table = changes.default_table(len(rss.table), wanted.receive)
            rss = msgspec.structs.replace(rss, table=table)
        self._take("set_channels", channels=wanted, rss=rss)

    def rss(self) -> Rss | None:
        return self.now.rss

    def set_rss(self, table: list[int] | None, key: bytes) -> None:
        assert self.now.rss and self.now.channels
        old = self.now.rss
        own = changes.default_table(len(old.table), self.now.channels.receive)
        new = old.table if table is None else table or own
        key_hex = key.hex() if key else old.key
        self._take("set_rss", rss=msgspec.structs.replace(old, table=new, key=key_hex))
        if table is not None:
            self.own_table = not table

    def rings(self) -> None:
        return None

    moderation = pause = rings
