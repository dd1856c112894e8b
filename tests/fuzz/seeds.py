"""Writes the hand-made seeds of the fuzz targets: `python tests/fuzz/seeds.py`."""

import struct
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"

# fuzz_tcp: operations; the second connection's have bit 7 set
(SYN, TEXT, ACK, FIN, RST, TIME, WINDOW, RAW, RESTART, MOVE, NEW_PORT, HOLD, DEAF, AUTO) = range(14)
CONNECT = 14
SECOND = 0x80
ECHO, DISCARD, CHARGEN, DAYTIME, HTTP = range(5)
OPTIONS = bytes([2, 4, 0x05, 0xB4, 1, 3, 3, 2])  # MSS 1460, window scale 2

# fuzz_frame: what the fuzzer puts right
ADDRESSES, SUMS, SPLIT, PARTIAL, VALID, GSO, HOLD_BURST, RELATIVE = (1 << i for i in range(8))
OURS = ADDRESSES | SUMS

# fuzz_ring: operations
(R_FRAME, R_SYNC, R_RING, R_SLOT, R_LANE, R_CELL, R_INTENT, R_TURN, R_PING, R_BACK) = range(10)
R_ANNOUNCE, R_TIME, R_RESTART = range(10, 13)


def setup(first: int, second: int, shards: int) -> bytes:
    return bytes([(shards - 1) | first << 1 | second << 4])


