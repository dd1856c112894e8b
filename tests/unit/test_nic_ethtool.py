"""What goes through SIOCETHTOOL, byte for byte: a driver with a flow hash is not always at hand."""

from __future__ import annotations

import errno
import struct

import pytest

from shardserver.nic.ethtool import Card
from shardserver.nic.settings import Channels, Driver, Feature, Moderation, Pair, Pause, Rss

GRSSH, SRSSH, KEEP = 0x46, 0x47, 0xFFFFFFFF
KEY = bytes(range(1, 41))
NAMES = [f"feature-{index}" for index in range(33)]  # one more than a block holds


class Driven(Card):
    """A card whose ioctls a driver in Python answers; `log` is what it was told."""

    def __init__(self, knows: bool = True, symmetric: int = 0) -> None:
        super().__init__("eth0")
        self.knows = knows
        self.symmetric = symmetric
        self.table = [0, 1, 2, 3]
        self.log: list[bytes] = []

    def _call(self, data: bytes) -> bytearray:
        self.log.append(data)
        if not self.knows:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        command = struct.unpack_from("=I", data)[0]
        answer = {
            0x03: self._driver, 0x0E: self._words(1, 3, 16, 0, 5, 32, 0, 0, 0, 1, 0),
            0x10: self._words(4096, 0, 0, 2048, 512, 0, 0, 256), 0x12: self._words(1, 0, 1),
            0x37: self._string_set, 0x1B: self._strings, 0x3A: self._features,
            0x3C: self._words(0, 0, 1, 8, 0, 0, 1, 4), GRSSH: self._rss,
        }.get(command)  # fmt: skip
        return bytearray(answer(data) if answer else data)

    @staticmethod
    def _words(*words: int):
        def answer(data: bytes) -> bytes:
            made = data[:4] + struct.pack(f"={len(words)}I", *words)
            assert len(made) <= len(data)
            return made + bytes(len(data) - len(made))

        return answer

    @staticmethod
    def _driver(data: bytes) -> bytes:
        made = data[:4] + b"ixgbe".ljust(32, b"\0") + b"6.1".ljust(32, b"\0")
        return (made + bytes(32) + b"0000:3b:00.0").ljust(len(data), b"\0")

    @staticmethod
    def _string_set(data: bytes) -> bytes:
        assert struct.unpack("=IIQI", data) == (0x37, 0, 1 << 4, 0)
        return data[:16] + struct.pack("=I", len(NAMES))

    @staticmethod
    def _strings(data: bytes) -> bytes:
        assert struct.unpack_from("=III", data) == (0x1B, 4, len(NAMES))
        return data[:12] + b"".join(name.encode().ljust(32, b"\0") for name in NAMES)

    @staticmethod
    def _features(data: bytes) -> bytes:
        assert struct.unpack_from("=II", data) == (0x3A, 2)
        # available, wanted, active, never changed
        return data[:8] + struct.pack("=8I", 0b0111, 0b0011, 0b0101, 0b0100, 1, 0, 1, 0)

    def _rss(self, data: bytes) -> bytes:
        head = struct.pack("=IIIIBB2xI", GRSSH, 0, len(self.table), len(KEY), 1, self.symmetric, 0)
        if len(data) == len(head):
            return head
        assert len(data) == len(head) + 4 * len(self.table) + len(KEY)
        return head + struct.pack(f"={len(self.table)}I", *self.table) + KEY


def test_answers_are_read_at_their_places() -> None:
    with Driven() as card:
        assert card.driver() == Driver("ixgbe", "6.1", "0000:3b:00.0")
        assert card.rings() == Pair(512, 256, 4096, 2048)
        assert card.moderation() == Moderation(1, 3, 5, 32, True, False)
        assert card.pause() == Pause(True, False, True)
        assert card.channels() == Channels(0, 0, 1, 4, 0, 0, 1, 8)
        assert card.rss() == Rss(1, KEY.hex(), [0, 1, 2, 3], 0)


def test_what_a_driver_does_not_know_is_none() -> None:
    with Driven(knows=False) as card:
        answers = (card.driver, card.rings, card.moderation, card.pause, card.channels, card.rss)
        assert [answer() for answer in answers] == [None] * 6


def test_features_are_bits_over_several_blocks() -> None:
    with Driven() as card:
        found = card.features()
        assert len(found) == 33
        assert found["feature-0"] == Feature(True, True, False)
        assert found["feature-1"] == Feature(True, False, False)
        assert found["feature-2"] == Feature(False, True, True)
        assert found["feature-3"] == Feature(False, False, True)
        assert found["feature-32"] == Feature(False, True, False)
        card.set_features({"feature-1": True, "feature-0": False, "feature-32": True})
        assert struct.unpack("=6I", card.log[-1]) == (0x3B, 2, 0b11, 0b10, 1, 1)


def test_channels_are_set_by_their_counts() -> None:
    with Driven() as card:
        card.set_channels(Channels(0, 0, 1, 2, 0, 0, 1, 8))
        assert struct.unpack("=9I", card.log[-1]) == (0x3D, 0, 0, 0, 0, 0, 0, 1, 2)


@pytest.mark.parametrize(
    ("table", "key", "buckets", "rest"),
    [
        (None, KEY, KEEP, KEY),
        ([3, 3, 0, 0], b"", 4, struct.pack("=4I", 3, 3, 0, 0)),
        ([1, 1, 0, 0], KEY, 4, struct.pack("=4I", 1, 1, 0, 0) + KEY),
        ([], b"", 0, b""),
    ],
)
@pytest.mark.parametrize("symmetric", [0, 1])
def test_the_flow_hash_is_written_as_the_kernel_wants_it(
    table: list[int] | None, key: bytes, buckets: int, rest: bytes, symmetric: int
) -> None:
    """What the card does by itself is handed back: "no change" has no word in older kernels."""
    with Driven(symmetric=symmetric) as card:
        card.set_rss(table, key)
        head = struct.pack("=IIIIBB2xI", SRSSH, 0, buckets, len(key), 0, symmetric, 0)
        assert card.log[-1] == head + rest


def test_a_name_that_no_interface_can_have_is_refused() -> None:
    for name in ("", "a-name-that-is-too-long"):
        with pytest.raises(OSError, match="no such interface"):
            Card(name)


def test_the_loopback_of_this_machine_answers() -> None:
    with Card("lo") as card:
        assert card.flags() & 0x8  # IFF_LOOPBACK
        assert card.features()["loopback"].active
        assert card.channels() is None
