"""What is set on an interface, as data: `Settings` and its parts."""

from __future__ import annotations

import msgspec


class Feature(msgspec.Struct, frozen=True):
    """One offload. `wanted` is what was asked for, `active` what is; `fixed` cannot be changed."""

    wanted: bool
    active: bool
    fixed: bool


class Channels(msgspec.Struct, frozen=True):
    """Queues of the card, and how many of each kind there may be."""

    rx: int
    tx: int
    other: int
    combined: int
    rx_max: int
    tx_max: int
    other_max: int
    combined_max: int

    @property
    def receive(self) -> int:
        """Queues that receive."""
        return self.rx + self.combined

    @property
    def receive_max(self) -> int:
        """How many queues may receive."""
        return max(self.combined_max, self.rx_max)


class Rss(msgspec.Struct, frozen=True):
    """How the card spreads flows: hash function, its key in hex, the table bucket → queue."""

    function: int
    key: str
    table: list[int]
    symmetric: int = 0  # RXH_XFRM_*: the card makes the hash symmetric by itself


class Pair(msgspec.Struct, frozen=True):
    """A receive and a transmit number, with their maxima."""

    rx: int
    tx: int
    rx_max: int = 0
    tx_max: int = 0


class Moderation(msgspec.Struct, frozen=True):
    """Interrupt moderation."""

    rx_us: int
    rx_frames: int
    tx_us: int
    tx_frames: int
    adaptive_rx: bool
    adaptive_tx: bool


class Pause(msgspec.Struct, frozen=True):
    """Pause frames."""

    autoneg: bool
    rx: bool
    tx: bool


class Driver(msgspec.Struct, frozen=True):
    """Who drives the card."""

    name: str
    version: str
    bus: str


class Settings(msgspec.Struct, frozen=True):
    """What is set on an interface: all that we may change, and what a change may disturb."""

    up: bool
    promisc: bool
    features: dict[str, Feature]
    channels: Channels | None = None
    rss: Rss | None = None
    rings: Pair | None = None
    moderation: Moderation | None = None
    pause: Pause | None = None