def syn(conn: int = 0, start: int = 0, options: bytes = OPTIONS) -> bytes:
    return bytes([SYN | conn, start | len(options) // 4 << 2]) + options


def text(length: int, offset: int = 0, conn: int = 0, kind: int = TEXT) -> bytes:
    return bytes([kind | conn]) + struct.pack(">hH", offset, length)


def ack(conn: int = 0, offset: int = 0) -> bytes:
    return struct.pack(">Bb", ACK | conn, offset)


def time(shift: int) -> bytes:
    return bytes([TIME, shift])


def window(size: int, conn: int = 0) -> bytes:
    return struct.pack(">BH", WINDOW | conn, size)


def raw(flags: int, seq: int = 0, ack_off: int = 0, options: bytes = b"", length: int = 0) -> bytes:
    head = struct.pack(">BBhhB", RAW, flags, seq, ack_off, len(options) // 4)
    return head + options + bytes([length])


def message(number: int, flags: int, length: int) -> bytes:
    """One of sockperf's."""
    return (struct.pack(">QHI", number, flags, length) + bytes(range(256)) * 300)[:length]


AUTO_BOTH = bytes([AUTO, AUTO | SECOND])
OPEN = syn() + ack()
OPEN_BOTH = OPEN + syn(SECOND, 1) + ack(SECOND)
TCP = {
    "echo-in-turn-on-two-connections": setup(ECHO, ECHO, 2)
    + OPEN_BOTH
    + AUTO_BOTH
    + (text(700) + text(900, conn=SECOND)) * 4
    + text(3, kind=FIN)
    + text(0, conn=SECOND, kind=FIN),
    "holes-overlaps-and-a-late-fin": setup(ECHO, DISCARD, 1)
    + OPEN
    + text(100, 300, kind=FIN)
    + text(150, 200)
    + text(50, 100)
    + text(400)
    + time(18),
    "chargen-behind-a-closed-window": setup(CHARGEN, CHARGEN, 1)
    + window(3000)
    + OPEN
    + window(0)
    + ack()
    + time(22)
    + time(24)
    + window(5000)
    + ack()
    + time(20)
    + AUTO_BOTH
    + time(20),
    "losses-three-duplicate-acks": setup(ECHO, ECHO, 1)
    + OPEN
    + text(1400)
    + bytes([DEAF, 6])
    + text(1400) * 4
    + ack() * 5
    + ack(offset=100)
    + ack(offset=100)
    + bytes([DEAF, 0])
    + time(18)
    + ack(),
    "growth-beyond-slow-start": setup(CHARGEN, CHARGEN, 1)
    + OPEN
    + bytes([DEAF, 200])
    + time(19)
    + time(21)
    + bytes([DEAF, 0, AUTO])
    + time(21) * 6,
    "daytime-closes-first-then-time-wait": setup(DAYTIME, DAYTIME, 1)
    + OPEN
    + AUTO_BOTH
    + time(10)
    + ack()
    + text(0, kind=FIN)
    + syn(start=0)
    + time(21),
    "http-pipelined": setup(HTTP, HTTP, 1) + OPEN_BOTH + AUTO_BOTH + text(270) + text(540) * 2,
    "a-restart-in-everything": setup(ECHO, CHARGEN, 2)
    + OPEN_BOTH
    + text(900, 400)
    + bytes([RESTART, 0, RESTART, 1])
    + text(400)
    + bytes([RESTART, 0])
    + time(20)
    + bytes([RESTART, 1])
    + AUTO_BOTH
    + time(16)
    + bytes([RST, 0]),
    "flows-that-change-their-ring": setup(ECHO, ECHO, 2)
    + OPEN_BOTH
    + AUTO_BOTH
    + (text(600) + bytes([MOVE]) + text(600, conn=SECOND)) * 4
    + bytes([HOLD])
    + text(500)
    + text(500, 500)
    + bytes([MOVE])
    + text(500, 1000)
    + bytes([HOLD]),
    "resets-challenges-and-odd-flags": setup(ECHO, ECHO, 1)
    + OPEN
    + bytes([RST, 5])
    + raw(0x02)
    + raw(0x3F, 0, 0, OPTIONS, 20)
    + raw(0x10, -500, 30000)
    + raw(0x10, 30000, 0, b"", 9)
    + raw(0x04),
    "unacknowledged-until-given-up": setup(ECHO, ECHO, 1) + OPEN + text(500) + time(26) * 7,
    "called-by-the-shard": setup(ECHO, ECHO, 1)
    + bytes([CONNECT])
    + time(21)
    + raw(0x12, options=OPTIONS)
    + text(900)
    + ack()
    + text(0, kind=FIN)
    + bytes([CONNECT | SECOND, RAW | SECOND, 0x14, 0, 0, 0, 0, 0, 0]),
    "called-and-calling-at-once": setup(ECHO, ECHO, 1)
    + bytes([CONNECT])
    + raw(0x02, options=OPTIONS)
    + raw(0x12, options=OPTIONS)
    + ack()
    + text(100),
    "many-opens": setup(ECHO, ECHO, 2)
    + (bytes([NEW_PORT]) + syn(options=b"") + bytes([NEW_PORT | SECOND]) + syn(SECOND)) * 9
    + time(25)
    + time(26),
}


def record(meta: int, frame: bytes, extra: int = 0) -> bytes:
    return struct.pack(">BBH", meta, extra, len(frame)) + frame


def wait(shift: int) -> bytes:
    return struct.pack(">BBH", 0, shift, 0)


def arp(oper: int = 1) -> bytes:
    peer = bytes([6, 1, 2, 3, 4, 5])
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, oper) + peer + bytes([10, 77, 0, 200])
    return b"\xff" * 6 + peer + b"\x08\x06" + body + bytes(6) + bytes([10, 77, 0, 1])


def ipv4(protocol: int, body: bytes, options: bytes = b"", fragment: int = 0) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, 0, 0, fragment, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + head + bytes(8) + options + body


def tcp(flags: int, seq: int, number: int, data: bytes = b"", to: int = 7) -> bytes:
    head = struct.pack(">HHIIBBHHH", 4000, to, seq, number, 0x50, flags, 8000, 0, 0)
    return ipv4(6, head + data)


def session(to: int, data: bytes) -> bytes:
    meta = OURS | RELATIVE
    return (
        record(OURS, arp())
        + record(meta, tcp(2, 0, 0, to=to))
        + record(meta, tcp(16, 1, 1, to=to))
        + record(meta, tcp(24, 1, 1, data, to))
        + wait(17)
        + record(meta, tcp(17, 1 + len(data), 1, b"", to))
        + wait(21)
    )


ECHO_REQUEST = ipv4(1, struct.pack(">BBHHH", 8, 0, 0, 1, 1) + b"ping" * 16)
FRAME = {
    "arp-and-ping": b"\0" + record(OURS, arp()) + record(OURS, ECHO_REQUEST) + record(0, arp(2)),
    "a-ping-over-many-slots": b"\1"
    + record(OURS, arp())
    + record(OURS | SPLIT, ECHO_REQUEST + b"long" * 300, 3),
    "a-session-with-echo": b"\0" + session(7, b"some words"),
    "a-session-with-http": b"\0" + session(80, b"GET / HTTP/1.1\r\n\r\n" * 3),
    "a-session-with-virtio-headers": b"\1" + session(7, b"some words"),
    "a-super-segment": b"\1"
    + record(OURS, arp())
    + record(OURS | RELATIVE, tcp(2, 0, 0))
    + record(OURS | RELATIVE, tcp(16, 1, 1))
    + record(OURS | RELATIVE | SPLIT | PARTIAL | GSO, tcp(24, 1, 1, b"abcd" * 800), 200)
    + wait(18),
    "a-burst": b"\0"
    + record(OURS, arp())
    + record(OURS | HOLD_BURST, tcp(2, 9, 0)) * 3
    + record(OURS | RELATIVE | HOLD_BURST, tcp(16, 1, 1, b"xyz")) * 3
    + record(OURS, ECHO_REQUEST),
    "wrong-in-every-layer": b"\0"
    + record(0, b"short")
    + record(0, ECHO_REQUEST)
    + record(ADDRESSES, ECHO_REQUEST)
    + record(OURS, ipv4(1, b"abc"))
    + record(OURS, ipv4(17, b"udp is not served"))
    + record(OURS, ipv4(6, b"short"))
    + record(OURS, ipv4(6, bytes(40), b"\1\1\1\0"))
    + record(OURS, ipv4(1, bytes(40), fragment=0x2000))
    + record(OURS, ipv4(1, bytes([3, 1]) + bytes(40)))
    + record(ADDRESSES, bytes(12) + b"\x86\xdd" + bytes(50)),
}

CELL_INDEX, CELL_LENGTH = 0x00, 0x08
WILD_WORD = bytes([2, 0x7F, 0xFF, 0xFF, 0xFF])
SEND = bytes([R_FRAME, 0, R_SYNC, 1])
RING = {
    "an-honest-client": SEND + bytes([R_TURN, R_SYNC, 0, R_PING, 1]),
    "wild-head": bytes([R_RING, 1]) + WILD_WORD + bytes([R_SYNC, 1, R_RING, 0, 2, 0, 0, 0, 99])
    + bytes([R_SYNC, 0, R_TURN, R_PING, 2]),
    "wild-tail-and-cursor": bytes([R_RING, 5]) + WILD_WORD + bytes([R_SYNC, 1, R_RING, 7])
    + WILD_WORD + bytes([R_SYNC, 1, R_TURN]),
    "wild-slots": bytes([R_FRAME, 0x80, R_SLOT, 1]) + WILD_WORD + bytes([R_FRAME, 0, R_SYNC, 1])
    + bytes([R_TURN, R_SLOT, 3, 2, 0, 0, 0xFF, 0xFF, R_SYNC, 1, R_TURN]),
    "wild-cells-upwards": SEND + SEND + bytes([R_CELL, CELL_INDEX]) + WILD_WORD
    + bytes([R_CELL, CELL_INDEX | 1]) + WILD_WORD + bytes([R_TURN, R_PING, 3]),
    "wild-length-in-a-cell": SEND + bytes([R_CELL, CELL_LENGTH]) + WILD_WORD
    + bytes([R_CELL, CELL_LENGTH | 1]) + WILD_WORD + bytes([R_TURN, R_PING, 3]),
    "wild-free-cells-downwards": bytes([R_CELL, 2 | 4]) + WILD_WORD + bytes([R_CELL, 3 | 4])
    + WILD_WORD + bytes([R_ANNOUNCE, 0, R_ANNOUNCE, 1, R_TURN, R_TURN, R_PING, 4]),
    "wild-lane-positions": SEND + bytes([R_LANE, 4]) + WILD_WORD + bytes([R_LANE, 5]) + WILD_WORD
    + bytes([R_TURN, R_LANE, 2]) + WILD_WORD + bytes([R_ANNOUNCE, 0, R_TURN]),
    "a-wild-record-then-back": SEND + bytes([R_INTENT]) + WILD_WORD + bytes([0, 8, 16, 24, 1])
    + bytes([R_BACK, R_BACK, R_PING, 5]),
    "hang-ups-and-restarts": SEND + bytes([R_BACK]) + SEND + bytes([R_TURN, R_RESTART, 0, R_BACK])
    + SEND + bytes([R_RESTART, 1, R_TURN, R_TIME, 14, R_PING, 6]),
    "full-lanes": SEND * 30 + bytes([R_TIME, 14]) + SEND * 4 + bytes([R_TURN, R_TURN]),
}  # fmt: skip

# fuzz_swring: operations
(P_ARRIVE, P_RX_SYNC, P_TAKE, P_PUT, P_TX_SYNC, P_RING, P_SLOT, P_HEAL, P_RECOVER) = range(9)


def arrive(length: int, what: int = 0) -> bytes:
    return struct.pack(">BBH", P_ARRIVE, what, length)


WILD = bytes([0xFF, 0x7F, 0xFF, 0xFF, 0xFF])
RX = bytes([P_RX_SYNC])
TX = bytes([P_TX_SYNC, 1])
PACKET = {
    "frames-both-ways": (arrive(60) + arrive(1500, 2) + arrive(8000, 6) + RX + bytes([P_TAKE, 9]))
    * 3
    + bytes([P_PUT, 0, 0, 90, P_PUT, 3, 8, 0])
    + TX
    + bytes([P_RECOVER]),
    "cut-frames-and-a-full-ring": (arrive(8000, 1) + arrive(8900) * 9) * 4 + RX * 3,
    "wild-heads": bytes([P_RING, 0])
    + WILD
    + RX
    + bytes([P_RING, 1])
    + WILD
    + TX
    + bytes([P_HEAL])
    + arrive(99)
    + RX
    + bytes([P_RING, 1, 100])
    + TX,
    "wild-slots": bytes([P_SLOT, 2, 0])
    + WILD
    + arrive(9)
    + RX
    + bytes([P_HEAL])
    + RX
    + bytes([P_PUT, 2, 4, 0, P_SLOT, 1, 0, 0xFF, 0xFF])
    + TX
    + bytes([P_HEAL, P_PUT, 69, 4, 0])
    + TX,
}

SPEC = {
    "of-the-readme": b"rx.drop=5%,tx.reorder=5%,dup=2%,corrupt=0.1%,delay=1ms",
    "all-of-it": b"drop=100%,dup=0%,rx.delay=10us,tx.corrupt=1e1%",
    "wrong-unit": b"drop=5ms",
    "nothing-between-commas": b"drop=5%,,dup=1%",
    "not-a-number": b"drop=nan%,delay=infms",
    "longer-than-a-line": b"drop=1%," * 20 + b"nonsense",
}

OPTION = {
    "options-of-linux": b"\0"
    + bytes([2, 4, 5, 0xB4, 4, 2, 8, 10])
    + bytes(8)
    + bytes([1, 3, 3, 7]),
    "option-beyond-the-end": b"\0" + bytes([1, 1, 3, 3]),
    "option-without-a-length": b"\0" + bytes([1, 1, 1, 2]),
    "requests-in-pieces": b"\x01\x04" + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9,
    "requests-with-bare-lf": b"\x01\xff" + b"GET /\n\nGET /\r\n\n\n\r\n\r\r\n" * 9,
    "more-replies-than-fit": b"\x01\xfe" + b"\n\n" * 900,
    "sockperf-messages-in-pieces": b"\x03\x07"
    + b"".join(message(n, (3, 1, 3, 7, 0xF003)[n % 5], 14 + n * 13 % 200) for n in range(30)),
    "sockperf-many-to-a-segment": b"\x03\xfe" + message(1, 3, 14) * 280,
    "sockperf-half-a-message": b"\x03\x20" + message(1, 3, 1000)[:700],
    "sockperf-half-a-header": b"\x03\x01" + message(1, 3, 40) + message(2, 3, 14)[:13],
    "sockperf-a-length-below-its-header": b"\x03\x09"
    + message(1, 3, 50)
    + message(2, 3, 13)
    + b"x",
    "sockperf-a-wild-length": b"\x03\x50" + message(1, 3, 50) + message(2, 3, 65508)[:100],
}

# fuzz_pcap: bit 0 of the first byte puts a whole header before the rest
P_RAW, P_RECORDS = b"\0", b"\1"
FRAME_60 = bytes(range(60))


def capture(order: str = "<", magic: int = 0xA1B2C3D4, snap: int = 65535, link: int = 1) -> bytes:
    return P_RAW + struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snap, link)


def record(caplen: int, length: int, data: bytes = FRAME_60, order: str = "<") -> bytes:
    return struct.pack(f"{order}IIII", 0, 0, caplen, length) + data


def block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


SECTION = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
PCAP = {
    "three-frames": P_RECORDS + record(60, 60) * 3,
    "the-other-byte-order": capture(">") + record(60, 60, order=">"),
    "nanoseconds": capture(magic=0xA1B23C4D) + record(60, 60),
    "a-part-of-a-frame": P_RECORDS + record(60, 1500) + record(60, 60),
    "more-than-its-length": P_RECORDS + record(60, 14) + record(60, 60),
    "a-wild-length": P_RECORDS + record(60, 60) + record(0x80000000, 60),
    "half-a-record": P_RECORDS + record(60, 60) + record(60, 60)[:11],
    "half-a-frame": P_RECORDS + record(60, 60)[:40],
    "shorter-than-a-header": P_RECORDS + record(3, 3, b"abc") + record(60, 60),
    "empty-frame": P_RECORDS + record(0, 0, b"") + record(60, 60),
    "longest-frame": capture(snap=262144) + record(65580, 65580, bytes(65580)),
    "longer-than-our-rings": capture(snap=262144) + record(65581, 65581, bytes(65581)),
    "no-ethernet": capture(link=113) + record(60, 60),
    "no-snap-length": capture(snap=0) + record(60, 60),
    "pcapng": P_RAW
    + SECTION
    + block(1, struct.pack("<HHI", 1, 0, 65535))
    + block(6, struct.pack("<IIIII", 0, 0, 0, 60, 60) + FRAME_60),
    "pcapng-with-a-wild-block": P_RAW + SECTION + struct.pack("<II", 6, 0xFFFFFFF0),
    "pcapng-of-no-interface": P_RAW + SECTION + block(6, struct.pack("<IIIII", 9, 0, 0, 60, 60)),
    "no-capture": P_RAW + b"not a capture, but long enough to be read as the header of one",
    "nothing": P_RAW,
}

CORPORA = {
    "fuzz_tcp": TCP,
    "fuzz_frame": FRAME,
    "fuzz_ring": RING,
    "fuzz_swring": PACKET,
    "fuzz_faulty_spec": SPEC,
    "fuzz_options": OPTION,
    "fuzz_pcap": PCAP,
}


def main() -> None:
    for target, seeds in CORPORA.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
