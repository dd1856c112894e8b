"""Documents keep to the source: the commands that they show, the tests that they name."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ROOT

from shardserver import cli_parser
from shardserver.load import options as load_options

TESTS = ROOT / "tests"
ROWS = {"A": 20, "B": 14, "C": 24, "D": 9, "E": 9}


def rows() -> Iterator[tuple[str, str]]:
    """Id and last column of each row of tests/SEEDS.md."""
    for line in (TESTS / "SEEDS.md").read_text().splitlines():
        if found := re.match(r"\| ([A-E]\d+) \| .* \| (.+) \|$", line):
            yield found[1], found[2]


def names() -> list[str]:
    """What stands in backquotes there: files, and tests in them."""
    found = {name for _, shown in rows() for name in re.findall(r"`([^`]+)`", shown)}
    return sorted(name for name in found if "/" in name)


def is_test(source: str, name: str) -> bool:
    """True when the source defines it, and a C file also runs it (the suite's cases: run.c)."""
    if re.search(rf"^def {name}\(|^void {name}\(struct rig \*rig\)", source, re.M):
        return True
    defined = re.search(rf"^static void {name}\(void\)$", source, re.M)
    return bool(defined) and len(re.findall(rf"\b{name}\b", source)) > 1


def test_every_row_is_there() -> None:
    wanted = [f"{letter}{i}" for letter, most in ROWS.items() for i in range(1, most + 1)]
    assert [row for row, _ in rows()] == wanted


@pytest.mark.parametrize("name", names())
def test_what_shows_a_row_exists(name: str) -> None:
    path, _, test = name.partition("::")
    assert (TESTS / path).is_file()
    assert not test or is_test((TESTS / path).read_text(), test)


def documents() -> list[Path]:
    """Those in which commands are shown."""
    return [*ROOT.glob("*.md"), *(ROOT / folder / "README.md" for folder in ("bench", "examples"))]


def blocks(word: str) -> Iterator[tuple[str, str]]:
    """Document and command line of what begins with a word in a block, without its comment."""
    for path in documents():
        text = path.read_text()
        fenced = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S))
        indented = re.findall(r"^ {4}(\w.*)$", text, re.M)
        for line in [*fenced.splitlines(), *indented]:
            if line.startswith(f"{word} "):
                yield path.name, re.sub(r"\s+#.*|\s*&$", "", line)


@pytest.mark.parametrize(("document", "line"), sorted(set(blocks("shardserver"))))
def test_commands_in_documents_are_understood(document: str, line: str) -> None:
    parser, _ = cli_parser.make()
    args = parser.parse_args(shlex.split(line)[1:])
    assert args.command, document
    if args.command == "load":
        assert load_options.from_arguments(args).duration_us >= 1_000_000


def test_commands_in_sentences_exist() -> None:
    _, known = cli_parser.make()
    said = "\n".join(path.read_text() for path in documents())
    found = set(re.findall(r"`shardserver ([a-z][a-z-]+)", said))
    assert found
    assert found <= set(known)


def test_targets_in_documents_are_the_makefiles() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    shown = {line.split()[1] for _, line in blocks("make")}
    assert {"demo", "test", "lint", "asan"} <= shown <= targets
