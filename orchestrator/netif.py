"""An interface as the kernel of this network namespace tells it, by ioctl.

sysfs shows the namespace in which it was mounted: after `unshare --net` that is another one.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCGIFFLAGS = 0x8913
SIOCGIFMTU = 0x8921
SIOCGIFHWADDR = 0x8927
SIOCETHTOOL = 0x8946
ETHTOOL_GCHANNELS = 0x3C
IFF_UP = 1
_REQUEST = "16s24x"  # struct ifreq: 40 bytes


def names() -> tuple[str, ...]:
    """The interfaces of this namespace."""
    return tuple(sorted(name for _, name in socket.if_nameindex()))


def index(name: str) -> int:
    """Its number; 0 when there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _ask(sock: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(sock, request, struct.pack(_REQUEST, name.encode()))[16:]


def _channels(sock: socket.socket, name: str) -> int:
    """Receive queues, combined ones included; 1 where the driver does not tell."""
    # cmd, then maxima and counts of rx, tx, other, combined
    answer = array.array("I", [ETHTOOL_GCHANNELS, *([0] * 8)])
    address, _ = answer.buffer_info()
    try:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    except OSError:
        return 1
    return max(1, answer[5] + answer[8])


def facts(name: str) -> tuple[bytes, int, bool, int]:
    """MAC, MTU, whether it is up, receive queues. OSError when it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = struct.unpack_from("h", _ask(sock, SIOCGIFFLAGS, name))[0]
        mtu = struct.unpack_from("i", _ask(sock, SIOCGIFMTU, name))[0]
        mac = _ask(sock, SIOCGIFHWADDR, name)[2:8]
        return mac, mtu, bool(flags & IFF_UP), _channels(sock, name)
