"""Counts the UDP datagrams to a port, and drops them: the tutorial's first and second program.

--busy syncs all the time (a CPU at 100 %, the shortest delay); without it poll() sleeps until there
is something. Without PORT, a card is made and fed from here.
Run: python examples/sink.py [--busy] [PORT UDPPORT [SECONDS]]
"""

import os
import struct
import sys
import time

from shardserver import rings

UDP = 17


def datagram(udp_port: int) -> bytes:
    """The smallest Ethernet frame with a UDP datagram to that port."""
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 46, 0, 0, 64, UDP, 0, 0x0A4D0001, 0x0A4D0002)
    udp = struct.pack("!HHHH18x", 1, udp_port, 26, 0)
    return b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\0" + ip + udp


def is_wanted(frame: memoryview, udp_port: int) -> bool:
    """An IPv4 UDP datagram to the port, 0 for any."""
    if len(frame) < 42 or bytes(frame[12:14]) != b"\x08\0" or frame[23] != UDP:
        return False
    at = 14 + (frame[14] & 15) * 4
    return udp_port in (0, int.from_bytes(frame[at + 2 : at + 4], "big"))


def drain(port: rings.RingPort, udp_port: int) -> int:
    """Reads every frame that is there; how many were wanted."""
    count = 0
    for rx in port.rx:
        for slot in rx:
            count += is_wanted(slot.data[port.header_len :], udp_port)
        rx.give(rx.space)
    return count


def sink(port: rings.RingPort, udp_port: int, seconds: float, busy: bool) -> int:
    """Counts for so long."""
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if busy:
            port.sync()
        else:
            port.poll(rings.POLLIN, end - time.monotonic())
        count += drain(port, udp_port)
    return count


def feed(cable: rings.RingPort, frames: list[bytes]) -> None:
    """Sends frames."""
    tx = cable.tx[0]
    for frame in frames:
        slot = tx[tx.cur]
        slot.buf[: len(frame)] = frame
        slot.len = len(frame)
        tx.give()
    tx.sync()


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--busy"]
    busy = "--busy" in sys.argv
    name = words[0] if words else f"mem:sink-{os.getpid()}"
    udp_port = int(words[1]) if words[1:] else 7
    with rings.open(name) as port:
        print(port.banner)
        if not words:
            with rings.open(name) as cable:
                feed(cable, [datagram(7)] * 100 + [datagram(8)] * 50)
                count = sink(port, udp_port, 0.2, busy)
        else:
            count = sink(port, udp_port, float(words[2]) if words[2:] else 10.0, busy)
        print(f"{count} datagrams to UDP port {udp_port or 'any'}")


if __name__ == "__main__":
    main()
