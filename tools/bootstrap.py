"""Makes a fresh checkout runnable: virtual environment, dependencies, C core. Stdlib only.

bootstrap.py [--group test|lint ...] [--preset release|debug]. Each step says one line; detail goes
to build/bootstrap.log. What cannot be installed from here is named in one apt line, exit 5. Start
reading at main.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BUILD = ROOT / "build"
LOG = BUILD / "bootstrap.log"
EXIT_MISSING = 5
PROBE = "#include <stdio.h>\n#include <linux/if_packet.h>\nint main(void) { return 0; }\n"
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class StepFailed(Exception):
    """A step ended with an error; its output stands in the log."""


def say(text: str) -> None:
    print(f"bootstrap: {text}", flush=True)


def run(command: Sequence[str | Path], cwd: Path = ROOT) -> None:
    """Runs a command with its output in the log; raises StepFailed."""
    BUILD.mkdir(exist_ok=True)
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n")
        log.flush()
        done = subprocess.run(list(map(str, command)), cwd=cwd, stdout=log, stderr=log)
    if done.returncode != 0:
        raise StepFailed(f"`{' '.join(map(str, command[:4]))}` ended with {done.returncode}")


def compiles() -> bool:
    """True when a C compiler with the C library's headers is there."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text(PROBE)
        command = ["cc", source, "-o", Path(folder) / "probe"]
        return subprocess.run(command, capture_output=True).returncode == 0


def missing_packages() -> list[str]:
    """Debian packages that this program cannot do without and cannot install itself."""
    missing = []
    if shutil.which("cc") is None:
        missing.append("gcc")
    if shutil.which("cc") is None or not compiles():
        missing.append("libc6-dev")
    if not has_certificates():
        missing.append("ca-certificates")
    return missing


def has_certificates() -> bool:
    """A bundle that somebody copied there goes stale: where dpkg is, the package is asked for."""
    if shutil.which("dpkg"):
        return Path("/usr/share/ca-certificates").is_dir()
    bundles = (*CA_BUNDLES, os.environ.get("SSL_CERT_FILE", "/-"))
    return any(Path(bundle).exists() for bundle in bundles)


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def requirements(groups: Sequence[str]) -> list[str]:
    """What to install: run-time dependencies, groups, and build tools that the system lacks."""
    data = project()
    wanted = list(data["project"]["dependencies"])  # type: ignore[index]
    for group in groups:
        wanted += data["dependency-groups"][group]  # type: ignore[index]
    wanted += [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]
    return wanted


def pip_wheel_from_apt(folder: Path) -> Path | None:
    """Debian's pip wheel, unpacked without installing anything; None where apt has none."""
    try:
        run(["apt-get", "download", "python3-pip-whl"], cwd=folder)
        packages = list(folder.glob("python3-pip-whl*.deb"))
        run(["dpkg", "-x", packages[0], folder / "tree"])
    except (StepFailed, OSError, IndexError):
        return None
    return next((folder / "tree").glob("usr/share/python-wheels/pip-*.whl"), None)


def install_pip() -> None:
    """pip in the virtual environment: Python's own copy, else Debian's wheel."""
    try:
        run([PYTHON, "-m", "ensurepip", "--upgrade"])
        return
    except StepFailed:
        pass
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # apt reads it as its own user
        wheel = pip_wheel_from_apt(Path(folder))
        if wheel is None:
            say("no ensurepip here, and no python3-pip-whl from apt. Run this, then again:")
            print("    apt-get install -y python3-venv")
            sys.exit(EXIT_MISSING)
        run([PYTHON, wheel / "pip", "install", "--no-index", wheel])


def has_pip() -> bool:
    return any((VENV / "lib").glob("python3*/site-packages/pip"))


def make_venv() -> None:
    if not PYTHON.exists():
        say("making .venv")
        run([sys.executable, "-m", "venv", "--without-pip", VENV])
    if not has_pip():
        say("installing pip into it")
        install_pip()


