"""How much of native/ the fuzz corpus reaches: `python tests/fuzz/coverage.py [FOLDER...]`.

Builds the targets with gcc's coverage into build/coverage, replays the corpus, and prints lines per
file and per folder from gcov. Folders are those below native/; stack and ports by default.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "coverage"
FLAGS = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=--coverage -fprofile-update=atomic"]

Lines = dict[str, dict[int, int]]  # file → line → times reached


def build() -> None:
    """Configures and builds every target."""
    commands = [
        ["cmake", "-G", "Ninja", "-S", str(ROOT / "native"), "-B", str(BUILD), *FLAGS],
        ["cmake", "--build", str(BUILD), "--target", *targets()],
    ]
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def targets() -> list[str]:
    """Names of the targets."""
    return sorted(path.stem for path in (ROOT / "tests" / "fuzz").glob("fuzz_*.c"))


def replay() -> None:
    """Runs the corpus from a clean count."""
    for old in BUILD.rglob("*.gcda"):
        old.unlink()
    for target in targets():
        corpus = ROOT / "tests" / "fuzz" / "corpus" / target
        command = [str(BUILD / target), str(corpus)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def told_of(notes: Path) -> Iterator[tuple[str, list[dict[str, int]]]]:
    """Files of native/ in one object's counts, with their lines."""
    command = ["gcov", "--json-format", "--stdout", str(notes)]
    told = subprocess.run(command, check=True, capture_output=True, cwd=BUILD, text=True)
    for file in json.loads(told.stdout)["files"]:
        path = Path(os.path.normpath(BUILD / file["file"]))
        if path.is_relative_to(ROOT / "native"):
            yield str(path.relative_to(ROOT / "native")), file["lines"]


def collect() -> Lines:
    """Reached lines, summed over the objects that a file is part of."""
    lines: Lines = defaultdict(lambda: defaultdict(int))
    for notes in (BUILD / "CMakeFiles" / "objects.dir").rglob("*.gcda"):
        for name, found in told_of(notes):
            for line in found:
                lines[name][line["line_number"]] += line["count"]
    return lines


def say(name: str, found: dict[int, int]) -> None:
    reached = sum(count > 0 for count in found.values())
    print(f"{name:32} {reached:5} of {len(found):5} lines  {100 * reached / len(found):5.1f} %")


def main() -> None:
    folders = sys.argv[1:] or ["stack", "ports"]
    build()
    replay()
    lines = collect()
    for folder in folders:
        inside = {name: found for name, found in lines.items() if name.startswith(f"{folder}/")}
        for name in sorted(inside):
            say(name, inside[name])
        whole = {(name, line): n for name, found in inside.items() for line, n in found.items()}
        say(f"{folder}/", dict(enumerate(whole.values())))


if __name__ == "__main__":
    main()
