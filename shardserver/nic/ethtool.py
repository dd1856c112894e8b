"""What a driver tells and takes through SIOCETHTOOL, and the interface's flags. Start at `Card`.

A question that the driver does not know (EOPNOTSUPP) is answered with None; every other refusal is
an OSError. Offsets and numbers are those of linux/ethtool.h.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from types import TracebackType

from shardserver.nic.settings import (
    Channels,
    Driver,
    Feature,
    Moderation,
    Pair,
    Pause,
    Rss,
)

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCETHTOOL = 0x8946
IFF_UP = 0x1
IFF_PROMISC = 0x100

_GDRVINFO = 0x03
_GCOALESCE = 0x0E
_GRINGPARAM = 0x10
_GPAUSEPARAM = 0x12
_GSTRINGS = 0x1B
_GSSET_INFO = 0x37
_GFEATURES = 0x3A
_SFEATURES = 0x3B
_GCHANNELS = 0x3C
_SCHANNELS = 0x3D
_GRSSH = 0x46
_SRSSH = 0x47
_SS_FEATURES = 4
_STRING = 32
_RSS_HEAD = struct.Struct("=IIIIBB2xI")
_RSS_KEEP = 0xFFFFFFFF  # ETH_RXFH_INDIR_NO_CHANGE
_FEATURE_BITS = 32


def words(data: bytes | bytearray) -> tuple[int, ...]:
    """Native 32-bit words."""
    return struct.unpack(f"={len(data) // 4}I", data)


def _text(data: bytes | bytearray) -> str:
    return bytes(data).split(b"\0")[0].decode("ascii", "replace")


class Card:
    """One interface, by name, in the network namespace of the process that made it."""

    def __init__(self, name: str) -> None:
        if not 0 < len(name.encode()) < 16:
            raise OSError(errno.ENODEV, "no such interface", name)
        self.name = name
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._feature_names: list[str] | None = None

    def close(self) -> None:
        """Gives the socket back."""
        self._socket.close()

    def __enter__(self) -> Card:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, data: bytes) -> bytearray:
        """One SIOCETHTOOL with a buffer that the kernel reads and writes."""
        buffer = array.array("B", data)
        address, _ = buffer.buffer_info()
        request = struct.pack("=16sQ16x", self.name.encode(), address)
        fcntl.ioctl(self._socket, SIOCETHTOOL, request)
        return bytearray(buffer)

    def _ask(self, command: int, size: int) -> bytearray | None:
        try:
            return self._call(struct.pack("=I", command) + bytes(size - 4))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise

    def driver(self) -> Driver | None:
        """Driver's name and the bus address."""
        data = self._ask(_GDRVINFO, 196)
        if data is None:
            return None
        return Driver(_text(data[4:36]), _text(data[36:68]), _text(data[100:132]))

    def rings(self) -> Pair | None:
        """Descriptors per ring."""
        data = self._ask(_GRINGPARAM, 36)
        if data is None:
            return None
        word = words(data)
        return Pair(word[5], word[8], word[1], word[4])

    def moderation(self) -> Moderation | None:
        """Interrupt moderation."""
        data = self._ask(_GCOALESCE, 92)
        if data is None:
            return None
        word = words(data)
        return Moderation(word[1], word[2], word[5], word[6], bool(word[10]), bool(word[11]))

    def pause(self) -> Pause | None:
        """Pause frames."""
        data = self._ask(_GPAUSEPARAM, 16)
        return None if data is None else Pause(*(bool(word) for word in words(data)[1:]))

    def flags(self) -> int:
        """IFF_* of the interface."""
        request = struct.pack("=16s24x", self.name.encode())
        answer = fcntl.ioctl(self._socket, SIOCGIFFLAGS, request)
        return int(struct.unpack_from("=H", answer, 16)[0])

    def set_flag(self, flag: int, on: bool) -> None:
        """Sets or clears one IFF_* flag."""
        flags = self.flags()
        flags = flags | flag if on else flags & ~flag
        request = struct.pack("=16sH22x", self.name.encode(), flags)
        fcntl.ioctl(self._socket, SIOCSIFFLAGS, request)

    def channels(self) -> Channels | None:
        """Queues."""
        data = self._ask(_GCHANNELS, 36)
        if data is None:
            return None
        word = words(data)
        return Channels(*word[5:9], *word[1:5])

    def set_channels(self, wanted: Channels) -> None:
        """Sets the numbers of queues."""
        counts = (wanted.rx, wanted.tx, wanted.other, wanted.combined)
        self._call(struct.pack("=9I", _SCHANNELS, 0, 0, 0, 0, *counts))

    def feature_names(self) -> list[str]:
        """Of every bit, "" where a bit has none."""
        if self._feature_names is None:
            data = self._call(struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_FEATURES, 0))
            count = words(data[16:20])[0] if words(data[8:12])[0] else 0
            head = struct.pack("=III", _GSTRINGS, _SS_FEATURES, count)
            data = self._call(head + bytes(count * _STRING))[12:]
            self._feature_names = [
                _text(data[at * _STRING : (at + 1) * _STRING]) for at in range(count)
            ]
        return self._feature_names

    def features(self) -> dict[str, Feature]:
        """Every offload by the name that ethtool -k shows."""
        names = self.feature_names()
        blocks = -(-len(names) // _FEATURE_BITS)
        data = self._call(struct.pack("=II", _GFEATURES, blocks) + bytes(16 * blocks))
        word = words(data[8:])
        found = {}
        for index, name in enumerate(names):
            available, wanted, active, never = (
                bool(word[index // _FEATURE_BITS * 4 + part] >> index % _FEATURE_BITS & 1)
                for part in range(4)
            )
            if name:
                found[name] = Feature(wanted, active, never or not available)
        return found

    def set_features(self, wanted: Mapping[str, bool]) -> None:
        """Asks for offloads by name; what is not named stays."""
        names = self.feature_names()
        blocks = -(-len(names) // _FEATURE_BITS)
        word = [0] * (2 * blocks)
        for name, on in wanted.items():
            block, bit = divmod(names.index(name), _FEATURE_BITS)
            word[2 * block] |= 1 << bit
            word[2 * block + 1] |= on << bit
        self._call(struct.pack(f"={2 + len(word)}I", _SFEATURES, blocks, *word))

    def rss(self) -> Rss | None:
        """The hash and its table; None where the driver tells neither."""
        data = self._ask(_GRSSH, _RSS_HEAD.size)
        if data is None:
            return None
        _, _, buckets, key_size, _, _, _ = _RSS_HEAD.unpack_from(data)
        head = _RSS_HEAD.pack(_GRSSH, 0, buckets, key_size, 0, 0, 0)
        data = self._call(head + bytes(4 * buckets + key_size))
        function, symmetric = _RSS_HEAD.unpack_from(data)[4:6]
        table = words(data[_RSS_HEAD.size : _RSS_HEAD.size + 4 * buckets])
        key = bytes(data[_RSS_HEAD.size + 4 * buckets :])
        return Rss(function, key.hex(), list(table), symmetric)

    def set_rss(self, table: Sequence[int] | None, key: bytes) -> None:
        """Writes the table (None keeps it, () is the driver's default) and the key, if any."""
        buckets = _RSS_KEEP if table is None else len(table)
        now = self.rss()  # "no change" of the transformation is a word that older kernels refuse
        symmetric = now.symmetric if now else 0
        head = _RSS_HEAD.pack(_SRSSH, 0, buckets, len(key), 0, symmetric, 0)
        self._call(head + struct.pack(f"={len(table or ())}I", *(table or ())) + key)
