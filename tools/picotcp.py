"""Builds picoTCP and our adapter into build/picotcp/, for `--engine picotcp`. Stdlib only.

picotcp.py [--output DIR]. The source is an installed picoTCP (PICOTCP_DIR=/prefix, else
pkg-config), or what the registry package `picotcp-sys` carries, taken with cargo and checked
against the digests below. Nothing of it enters this tree but under build/. Start reading at main.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "picotcp"
ADAPTER = ROOT / "native" / "engine_picotcp" / "adapter"
FETCHED = BUILD / "fetch"
LIBRARY = "libshardserver_picotcp.so"
ARCHIVE = "libpicotcp.a"
EXIT_MISSING = 5

PACKAGE = "picotcp-sys"
VERSION = "0.2.1"
PACKAGE_SHA256 = "74f92266f265c581d4bdee145965abc9cfafb98a3ce5996c2460139ce8355763"
TREE_SHA256 = "d433a3d30835e0a5c83f1160e1a8c36e133f9512ae7649696813b32499259c21"
# The package's own build needs bindgen and all that it needs; we compile the C ourselves.
STANDIN = '[package]\nname = "bindgen"\nversion = "0.19.2"\n[lib]\npath = "lib.rs"\n'
MANIFEST = f"""[package]
name = "fetch"
version = "0.0.0"
edition = "2018"
[lib]
path = "lib.rs"
[dependencies]
{PACKAGE} = "={VERSION}"
[patch.crates-io]
bindgen = {{ path = "bindgen" }}
[workspace]
"""


class Missing(Exception):
    """Something that this program cannot install; the text says what to do."""


@dataclass(frozen=True)
class Origin:
    """Where picoTCP comes from, as CMake is told, and what the banner calls it."""

    options: dict[str, str]
    name: str


def say(text: str) -> None:
    print(f"picotcp: {text}", flush=True)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def run(command: Sequence[str | Path], cwd: Path, log: Path) -> None:
    """Runs a command with its output in the log; Missing with its last words when it fails."""
    words = [str(word) for word in command]
    with log.open("a") as file:
        file.write(f"$ {' '.join(words)}\n")
        file.flush()
        done = subprocess.run(words, cwd=cwd, stdout=file, stderr=file)
    if done.returncode == 0:
        return
    text = log.read_text()
    if "recompile with -fPIC" in text:
        raise Missing(
            f"the installed {ARCHIVE} is not position-independent, so that no shared library can"
            " hold it:\nbuild it again with -fPIC in its EXTRA_CFLAGS, or unset PICOTCP_DIR"
        )
    tail = "\n".join("    " + line for line in text.splitlines()[-12:])
    raise Missing(
        f"`{' '.join(words[:3])}` ended with {done.returncode};"
        f" the full output is in {shown(log)}, and ends with:\n{tail}"
    )


def tree_digest(folder: Path) -> str:
    """One digest for names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def check(package: Path) -> None:
    """The package that cargo took is the one we know, byte for byte."""
    named = json.loads((package / ".cargo-checksum.json").read_text())["package"]
    found = tree_digest(package / "picotcp")
    if named != PACKAGE_SHA256 or found != TREE_SHA256:
        raise Missing(
            f"{PACKAGE} {VERSION} is not the package that this build knows (package {named},"
            f" tree {found}): nothing was built"
        )


def from_registry(log: Path) -> Origin:
    """The source tree of the pinned package, below build/picotcp/."""
    folder = FETCHED
    source = folder / "vendor" / PACKAGE
    if not source.exists():
        if shutil.which("cargo") is None:
            raise Missing(
                "cargo is needed to take picoTCP's source from the registry.\n"
                "Run this, then again:\n"
                "    apt-get install -y cargo\n"
                "or give an installed picoTCP: PICOTCP_DIR=/prefix make picotcp"
            )
        (folder / "bindgen").mkdir(parents=True, exist_ok=True)
        (folder / "Cargo.toml").write_text(MANIFEST)
        (folder / "bindgen" / "Cargo.toml").write_text(STANDIN)
        for crate in (folder, folder / "bindgen"):
            (crate / "lib.rs").touch()
        say(f"taking {PACKAGE} {VERSION} with cargo")
        run(["cargo", "vendor", "--quiet", "vendor"], folder, log)
    check(source)
    return Origin({"PICOTCP_SOURCE": str(source / "picotcp")}, f"picoTCP 1.7 ({PACKAGE} {VERSION})")


