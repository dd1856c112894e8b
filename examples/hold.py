"""Frames seen but not given back: cur runs ahead of head, and the ring fills up behind it.

A program that needs several frames at once (to put a datagram's fragments together, say) leaves
them where they are: cur moves over them, so that poll() waits for more; head does not, so that
their slots stay. A ring of n slots holds n - 1 frames: head = tail must mean empty.
Run: python examples/hold.py
"""

import os

from sink import datagram, feed

from shardserver import rings

SLOTS = 8


def main() -> None:
    name = f"mem:hold-{os.getpid()}"
    with rings.open(name, rings=1, slots=SLOTS) as card, rings.open(name) as cable:
        rx = card.rx[0]
        feed(cable, [datagram(number) for number in range(1, 4)])
        card.poll()
        rx.cur = rx.tail
        print(f"3 frames seen, none given back: head {rx.head}, cur {rx.cur}, tail {rx.tail}")
        print(f"poll: {'more' if card.poll(timeout_s=0.01) else 'nothing new'}")
        for number in range(4, 10):
            feed(cable, [datagram(number)])
        print(f"poll: {rx.space if card.poll(timeout_s=1) else 0} more of 6 sent")
        held = (rx.tail - rx.head) % rx.num_slots
        print(f"{held} frames held by {rx.num_slots} slots: the ring is full")
        ports = [int.from_bytes(rx[i].data[36:38], "big") for i in range(rx.head, rx.tail)]
        print(f"in order: {ports}")
        rx.head = rx.cur = rx.tail
        card.poll(timeout_s=1)
        print(f"all given back: {rx.space} more")
        try:
            rx.head -= 1
        except rings.RingError as error:
            print(f"and head never moves backwards: {error}")


if __name__ == "__main__":
    main()
