"""An installed picoTCP: found by PICOTCP_DIR and by pkg-config, in both shapes of its API.

picoTCP 1.7 is installed into a folder of the test's own, from the source that make picotcp took, by
picoTCP's own Makefile and with all its modules. picoTCP-NG is the same behind headers of ours that
ask for its stack in every call, as NG's do (the real one: native/engine_picotcp/README.md).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import running

SOURCE = running.ROOT / "build" / "picotcp" / "fetch" / "vendor" / "picotcp-sys" / "picotcp"
TESTS = [
    running.ROOT / "build" / "release" / name for name in ("test_picotcp", "test_picotcp_filter")
]
LIBRARY = "libshardserver_picotcp.so"
HEADERS = ("pico_stack.h", "pico_device.h", "pico_socket.h", "pico_ipv4.h", "pico_tcp.h")

pytestmark = pytest.mark.skipif(
    not SOURCE.exists() or not all(test.exists() for test in TESTS),
    reason="picoTCP's source is not here: make picotcp",
)

# What NG's callers see: each call takes the stack that pico_stack_init gave.
NG = """#pragma once
#include <stdlib.h>
#include "real/pico_defines.h"
#include "real/pico_device.h"
#include "real/pico_ipv4.h"
#include "real/pico_socket.h"
#include "real/pico_stack.h"
#include "real/pico_tcp.h"
struct pico_stack { int open; };
static struct pico_stack the_stack;
static inline int ng_init(struct pico_stack **S)
{
    *S = &the_stack;
    the_stack.open = 1;
    return pico_stack_init();
}
static inline void ng_check(struct pico_stack *S)
{
    if (S != &the_stack || !S->open) {
        abort();
    }
}
#define NG_CALL(...) NG_CALL_(__VA_ARGS__)
#define NG_CALL_(function, S, ...) (ng_check(S), function(__VA_ARGS__))
#define pico_stack_init(S) ng_init(S) /* int pico_stack_init(struct pico_stack **S); */
#define pico_stack_tick(S) (ng_check(S), pico_stack_tick())
#define pico_device_init(...) NG_CALL(pico_device_init, __VA_ARGS__)
#define pico_ipv4_link_add(...) NG_CALL(pico_ipv4_link_add, __VA_ARGS__)
#define pico_ipv4_route_add(...) NG_CALL(pico_ipv4_route_add, __VA_ARGS__)
#define pico_socket_open(...) NG_CALL(pico_socket_open, __VA_ARGS__)
#define pico_sockets_find(...) NG_CALL(pico_sockets_find, __VA_ARGS__)
"""


def build(output: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What make picotcp runs, into a folder of the test's."""
    return subprocess.run(
        [sys.executable, running.ROOT / "tools" / "picotcp.py", "--output", output],
        env={**os.environ, "PICOTCP_DIR": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def serves(output: Path, version: str) -> None:
    """The C tests pass with the library, and the demo is exact and names it."""
    environment = {**os.environ, "SHARDSERVER_PICOTCP": str(output / LIBRARY)}
    for test in TESTS:
        done = subprocess.run([test], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout
        assert " 0 skipped" in done.stdout
    demo = subprocess.run(
        [*running.COMMAND, "demo", "--engine", "picotcp", "-d", "500ms", "-c", "50"],
        cwd=running.ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert demo.returncode == 0, demo.stderr
    assert f"engine {version}" in demo.stdout
    assert "100 % byte-exact" in demo.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """picoTCP 1.7, all its modules, as its own Makefile installs it."""
    folder = tmp_path_factory.mktemp("picotcp")
    tree = shutil.copytree(SOURCE, folder / "source")
    installed = folder / "prefix"
    command = ["make", "-s", "-j2", f"PREFIX={installed}", "EXTRA_CFLAGS=-fPIC -w"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PICO_SUPPORT_IPV6" in (installed / "include" / "pico_defines.h").read_text()
    return installed


@pytest.mark.timeout(600)
def test_an_installed_picotcp_by_its_prefix(prefix: Path, tmp_path: Path) -> None:
    done = build(tmp_path, PICOTCP_DIR=str(prefix))
    assert done.returncode == 0, done.stdout
    assert f"picoTCP 1.7 ({prefix})" in done.stdout
    serves(tmp_path, f"picoTCP 1.7 ({prefix})")


@pytest.mark.timeout(600)
def test_the_variant_that_hands_its_stack_to_every_call(prefix: Path, tmp_path: Path) -> None:
    ng = tmp_path / "ng"
    shutil.copytree(prefix / "include", ng / "include" / "picotcp" / "real")
    shutil.copytree(prefix / "lib", ng / "lib")
    for name in HEADERS:
        (ng / "include" / "picotcp" / name).write_text('#include "ng.h"\n')
    folder = ng / "include" / "picotcp"
    (folder / "ng.h").write_text(NG)
    (folder / "pico_defines.h").write_text('#include "real/pico_defines.h"\n')
    (folder / "pico_stack.h").write_text(NG)
    done = build(tmp_path / "out", PICOTCP_DIR=str(ng))
    assert done.returncode == 0, done.stdout
    assert f"picoTCP-NG ({ng})" in done.stdout
    serves(tmp_path / "out", f"picoTCP-NG ({ng})")


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not here")
def test_an_installed_picotcp_by_pkg_config(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "picotcp.pc").write_text(
        f"prefix={prefix}\nName: picotcp\nDescription: a TCP/IP stack\nVersion: 1.7.0\n"
    )
    done = build(tmp_path / "out", PKG_CONFIG_PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert f"picoTCP 1.7.0 ({prefix})" in done.stdout
    assert (tmp_path / "out" / LIBRARY).exists()


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not here")
def test_a_shared_library_alone_is_passed_over(prefix: Path, tmp_path: Path) -> None:
    shutil.copytree(prefix / "include", tmp_path / "include")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libpicotcp.so").touch()
    (tmp_path / "picotcp.pc").write_text(
        f"prefix={tmp_path}\nName: picotcp\nDescription: a TCP/IP stack\nVersion: 1.7.0\n"
    )
    done = build(tmp_path / "out", PKG_CONFIG_PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert f"passing over the installed one: {tmp_path}: no libpicotcp.a" in done.stdout
    assert "picotcp-sys 0.2.1" in done.stdout


def test_a_prefix_without_picotcp_is_refused(tmp_path: Path) -> None:
    done = build(tmp_path / "out", PICOTCP_DIR=str(tmp_path))
    assert done.returncode == 5
    assert f"PICOTCP_DIR={tmp_path}: no pico_stack.h in {tmp_path}/include" in done.stdout


def test_an_archive_that_no_shared_library_can_hold_is_named(prefix: Path, tmp_path: Path) -> None:
    shutil.copytree(prefix / "include", tmp_path / "include")
    (tmp_path / "lib").mkdir()
    source = tmp_path / "lib" / "fixed.c"
    source.write_text("extern int pico_state; int pico_stack_init(void) { return pico_state++; }\n")
    subprocess.run(["cc", "-fno-pic", "-c", source, "-o", source.with_suffix(".o")], check=True)
    archive = ["ar", "crs", tmp_path / "lib" / "libpicotcp.a", source.with_suffix(".o")]
    subprocess.run(archive, check=True)
    done = build(tmp_path / "out", PICOTCP_DIR=str(tmp_path))
    assert done.returncode == 5
    assert "build it again with -fPIC" in done.stdout
