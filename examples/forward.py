"""Moves UDP datagrams from one port to another: the tutorial's third and fourth program.

Where both ports lie in one memory region the buffers change places (no byte is copied); elsewhere
the bytes are copied. Without arguments: from the first ring of a card to its second, with a sender
and a receiver on its cables. Run: python examples/forward.py [A B UDPPORT [SECONDS]]
"""

import os
import sys
import time

from sink import datagram, feed, is_wanted

from shardserver import rings


def move(source: rings.Slot, target: rings.Slot, swap: bool) -> None:
    """One frame into a free slot."""
    if swap:
        source.buf_idx, target.buf_idx = target.buf_idx, source.buf_idx
        source.flags |= rings.NS_BUF_CHANGED
        target.flags |= rings.NS_BUF_CHANGED
        target.len = source.len
    else:
        target.buf[: source.len] = source.data
        target.len = source.len


def forward_ring(rx: rings.Ring, tx: rings.Ring, udp_port: int, swap: bool) -> int:
    """Everything that rx holds, as far as tx has room; the rest waits. How many went over."""
    header = rx.header_len
    moved = 0
    while not rx.empty and not tx.empty:
        slot = rx[rx.cur]
        if is_wanted(slot.data[header:], udp_port):
            move(slot, tx[tx.cur], swap)
            tx.give()
            moved += 1
        rx.give()
    return moved


def forward(a: rings.RingPort, b: rings.RingPort, udp_port: int, seconds: float) -> int:
    """From a to b for so long."""
    if a.header_len != b.header_len:
        raise SystemExit("one of them has virtio-net headers: use shardserver tools forward")
    swap = a.same_region(b)
    print("buffers change places" if swap else "bytes are copied")
    moved = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        a.poll(rings.POLLIN, max(0.0, min(0.01, end - time.monotonic())))
        for rx in a.rx:
            moved += forward_ring(rx, b.tx[rx.ringid % len(b.tx)], udp_port, swap)
        b.sync()
    return moved


def demo() -> None:
    """A card whose own frames go out again, to everybody on its cables."""
    name = f"mem:forward-{os.getpid()}"
    with rings.open(name) as card, rings.open(name) as sender, rings.open(name) as receiver:
        feed(sender, [datagram(7)] * 100 + [datagram(8)] * 50)
        print(f"{forward(card, card, 7, 0.2)} datagrams to UDP port 7 moved")
        receiver.sync()
        print(f"{receiver.rx[0].space} of them received; buffers astray: {card.audit()}")


def main() -> None:
    if len(sys.argv) < 4:
        demo()
        return
    seconds = float(sys.argv[4]) if sys.argv[4:] else 10.0
    with rings.open(sys.argv[1]) as a, rings.open(sys.argv[2]) as b:
        print(f"{forward(a, b, int(sys.argv[3]), seconds)} datagrams moved")


if __name__ == "__main__":
    main()
