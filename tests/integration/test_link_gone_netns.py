"""The interface goes while a server runs: said in a line, an exit code, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kernel_clients
import netns
import pytest
from running import COMMAND, ROOT
from test_tools import Tool, running, wait_for

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

PATIENCE_S = 30


class Foreground:
    """`start` as a person runs it: its words in a file, its end an exit code."""

    def __init__(self, runtime: str, wire: netns.Wire, *words: str, command: list[str]) -> None:
        self.log = Path(runtime, "words")
        self.name = f"g{os.getpid()}"
        self.environment = {**os.environ, "RUNTIME_DIRECTORY": runtime}
        options = ["--workers", "1", "-n", self.name, "--ip", f"{wire.service}/24", *words]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                netns.server_argv(wire, [*command, "start", *options]), cwd=ROOT, stdout=output,
                stderr=output, env=self.environment,
            )  # fmt: skip

    def says(self, words: str) -> bool:
        return words in self.log.read_text()

    def shard(self) -> dict[str, Any]:
        """What `stats --json` has of shard 0."""
        asked = [*COMMAND, "stats", "--json", "-n", self.name]
        done = subprocess.run(
            asked, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=True
        )
        shard: dict[str, Any] = json.loads(done.stdout)["shards"][0]
        return shard

    def end(self) -> int:
        return self.process.wait(PATIENCE_S)


@contextmanager
def foreground(
    wire: netns.Wire, device: str, *words: str, command: list[str] = COMMAND
) -> Iterator[Foreground]:
    with tempfile.TemporaryDirectory(prefix="ss-") as runtime:
        made = Foreground(runtime, wire, "--device", device, *words, command=command)
        try:
            wait_for(lambda: made.says("ready in") or made.process.poll() is not None)
            yield made
            left = [path.name for path in Path(runtime).iterdir() if path != made.log]
            assert not left, f"left behind: {left}"
            assert not netns.processes(wire.server_ns)
        except BaseException:
            print(made.log.read_text())
            raise
        finally:
            made.process.kill()
            made.process.wait()


def deleted(wire: netns.Wire, device: str) -> None:
    interface = device.partition(":")[2]
    with foreground(wire, device) as server:
        netns._ip("-n", wire.server_ns, "link", "del", interface)
        assert server.end() == 6
        text = server.log.read_text()
    assert f"error: {interface}: the interface was deleted" in text
    assert "start again once it is back" in text
    assert "it stays down" not in text, "worker after worker was started on what is gone"


@pytest.mark.parametrize("backend", ["packet", "xdp", "pcap"])
def test_a_deleted_interface_ends_the_server(backend: str) -> None:
    with netns.wire(queues=1) as wire:
        deleted(wire, f"{backend}:{wire.server_if}")


def test_a_deleted_tap_ends_the_server() -> None:
    with netns.lone("tap0") as wire:
        deleted(wire, "tap:tap0")


def test_an_interface_that_comes_back_is_served_again() -> None:
    with netns.wire(queues=1) as wire, foreground(wire, f"packet:{wire.server_if}") as server:
        netns._ip("-n", wire.server_ns, "link", "set", wire.server_if, "down")
        wait_for(lambda: server.says("srv0: the interface is down"))
        netns._ip("-n", wire.server_ns, "link", "set", wire.server_if, "up")
        wait_for(lambda: server.says("srv0: the interface is up again"))
        with kernel_clients.flows(wire, 3) as opened:
            assert all(kernel_clients.echo(flow, b"back") for flow in opened)
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 0


@pytest.mark.parametrize("backend", ["packet", "xdp", "pcap"])
def test_a_deleted_interface_ends_a_tool(backend: str) -> None:
    with netns.wire(queues=1) as wire:
        prefix = netns.server_argv(wire, [])
        tool = Tool("recv", f"{backend}:{wire.server_if}", prefix=prefix, as_json=False)
        with running(tool):
            assert tool.first_line()
            netns._ip("-n", wire.server_ns, "link", "del", wire.server_if)
            _, err = tool._process.communicate(timeout=PATIENCE_S)
            assert tool._process.returncode == 6
            assert "No such device" in err
