"""The law on size and order: functions, files, includes, folders. Messages name file and line."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES = 70
PARAMETERS = 5
NESTING_C = 4  # three levels, and one for the cases of a switch
NESTING_PY = 3
COLUMNS = 100
FILE_LINES = 600
LAYERS = [
    "base", "stats", "ports", "stack", "service", "engine_picotcp", "worker", "client",
    "tools", "api",
]  # fmt: skip
TOP_LEVEL = {
    "native", "shardserver", "orchestrator", "tests", "bench", "tools", "examples", "docs", ".ci",
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE",
    "Makefile", "pyproject.toml", ".gitignore", ".clang-format",
}  # fmt: skip
NESTS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)


def tracked(*suffixes: str) -> list[Path]:
    """Files that git tracks or would, with one of the suffixes."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.splitlines()]
    return [p for p in paths if p.exists() and (not suffixes or p.suffix in suffixes)]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def c_functions(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """First line number, signature and body of each function; the style puts `{` in column 0."""
    lines = path.read_text().splitlines()
    start = 0
    for number, line in enumerate(lines):
        if line == "{":
            start = number
        elif line == "}" and start:
            head = number_of_signature(lines, start)
            yield head + 1, " ".join(lines[head:start]), lines[start : number + 1]
            start = 0


def number_of_signature(lines: list[str], brace: int) -> int:
    head = brace
    while head > 0 and lines[head - 1].strip() and not lines[head - 1].startswith(("#", "}", " *")):
        head -= 1
    return head


def c_depth(body: list[str]) -> int:
    depth = deepest = 0
    for line in body:
        code = re.sub(r'"(\\.|[^"\\])*"|/\*.*?\*/', "", line)
        for char in code:
            depth += (char == "{") - (char == "}")
            deepest = max(deepest, depth)
    return deepest - 1


def c_parameters(signature: str) -> int:
    inside = re.search(r"\((.*)\)\s*$", signature)
    if not inside or inside.group(1).strip() in ("", "void"):
        return 0
    plain = re.sub(r"\([^()]*\)", "", inside.group(1))
    return plain.count(",") + 1


def python_depth(node: ast.AST, depth: int = 0) -> int:
    deepest = depth
    for field in ast.iter_child_nodes(node):
        if isinstance(field, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        chained = isinstance(node, ast.If) and isinstance(field, ast.If) and field in node.orelse
        below = depth + (isinstance(field, NESTS) and not chained)
        deepest = max(deepest, python_depth(field, below))
    return deepest


def python_functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def python_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return len([n for n in names if n not in ("self", "cls")])


def report(findings: list[str]) -> None:
    assert not findings, "\n" + "\n".join(findings)


def test_c_functions_fit_a_screen() -> None:
    findings = []
    for path in tracked(".c", ".h"):
        for line, signature, body in c_functions(path):
            if len(body) > FUNCTION_LINES:
                findings.append(f"{short(path)}:{line}: {len(body)} lines: too long")
            if c_parameters(signature) > PARAMETERS:
                findings.append(f"{short(path)}:{line}: more than {PARAMETERS} parameters")
            if c_depth(body) > NESTING_C:
                findings.append(f"{short(path)}:{line}: nested deeper than {NESTING_C - 1}")
    report(findings)


def test_python_functions_fit_a_screen() -> None:
    findings = []
    for path in tracked(".py"):
        for node in python_functions(path):
            where = f"{short(path)}:{node.lineno}: {node.name}"
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                findings.append(f"{where}: {length} lines, {FUNCTION_LINES} at most")
            if python_parameters(node) > PARAMETERS:
                findings.append(f"{where}: more than {PARAMETERS} parameters")
            if python_depth(node) > NESTING_PY:
                findings.append(f"{where}: nested deeper than {NESTING_PY}")
    report(findings)


def test_files_and_lines_have_a_limit() -> None:
    findings = []
    for path in tracked(".c", ".h", ".py", ".def"):
        lines = path.read_text().splitlines()
        if len(lines) > FILE_LINES:
            findings.append(f"{short(path)}: {len(lines)} lines, {FILE_LINES} at most")
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS:
                findings.append(f"{short(path)}:{number}: longer than {COLUMNS} columns")
    report(findings)


def test_includes_point_leftwards_only() -> None:
    findings = []
    for path in tracked(".c", ".h"):
        parts = path.relative_to(ROOT).parts
        if parts[0] != "native" or len(parts) < 3:
            continue
        own = LAYERS.index(parts[1])
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'#include "(\w+)/', line)
            if found and LAYERS.index(found.group(1)) > own:
                findings.append(f"{short(path)}:{number}: {parts[1]}/ may not include {line[9:]}")
    report(findings)


def test_every_file_begins_with_its_purpose() -> None:
    findings = []
    for path in tracked(".c", ".h", ".def"):
        if not path.read_text().startswith("/*"):
            findings.append(f"{short(path)}: begins without a comment that says what it is for")
    for path in tracked(".py"):
        if not ast.get_docstring(ast.parse(path.read_text())):
            findings.append(f"{short(path)}: has no module docstring")
    report(findings)


def test_nothing_is_left_for_later() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX)\b")
    findings = []
    for path in tracked(".c", ".h", ".py", ".md", ".toml"):
        if path.name == "test_tidy.py":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if pattern.search(line):
                findings.append(f"{short(path)}:{number}: {line.strip()}")
    report(findings)


def test_the_top_level_holds_what_is_expected() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in tracked()}
    report([f"{name}: does not belong at the top level" for name in sorted(found - TOP_LEVEL)])


def test_every_source_folder_has_a_readme() -> None:
    folders = {path.parent for path in tracked(".c", ".py") if path.parent != ROOT}
    own = [f for f in folders if f.relative_to(ROOT).parts[0] != "tests" or f.parent == ROOT]
    missing = [short(f) for f in own if not (f / "README.md").exists()]
    report([f"{name}/: has no README.md" for name in sorted(missing)])


def test_only_the_command_line_prints() -> None:
    findings = []
    for path in tracked(".py"):
        part = path.relative_to(ROOT).parts[0]
        if part not in ("shardserver", "orchestrator") or path.name.startswith("cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id == "print":
                findings.append(f"{short(path)}:{called.lineno}: print() outside cli")
    report(findings)


def test_only_native_loads_the_library() -> None:
    words = ("shardserver._ffi", "from ._ffi", "ctypes")
    allowed = ("native.py", "test_tidy.py", "make_ffi.py", "bootstrap.py")
    report(
        [
            f"{short(path)}: uses {word}; only shardserver/native.py may"
            for path in tracked(".py")
            for word in words
            if path.name not in allowed and word in path.read_text()
        ]
    )


@pytest.mark.parametrize(("signature", "count"), [("int f(void)", 0), ("int f(int a, int b)", 2)])
def test_parameters_are_counted(signature: str, count: int) -> None:
    assert c_parameters(signature) == count
