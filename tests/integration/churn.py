"""Clients of the kernel's TCP that come and go at random, each byte checked; a program of its own.

churn.py ADDRESS TCP_PORT CLIENTS SECONDS SEED [SOURCE ...]: prints one JSON document. A client
opens a connection, says random amounts of a pattern that names the connection, reads each back, and
ends by half-close, by close, or by reset; then the next one begins.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

PATIENCE_S = 100.0  # six lost SYNs are 63 s; what waits longer hangs
RESET = struct.pack("ii", 1, 0)  # linger for no time


def pattern(serial: int, offset: int, size: int) -> bytes:
    """Bytes of a connection's stream: 8-byte words of its number and their own place."""
    first = offset // 8
    words = range(first, (offset + size) // 8 + 1)
    text = b"".join(struct.pack(">II", serial, word) for word in words)
    return text[offset - first * 8 :][:size]


@dataclass
class Churn:
    """What all clients share."""

    target: tuple[str, int]
    sources: list[str]
    end_s: float
    seen: Counter[str] = field(default_factory=Counter)
    serial: int = 0
    stage: dict[int, str] = field(default_factory=dict)  # of each connection, by its number


async def exchange(churn: Churn, chance: random.Random, serial: int) -> tuple[int, str]:
    """One connection; how many bytes came back, and how it ended."""
    local = (chance.choice(churn.sources), 0) if churn.sources else None
    churn.stage[serial] = "to connect"
    reader, writer = await asyncio.open_connection(*churn.target, local_addr=local)
    own = writer.get_extra_info("socket")
    ending = chance.choice(("half-close", "half-close", "close", "reset"))
    done = 0
    try:
        for _ in range(chance.randrange(1, 12)):
            size = chance.choice((1, 64, 64, 500, 3000, 20000))
            churn.stage[serial] = f"for {size} bytes behind {done}"
            writer.write(pattern(serial, done, size))
            got = await reader.readexactly(size)
            if got != pattern(serial, done, size):
                return done, "wrong bytes"
            done += size
            await asyncio.sleep(chance.random() * 0.05)
        if ending == "half-close":
            churn.stage[serial] = f"for the end behind {done} bytes"
            writer.write(pattern(serial, done, 700))
            writer.write_eof()
            if await reader.read() != pattern(serial, done, 700):
                return done, "wrong end"
            done += 700
        if ending == "reset":
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    finally:
        writer.close()
    return done, ending


async def client(churn: Churn, number: int, seed: int) -> None:
    """Connections one after the other, until the time is over."""
    chance = random.Random(seed * 100003 + number)
    while time.monotonic() < churn.end_s:
        churn.serial += 1
        serial = churn.serial
        try:
            done, ending = await asyncio.wait_for(exchange(churn, chance, serial), PATIENCE_S)
        except TimeoutError:
            done, ending = 0, f"waited {churn.stage[serial]}"
        except OSError as error:
            done, ending = 0, f"refused {type(error).__name__}"
        except asyncio.IncompleteReadError:
            done, ending = 0, "lost"
        churn.stage.pop(serial, None)
        churn.seen[ending] += 1
        churn.seen["bytes"] += done


async def run(arguments: list[str]) -> Counter[str]:
    """All clients at once; what they have seen."""
    address, tcp_port, clients, seconds, seed, *sources = arguments
    churn = Churn((address, int(tcp_port)), sources, time.monotonic() + float(seconds))
    await asyncio.gather(*(client(churn, i, int(seed)) for i in range(int(clients))))
    return churn.seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1:]))))
