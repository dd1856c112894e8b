"""tap: the host's own TCP as the client, through an interface that the server makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import kernel_clients
import netns
import pytest
import running

_MISSING = netns.unavailable() or (
    None if Path("/dev/net/tun").exists() else "this kernel has no /dev/net/tun"
)
pytestmark = [pytest.mark.net, pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")]

TAP = "tap0"


@contextmanager
def server_on_tap(workers: int) -> Iterator[tuple[netns.Wire, running.Server]]:
    with (
        netns.lone(TAP) as wire,
        kernel_clients.server_on(wire, f"tap:{TAP}", workers) as server,
    ):
        netns.host_side(wire)
        yield wire, server


@pytest.mark.parametrize("workers", [1, 4])
def test_a_thousand_linux_clients_get_ten_million_bytes_back(workers: int) -> None:
    with server_on_tap(workers) as (wire, server):
        kernel_clients.a_thousand_are_served(wire, server)
        assert server.stats()["total"]["steered"]["in"] == 0, "the kernel steers by itself"


@pytest.mark.parametrize("backend", ["tap", "packet"])
def test_bulk_leaves_in_super_segments(backend: str) -> None:
    with ExitStack() as stack:
        if backend == "tap":
            wire, server = stack.enter_context(server_on_tap(1))
        else:
            wire = stack.enter_context(netns.wire())
            server = stack.enter_context(
                kernel_clients.server_on(wire, f"packet:{wire.server_if}", 1)
            )
        words = (f"{wire.service}:7", "-c", "4", "-s", "1000000", "--messages", "10", "-d", "40s")
        document = server.load(*words)
        assert running.no_errors(document)
        assert document["bytes"] == 40_000_000
        sent = server.stats()["total"]["tx"]
        assert sent["bytes"] / sent["frames"] > 3 * 1514, "each segment left on its own"


def test_a_killed_worker_changes_no_other_flow() -> None:
    with server_on_tap(4) as (wire, server):
        kernel_clients.a_kill_moves_no_flow(wire, server)


def test_load_outlives_its_workers() -> None:
    with server_on_tap(2) as (wire, server):
        kernel_clients.load_outlives_kills(wire, server, 2)


def test_start_says_how_the_host_reaches_it_and_leaves_no_interface() -> None:
    with netns.lone(TAP) as wire:
        with kernel_clients.server_on(wire, f"tap:{TAP}", 2) as server:
            log = Path(server.runtime, f"{server.name}.log").read_text()
            command = log.partition("ip addr add ")[2].split("\n")[0]
            assert command == f"10.77.0.1/24 dev {TAP}"
            netns.run_in_client(wire, ["ip", "addr", "add", *command.split()])
            netns.run_in_client(wire, ["ping", "-c", "1", wire.service])
        links = netns.run_in_client(wire, ["ip", "-o", "link"])
        assert TAP not in links


@pytest.mark.parametrize("kind", [["multi_queue"], []])
def test_an_interface_made_by_somebody_else_is_taken_and_stays(kind: list[str]) -> None:
    with netns.lone(TAP) as wire:
        netns.run_in_client(wire, ["ip", "tuntap", "add", "dev", TAP, "mode", "tap", *kind])
        netns.host_side(wire)
        with kernel_clients.server_on(wire, f"tap:{TAP}", 4) as server:
            kernel_clients.a_thousand_are_served(wire, server)
            kernel_clients.a_kill_moves_no_flow(wire, server)
        assert TAP in netns.run_in_client(wire, ["ip", "-o", "link"])


def test_a_name_that_is_taken_is_refused() -> None:
    with netns.lone(TAP) as wire:
        netns.run_in_client(wire, ["ip", "link", "add", TAP, "type", "veth"])
        netns.host_side(wire)
        command = [*running.COMMAND, "start", "--device", f"tap:{TAP}", "--ip", "10.77.0.2/24"]
        with pytest.raises(RuntimeError, match="no TAP"):
            netns.run_in_server(wire, command)