def is_ng(headers: Path) -> bool:
    return "pico_stack_init(struct pico_stack" in (headers / "pico_stack.h").read_text()


def pkg_config(question: str) -> str:
    if shutil.which("pkg-config") is None:
        return ""
    asked = ["pkg-config", question, "picotcp"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def folder_with(name: str, *folders: Path) -> Path | None:
    """The first of the folders, or of those called picotcp in them, that holds the file."""
    places = [place for folder in folders for place in (folder, folder / "picotcp")]
    return next((place for place in places if (place / name).is_file()), None)


def installed(prefix: Path, version: str = "", asked: str = "") -> Origin:
    """An installed picoTCP: `asked` is what stood in PICOTCP_DIR. Missing names what lacks."""
    libraries = [prefix / "lib", *sorted((prefix / "lib").glob("*-linux-gnu*"))]
    headers = folder_with("pico_stack.h", prefix / "include")
    archive = folder_with(ARCHIVE, *libraries)
    for found, what, where in (
        (headers, "pico_stack.h", prefix / "include"),
        (headers and folder_with("pico_defines.h", headers), "pico_defines.h", headers),
        (archive, ARCHIVE, prefix / "lib"),  # a shared one cannot be given our clock and memory
    ):
        if not found:
            raise Missing(f"{asked or prefix}: no {what} in {where}: give picoTCP's prefix")
    assert headers and archive
    name = f"picoTCP-NG {version}" if is_ng(headers) else f"picoTCP {version or '1.7'}"
    place = {"PICOTCP_HEADERS": str(headers), "PICOTCP_ARCHIVE": str(archive / ARCHIVE)}
    return Origin(place, f"{name.strip()} ({prefix})")


def find(log: Path) -> Origin:
    """What was asked for, what is installed, else the registry's."""
    given = os.environ.get("PICOTCP_DIR", "")
    if given:
        return installed(Path(given).resolve(), asked=f"PICOTCP_DIR={given}")
    prefix = pkg_config("--variable=prefix")
    if prefix:
        try:
            return installed(Path(prefix), pkg_config("--modversion"))
        except Missing as missing:
            say(f"passing over the installed one: {missing}")
    return from_registry(log)


def tool(name: str) -> str:
    return shutil.which(name) or str(ROOT / ".venv" / "bin" / name)


def build(origin: Origin, output: Path, log: Path) -> None:
    cleared = {"PICOTCP_SOURCE": "", "PICOTCP_HEADERS": "", "PICOTCP_ARCHIVE": "", **origin.options}
    options = [f"-D{key}={value}" for key, value in cleared.items()]
    options += [f"-DPICOTCP_VERSION={origin.name}", "-DCMAKE_BUILD_TYPE=Release"]
    ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    (output / "CMakeCache.txt").unlink(missing_ok=True)
    run([tool("cmake"), "-S", ADAPTER, "-B", output, "-G", "Ninja", ninja, *options], ROOT, log)
    run([tool("ninja"), "-C", output], ROOT, log)


def main() -> int:
    parser = argparse.ArgumentParser(description="builds picoTCP for --engine picotcp")
    parser.add_argument("--output", type=Path, default=BUILD, help="folder for what is built")
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    log = output / "build.log"
    log.unlink(missing_ok=True)
    try:
        origin = find(log)
        build(origin, output, log)
    except Missing as missing:
        say(str(missing))
        return EXIT_MISSING
    say(f"{origin.name}: {shown(output / LIBRARY)} (GPL; opened only by --engine picotcp)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
