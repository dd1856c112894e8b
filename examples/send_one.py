"""One frame from a cable into a network card: what head, cur and tail do, step by step.

A mem: device is a card in shared memory. Opening it makes the card; opening it again plugs a cable
in. Run: python examples/send_one.py
"""

import os

from shardserver import rings

FRAME = bytes.fromhex("ffffffffffff 020000000001 0800") + b"the first frame" + bytes(31)


def show(what: str, ring: rings.Ring) -> None:
    print(f"{what:28} head {ring.head}  cur {ring.cur}  tail {ring.tail}  space {ring.space}")


def main() -> None:
    name = f"mem:send-one-{os.getpid()}"
    with rings.open(name, rings=1, slots=16) as card, rings.open(name) as cable:
        tx, rx = cable.tx[0], card.rx[0]
        show("tx: all but one slot free", tx)
        slot = tx[tx.cur]
        slot.buf[: len(FRAME)] = FRAME
        slot.len = len(FRAME)
        tx.head = tx.cur = tx.next(tx.cur)
        show("tx: one slot filled", tx)
        show("rx: nothing has come yet", rx)
        tx.sync()
        show("tx: sent, the slot is back", tx)
        rx.sync()
        show("rx: one frame", rx)
        text = bytes(rx[rx.cur].data[14:29]).decode()
        print(f"received {rx[rx.cur].len} bytes: {text!r}")
        rx.head = rx.cur = rx.next(rx.cur)
        rx.sync()
        show("rx: given back", rx)


if __name__ == "__main__":
    main()
