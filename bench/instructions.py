"""Instructions of the server's turn per 64-byte request and per connection, counted by callgrind.

bench/instructions.py [--check]: a table; with --check exit 1 when a floor is missed. Only
bench_server_turn is counted: one shard on mem:, requests in batches of 32, the client's own turns
left out. The count is user space, AVX2 at most (valgrind knows no AVX-512).
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "release" / "rr_server"
CONNECTIONS = (1, 100, 1000, 10_000)
REQUESTS = 10_000
ROUNDS = 20  # of each connection: one place in the timer wheel a 200 ms, not one a request
OPENED = 2048
FLOOR_REQUEST = 1000
FLOOR_SPREAD = 1.10


def count(*words: str) -> tuple[int, int]:
    """Instructions counted, and what the program says it served."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += ["--toggle-collect=bench_server_turn", str(PROGRAM), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if not collected:
        raise SystemExit(f"no count from valgrind:\n{done.stderr}")
    return int(collected[1]), int(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when a floor is missed")
    check = parser.parse_args().check
    per_request = {}
    print("connections  requests  instructions/request")
    for connections in CONNECTIONS:
        instructions, served = count(str(connections), str(max(REQUESTS, ROUNDS * connections)))
        per_request[connections] = instructions / served
        print(f"{connections:11d}  {served:8d}  {per_request[connections]:20.0f}")
    instructions, opened = count("0", str(OPENED), "connect")
    print(f"per connection (open, FIN both ways): {instructions / opened:.0f} over {opened}")
    busiest = max(per_request[n] for n in CONNECTIONS if n >= 100)
    spread = busiest / per_request[100]
    print(f"spread from 100 to 10,000 connections: {spread:.3f}")
    missed = busiest > FLOOR_REQUEST or spread > FLOOR_SPREAD
    return 1 if check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
