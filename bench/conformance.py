"""The native engine's conformance cases run against picoTCP too: a report, not a gate.

bench/conformance.py [--output FILE]: a Markdown table, a line for each case of
tests/native/test_tcp.c. Needs make test (the program) and make picotcp.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "release" / "test_tcp"
LIBRARY = ROOT / "build" / "picotcp" / "libshardserver_picotcp.so"
LINE = re.compile(r"^(ok|FAILED|skip)\s+(.+)$", re.MULTILINE)
SEPARATE = "acknowledges first; the reply is a segment of its own"
# Why picoTCP does otherwise, by a word of the case's name; what is not here was not looked into.
WHY = {
    "no window scale": "offers a scale (of 0) that nobody asked for",
    "MUST-15": "counts its options into the segment: 520 bytes of text",
    "MUST-60": SEPARATE,
    "half-close": "acknowledges bytes and FIN apart, and each before the reply",
    "MUST-10": "the adapter opens no connections",
    "a listener answers nothing": "its filter drops such segments for any port, served or not",
    "MUST-30": SEPARATE,
    "out-of-order": "acknowledges the joined text piece by piece, before the reply",
    "overlaps": SEPARATE,
    "FIN out of order": SEPARATE,
    "FIN before held text": SEPARATE,
    "amid a retransmission": "has no count of timeouts; its next bytes follow the repeated ones",
    "MUST-36": "gives up when nothing answers; probes for ever when the peer answers (own test)",
    "three duplicate": "no count of its own; new segments follow the repeated one",
    "RFC 6928": "begins with two segments of text (and doubles)",
    "delayed ACKs": "acknowledges at once",
    "daytime": "its FIN follows when the text is acknowledged (own test)",
    "http": SEPARATE,
    "RFC 6528": "draws them from a keyed hash of a counter instead",
}


def run(engine: str) -> dict[str, str]:
    """How each case ended. The program fails when one does."""
    environment = {**os.environ, "SIM_ENGINE": engine}
    done = subprocess.run(
        [PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    found = {name: result for result, name in LINE.findall(done.stdout)}
    if not found or done.returncode not in (0, 1):
        raise SystemExit(f"{PROGRAM.name} ended with {done.returncode}:\n{done.stdout}")
    return found


def why(case: str, result: str) -> str:
    """One reason, or none where it passes."""
    if result == "ok":
        return ""
    return next((text for word, text in WHY.items() if word in case), "not looked into")


def table() -> str:
    """The report."""
    native, picotcp = run("native"), run("picotcp")
    words = {"ok": "yes", "FAILED": "no", "skip": "not run"}
    lines = ["| case | native | picoTCP | what picoTCP does |", "|---|---|---|---|"]
    lines += [
        f"| {case} | {words[native[case]]} | {words[result]} | {why(case, result)} |"
        for case, result in picotcp.items()
    ]
    passed = [list(found.values()).count("ok") for found in (native, picotcp)]
    lines.append(f"| **of {len(picotcp)} cases** | **{passed[0]}** | **{passed[1]}** | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="write the table there too")
    options = parser.parse_args()
    for path, target in ((PROGRAM, "make test"), (LIBRARY, "make picotcp")):
        if not path.exists():
            raise SystemExit(f"{path.relative_to(ROOT)} is not built: {target}")
    text = table()
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