def stamp_of(groups: Sequence[str]) -> str:
    content = [(ROOT / "pyproject.toml").read_bytes(), Path(__file__).read_bytes()]
    content += [sys.version.encode(), " ".join(sorted(groups)).encode()]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


def install_dependencies(groups: Sequence[str]) -> None:
    """Skipped when the stamp says that nothing has changed."""
    stamp = VENV / ("stamp-" + "-".join(sorted(groups)))
    wanted = stamp_of(groups)
    if stamp.exists() and stamp.read_text() == wanted and has_pip():
        return
    make_venv()
    packages = requirements(groups)
    names = ", ".join(package.split(">")[0].split("=")[0] for package in packages)
    say(f"installing {len(packages)} packages ({names})")
    run([PYTHON, "-m", "pip", "install", "--quiet", *packages])
    link_package()
    stamp.write_text(wanted)


def link_package() -> None:
    """Makes the tree importable and puts the command into .venv/bin."""
    site = next((VENV / "lib").glob("python3*/site-packages"))
    (site / "shardserver-tree.pth").write_text(f"{ROOT}\n")
    script = VENV / "bin" / "shardserver"
    script.write_text(
        f"#!{PYTHON}\nimport sys\nfrom shardserver.__main__ import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)


def tool(name: str) -> str:
    return shutil.which(name) or str(VENV / "bin" / name)


def build_native(preset: str, target: str) -> None:
    """Configures once, builds what has changed, and puts the library beside the package."""
    folder = BUILD / preset
    os.environ["PATH"] = f"{VENV / 'bin'}:{os.environ['PATH']}"
    if not (folder / "build.ninja").exists():
        say(f"configuring the C core ({preset})")
        run([tool("cmake"), "--preset", preset], cwd=ROOT / "native")
    library = folder / "libshardserver.so"
    before = library.stat().st_mtime if library.exists() else 0
    started = time.monotonic()
    run([tool("ninja"), "-C", folder, target])
    if library.exists() and library.stat().st_mtime != before:
        say(f"built the C core ({preset}) in {time.monotonic() - started:.1f} s")
    if preset == "release":
        place_library(library)


def place_library(library: Path) -> None:
    """Copies by rename, so that a running server keeps the file that it has mapped."""
    header = ROOT / "native" / "shardserver.h"
    placed = ROOT / "shardserver" / "libshardserver.so"
    ffi = ROOT / "shardserver" / "_ffi.py"
    if not placed.exists() or placed.stat().st_mtime < library.stat().st_mtime:
        fresh = placed.with_suffix(".new")
        shutil.copy(library, fresh)
        fresh.rename(placed)
    if not ffi.exists() or ffi.stat().st_mtime < header.stat().st_mtime:
        run([PYTHON, ROOT / "tools" / "make_ffi.py", header, ffi])


def make(options: argparse.Namespace) -> int:
    LOG.unlink(missing_ok=True)
    try:
        install_dependencies(options.group)
        build_native(options.preset, options.target)
    except StepFailed as failure:
        say(f"{failure}; the full output is in {LOG.relative_to(ROOT)}, and ends with:")
        print("\n".join("    " + line for line in LOG.read_text().splitlines()[-12:]))
        return 1
    return 0


@contextmanager
def alone() -> Iterator[None]:
    """One at a time in a checkout: two would build into each other's files."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "bootstrap.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another one is at work in this checkout: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", action="append", default=[], help="a dependency group")
    parser.add_argument("--preset", default="release", help="CMake preset to build (release)")
    parser.add_argument("--target", default="shardserver", help="what to build (shardserver, all)")
    options = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 (run by whatever python3 is there)
        say(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
        return EXIT_MISSING
    missing = missing_packages()
    if missing:
        say("some packages are missing. Run this, then again:")
        print(f"    apt-get install -y {' '.join(missing)}")
        return EXIT_MISSING
    with alone():
        return make(options)


if __name__ == "__main__":
    sys.exit(main())
