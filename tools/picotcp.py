"""Builds picoTCP and our adapter into build/picotcp/, for `--engine picotcp`. Stdlib only.

The source is an installed picoTCP (PICOTCP_DIR=/prefix, else pkg-config), or what the registry
package `picotcp-sys` carries, taken with cargo and checked against the digests below. Nothing of it
enters this tree but under build/. Start reading at main.
"""

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
LIBRARY = BUILD / "libshardserver_picotcp.so"
LOG = BUILD / "build.log"
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

    option: str
    path: Path
    name: str


def say(text: str) -> None:
    print(f"picotcp: {text}", flush=True)


def run(command: Sequence[str | Path], cwd: Path) -> None:
    """Runs a command with its output in the log; Missing with its last words when it fails."""
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n")
        log.flush()
        done = subprocess.run(list(map(str, command)), cwd=cwd, stdout=log, stderr=log)
    if done.returncode != 0:
        tail = "\n".join("    " + line for line in LOG.read_text().splitlines()[-12:])
        raise Missing(
            f"`{' '.join(map(str, command[:3]))}` ended with {done.returncode};"
            f" the full output is in {LOG.relative_to(ROOT)}, and ends with:\n{tail}"
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


def from_registry() -> Origin:
    """The source tree of the pinned package, below build/picotcp/."""
    source = BUILD / "fetch" / "vendor" / PACKAGE
    if not source.exists():
        if shutil.which("cargo") is None:
            raise Missing(
                "cargo is needed to take picoTCP's source from the registry.\n"
                "Run this, then again:\n"
                "    apt-get install -y cargo\n"
                "or give an installed picoTCP: PICOTCP_DIR=/prefix make picotcp"
            )
        folder = BUILD / "fetch"
        (folder / "bindgen").mkdir(parents=True, exist_ok=True)
        (folder / "Cargo.toml").write_text(MANIFEST)
        (folder / "bindgen" / "Cargo.toml").write_text(STANDIN)
        for crate in (folder, folder / "bindgen"):
            (crate / "lib.rs").touch()
        say(f"taking {PACKAGE} {VERSION} with cargo")
        run(["cargo", "vendor", "--quiet", "vendor"], folder)
    check(source)
    return Origin("PICOTCP_SOURCE", source / "picotcp", f"picoTCP 1.7 ({PACKAGE} {VERSION})")


def is_ng(prefix: Path) -> bool:
    headers = [prefix / "include" / name / "pico_stack.h" for name in (".", "picotcp")]
    found = next((path for path in headers if path.exists()), None)
    return found is not None and "pico_stack_init(struct pico_stack" in found.read_text()


def pkg_config(question: str) -> str:
    if shutil.which("pkg-config") is None:
        return ""
    asked = ["pkg-config", question, "picotcp"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def find() -> Origin:
    """What was asked for, what is installed, else the registry's."""
    given = os.environ.get("PICOTCP_DIR", "")
    prefix = Path(given or pkg_config("--variable=prefix") or "/nonexistent")
    if given and not (prefix / "include").is_dir():
        raise Missing(f"PICOTCP_DIR={given}: no include/ there: give picoTCP's prefix")
    if not given and not (prefix / "lib" / "libpicotcp.a").exists():
        return from_registry()  # a shared library alone cannot be given our clock and memory
    name = "picoTCP-NG" if is_ng(prefix) else "picoTCP 1.7"
    version = "" if given else pkg_config("--modversion")
    return Origin("PICOTCP_DIR", prefix.resolve(), f"{name} {version}".strip() + f" ({prefix})")


def tool(name: str) -> str:
    return shutil.which(name) or str(ROOT / ".venv" / "bin" / name)


def build(origin: Origin) -> None:
    cleared = {"PICOTCP_SOURCE": "", "PICOTCP_DIR": "", origin.option: str(origin.path)}
    options = [f"-D{key}={value}" for key, value in cleared.items()]
    options += [f"-DPICOTCP_VERSION={origin.name}", "-DCMAKE_BUILD_TYPE=Release"]
    ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    (BUILD / "CMakeCache.txt").unlink(missing_ok=True)
    run([tool("cmake"), "-S", ADAPTER, "-B", BUILD, "-G", "Ninja", ninja, *options], ROOT)
    run([tool("ninja"), "-C", BUILD], ROOT)


def main() -> int:
    BUILD.mkdir(parents=True, exist_ok=True)
    LOG.unlink(missing_ok=True)
    try:
        origin = find()
        build(origin)
    except Missing as missing:
        say(str(missing))
        return EXIT_MISSING
    say(f"{origin.name}: {LIBRARY.relative_to(ROOT)} (GPL; opened only by --engine picotcp)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
