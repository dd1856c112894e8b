"""vde: Linux's own TCP behind a vde_switch, which a TAP joins through vde_plug2tap."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kernel_clients
import netns
import pytest
import running


def _missing() -> str | None:
    if shutil.which("vde_switch") is None or shutil.which("vde_plug2tap") is None:
        return "the VDE switch is missing (package vde2)"
    if not kernel_clients.library("libvdeplug"):
        return "libvdeplug is missing (package libvdeplug2)"
    return None if Path("/dev/net/tun").exists() else "this kernel has no /dev/net/tun"


_MISSING = netns.unavailable() or _missing()
pytestmark = [pytest.mark.net, pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")]

TAP = "vde0"


def _wait_for(path: Path) -> None:
    """Until somebody listens there: the socket exists a moment earlier."""
    end = time.monotonic() + kernel_clients.PATIENCE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        while probe.connect_ex(str(path)) != 0:
            assert time.monotonic() < end, f"nobody listens at {path}"
            time.sleep(0.01)


@contextmanager
def _running(wire: netns.Wire, *command: str) -> Iterator[None]:
    """A program in the namespace; it is ended with the context."""
    with subprocess.Popen(
        netns.server_argv(wire, command),
        stdin=subprocess.PIPE,  # the switch ends with its input
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as program:
        try:
            yield
        finally:
            program.terminate()


@contextmanager
def switch() -> Iterator[tuple[netns.Wire, Path]]:
    """A switch and the host's TAP on it; both end with the context, as their input ends."""
    with netns.lone(TAP) as wire, tempfile.TemporaryDirectory(prefix="ss-") as folder:
        path = Path(folder, "sw")
        with _running(wire, "vde_switch", "-s", str(path)):
            _wait_for(path / "ctl")
            with _running(wire, "vde_plug2tap", "-s", str(path), TAP):
                _wait_for_interface(wire)
                netns.host_side(wire)
                yield wire, path


def _wait_for_interface(wire: netns.Wire) -> None:
    end = time.monotonic() + kernel_clients.PATIENCE_S
    while TAP not in netns.run_in_client(wire, ["ip", "-o", "link"]):
        assert time.monotonic() < end, "vde_plug2tap made no interface"
        time.sleep(0.02)


@contextmanager
def server_on_switch(workers: int) -> Iterator[tuple[netns.Wire, running.Server]]:
    with switch() as (wire, path), kernel_clients.server_on(wire, f"vde:{path}", workers) as server:
        yield wire, server


@pytest.mark.parametrize("workers", [1, 4])
def test_a_thousand_linux_clients_get_ten_million_bytes_back(workers: int) -> None:
    with server_on_switch(workers) as (wire, server):
        kernel_clients.a_thousand_are_served(wire, server)


def test_a_killed_worker_changes_no_other_flow() -> None:
    with server_on_switch(4) as (wire, server):
        kernel_clients.a_kill_moves_no_flow(wire, server)


def test_load_outlives_its_workers() -> None:
    with server_on_switch(2) as (wire, server):
        kernel_clients.load_outlives_kills(wire, server, 2)


def test_flows_outlive_the_process_that_feeds_them() -> None:
    with server_on_switch(2) as (wire, server), kernel_clients.flows(wire, 20) as opened:
        for turn in range(5):
            kernel_clients.kill_feeder(wire)
            assert all(kernel_clients.echo(flow, b"turn %d" % turn * 50) for flow in opened)
        assert server.stats()["total"]["connections"]["reset"] == 0


def test_without_a_switch_it_says_how_to_start_one() -> None:
    with netns.lone(TAP) as wire:
        command = [*running.COMMAND, "start", "--device", "vde:/nosuch/sw.ctl"]
        with pytest.raises(RuntimeError, match="vde_switch -d -s"):
            netns.run_in_server(wire, [*command, "--ip", f"{wire.service}/24"])
