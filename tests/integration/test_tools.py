"""The tools as people run them: processes on mem:, pipes and switches; with `net`, on a wire."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netns
import pytest
import running as servers
from running import COMMAND, ROOT

from shardserver import rings

TAG = f"t{os.getpid()}"
PATIENCE_S = 40


class Tool:
    """A tool that runs beside the test."""

    def __init__(self, *words: str, prefix: Sequence[str] = (), as_json: bool = True) -> None:
        options = ["--json"] if as_json else []
        self._process = subprocess.Popen(
            [*prefix, *COMMAND, "tools", *words, *options],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self._process.send_signal(number)

    def first_line(self) -> str:
        """Printed once the ports are open."""
        assert self._process.stdout
        return self._process.stdout.readline()

    def text(self) -> str:
        out, err = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0, (out, err)
        return out

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text())
        return found

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def running(*tools: Tool) -> Iterator[None]:
    try:
        yield
    finally:
        for tool in tools:
            tool.end()


def wait_for(seen: Any) -> None:
    """Until the function says so."""
    end = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


def is_there(name: str) -> bool:
    """Somebody owns that mem: device, pipe end or switch port."""
    sockets = Path("/proc/net/unix").read_text().splitlines()
    return any(line.endswith(f"@shardserver/{name}") for line in sockets)


@pytest.mark.parametrize(
    ("card", "cable", "socket"),
    [
        (f"mem:{TAG}", f"mem:{TAG}", f"mem/{TAG}"),
        (f"mem:{TAG}{{0", f"mem:{TAG}}}0", f"pipe/{TAG}{{0/0"),
        (f"vale:{TAG}:a", f"vale:{TAG}:b", f"vale/{TAG}/0"),
    ],
    ids=["nic", "pipe", "switch"],
)
@pytest.mark.parametrize("wait", ["--busy", "--block"])
def test_a_sink_counts_the_datagrams_to_its_port(
    card: str, cable: str, socket: str, wait: str
) -> None:
    slow_ok = "vale" not in card  # a switch drops at once what a reader does not take
    sink = Tool("sink", wait, card, "7", "-n", "200" if slow_ok else "20", "-d", "30")
    with running(sink):
        wait_for(lambda: is_there(socket))
        gen = Tool("gen", cable, "-n", "1000", "-R", "5k", "--dst", "10.0.0.1:5-10.0.0.1:9")
        with running(gen):
            sent = gen.document()
        got = sink.document()
    lost = sent["tx"]["lost"]  # a sink without a CPU for long: counted
    assert sent["tx"]["frames"] + lost == 1000
    assert max(20, 200 - lost if slow_ok else 0) <= got["matched"] <= 200


def test_an_interrupt_ends_a_tool_with_its_summary() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        tool = Tool("recv", f"mem:{TAG}", as_json=False)
        with running(tool):
            assert f"mem:{TAG}: software NIC" in tool.first_line()
            tool.interrupt(number)
            assert "received 0 frames" in tool.text()
    assert not is_there(f"mem/{TAG}")


def test_a_line_a_second_says_rate_and_batch() -> None:
    recv = Tool("recv", f"mem:{TAG}{{0", "-d", "3.5", as_json=False)
    with running(recv):
        recv.first_line()
        gen = Tool("gen", f"mem:{TAG}}}0", "-d", "2.2", "-R", "50k", as_json=False)
        with running(gen):
            lines = gen.text().splitlines()
        text = recv.text()
    seconds = [line for line in lines if line.startswith("tx ")]
    assert len(seconds) >= 1
    assert all("pps" in line and "bps  batch" in line for line in seconds)
    assert sum("pps" in line for line in text.splitlines() if line.startswith("rx ")) >= 2


def test_a_blocking_sink_sleeps() -> None:
    idle = Tool("sink", "--block", f"mem:{TAG}", "0", "-d", "1.5")
    with running(idle):
        document = idle.document()
    assert document["seconds"] >= 1.5
    assert document["cpu_s"] < 0.3


@pytest.mark.parametrize(
    ("same", "region", "word"),
    [(True, "", "swapped"), (False, "", "copied"), (False, f"@{TAG}", "swapped")],
    ids=["switch", "pipes", "region"],
)
def test_a_chain_of_tools(same: bool, region: str, word: str) -> None:
    """gen → forward → sink, where the forwarder's ports are pipes, or two ports of one switch."""
    a, b = (f"{TAG}{{1{region}", f"{TAG}{{2{region}")
    a, b = (f"vale:{TAG}:a", f"vale:{TAG}:b") if same else (f"mem:{a}", f"mem:{b}")
    forward = Tool("forward", a, b, "7", "-n", "300", "-d", "30", as_json=True)
    with running(forward):
        if same:
            wait_for(lambda: is_there(f"vale/{TAG}/1"))
            with rings.open(f"vale:{TAG}:test") as port:
                swapped_by(port, 300)
        else:
            second = f"region/{TAG}/2" if region else f"pipe/{TAG}{{2/0"
            wait_for(lambda: is_there(second))
            through_pipes(region)
        document = forward.document()
    assert (document["matched"], document[word]) == (300, 300)


def swapped_by(port: rings.RingPort, count: int) -> None:
    """Broadcasts reach the forwarder at its first port; it sends them out of its second."""
    frame = b"\xff" * 6 + port.mac + b"\x08\0\x45" + bytes(8) + b"\x11" + bytes(12)
    frame += (7).to_bytes(2, "big") + bytes(22)
    frame = frame[:34] + b"\0\1\0\7" + frame[38:60]
    for _ in range(count):
        slot = port.tx[0][port.tx[0].cur]
        slot.buf[: len(frame)] = frame
        slot.len = len(frame)
        port.tx[0].give()
        port.tx[0].sync()
        port.poll(rings.POLLIN, 0.005)
        port.rx[0].give(port.rx[0].space)


def through_pipes(region: str) -> None:
    sink = Tool("sink", f"mem:{TAG}}}2{region}", "7", "-n", "300", "-d", "30")
    with running(sink):
        wait_for(lambda: is_there(f"region/{TAG}/3" if region else f"pipe/{TAG}{{2/1"))
        gen = Tool("gen", f"mem:{TAG}}}1{region}", "-n", "600", "--dst", "10.0.0.1:7-10.0.0.1:8")
        with running(gen):
            assert gen.document()["tx"]["frames"] == 600
        assert sink.document()["matched"] == 300


def test_ping_and_pong() -> None:
    pong = Tool("pong", f"mem:{TAG}", "-d", "30")
    with running(pong):
        wait_for(lambda: is_there(f"mem/{TAG}"))
        ping = Tool("ping", f"mem:{TAG}", "-n", "100", "-s", "200")
        with running(ping):
            document = ping.document()
        pong.interrupt()
        answered = pong.document()
    assert (document["answered"], document["unanswered"]) == (100, 0)
    assert 0 < document["latency_us"]["p50"] <= document["latency_us"]["max"]
    assert answered["swapped"] == 100
    assert answered["rx"]["bytes"] == 100 * 200


def test_lb_spreads_over_pipes_that_others_read() -> None:
    lb = Tool("lb", f"mem:{TAG}", "--pipes", "2", "-d", "30")
    with running(lb):
        wait_for(lambda: is_there(f"pipe/{TAG}{{1/0"))
        readers = [Tool("recv", f"mem:{TAG}}}{i}", "-d", "30") for i in range(2)]
        with running(*readers):
            for i in range(2):
                wait_for(lambda i=i: is_there(f"pipe/{TAG}{{{i}/1"))
            gen = Tool("gen", f"mem:{TAG}", "-n", "2000", "-R", "20k", "--src", "1.0.0.1-1.0.0.99")
            with running(gen):
                assert gen.document()["tx"]["frames"] == 2000
            time.sleep(1)  # the readers' last frames; nobody else sees their counters
            for tool in (lb, *readers):
                tool.interrupt()
            got = [reader.document()["rx"]["frames"] for reader in readers]
            document = lb.document()
    assert sum(got) + document["dropped"] == document["rx"]["frames"]  # each in one place
    assert document["rx"]["frames"] > 1900  # a reader that gets no CPU lets a lane run full
    assert min(got) > 500
    assert [pipe["frames"] for pipe in document["pipes"]] == got


def test_a_killed_peer_stops_nobody() -> None:
    gen = Tool("gen", f"mem:{TAG}{{9", "-d", "600")
    with running(gen):
        wait_for(lambda: is_there(f"pipe/{TAG}{{9/0"))
        for _ in range(3):
            recv = Tool("recv", f"mem:{TAG}}}9", "-d", "30")
            with running(recv):
                wait_for(lambda: is_there(f"pipe/{TAG}{{9/1"))
                time.sleep(0.1)  # it dies while frames flow
            wait_for(lambda: not is_there(f"pipe/{TAG}{{9/1"))
        gen.interrupt()
        document = gen.document()  # it hears that it shall end: it does not wait for anybody
    assert document["tx"]["frames"] > 0
    assert document["tx"]["lost"] > 0


def test_a_lost_owner_ends_a_tool_with_an_error() -> None:
    owner = Tool("recv", f"mem:{TAG}", "-d", "30")
    with running(owner):
        wait_for(lambda: is_there(f"mem/{TAG}"))
        client = Tool("recv", f"mem:{TAG}", "--role", "client", as_json=False)
        with running(client):
            assert "link 0" in client.first_line()
            owner.end()
            out, err = client._process.communicate(timeout=PATIENCE_S)
            assert client._process.returncode == 1
            assert f"error: mem:{TAG}: Broken pipe" in err
            assert "its other side may have ended" in err
            assert "received 0 frames" in out


@pytest.mark.parametrize(
    ("device", "ours"),
    [(f"mem:{TAG}{{srv", f"mem:{TAG}}}srv"), (f"vale:{TAG}:srv", f"vale:{TAG}:ours")],
    ids=["pipe", "switch"],
)
def test_a_server_runs_on_a_software_link(device: str, ours: str) -> None:
    """It answers for its address on the other end, also after its worker was replaced."""
    with servers.server("--device", device, "--workers", "1", "--ip", "10.9.0.1/24") as server:
        with rings.open(ours) as port:
            assert is_at(port)
            assert server.run("restart", "-n", server.name).returncode == 0
            wait_for(lambda: server.stats()["shards"][0]["restarts"] > 0)
            assert is_at(port)
        with rings.open(ours) as port:
            assert is_at(port)


def is_at(port: rings.RingPort) -> bool:
    """Somebody answers our ARP request for 10.9.0.1."""
    head = b"\xff" * 6 + port.mac + bytes.fromhex("0806 0001 0800 0604 0001") + port.mac
    request = head + bytes([10, 9, 0, 2]) + bytes(6) + bytes([10, 9, 0, 1]) + bytes(18)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        slot = port.tx[0][port.tx[0].cur]
        slot.buf[: len(request)] = request
        slot.len = len(request)
        port.tx[0].give()
        if port.poll(rings.POLLIN, 0.5):
            answers = [bytes(slot.data[12:32]) for slot in port.rx[0]]
            port.rx[0].give(port.rx[0].space)
            if any(
                a[:2] == b"\x08\x06" and a[9] == 2 and a[16:] == bytes([10, 9, 0, 1])
                for a in answers
            ):
                return True
    return False


needs_net = pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or "")


@pytest.mark.net
@needs_net
def test_gen_and_sink_over_a_wire() -> None:
    with netns.wire(queues=2) as wire:
        prefix = netns.server_argv(wire, [])
        sink = Tool("sink", f"packet:{wire.server_if}", "7", "-d", "30", "--rings", "2",
                    "-p", "2", prefix=prefix, as_json=False)  # fmt: skip
        with running(sink):
            assert "TPACKET" in sink.first_line()
            gen = Tool("gen", f"packet:{wire.client_if}", "-n", "5000", "-R", "20k",
                       "--dst", "10.77.0.2:7-10.77.0.2:8", "--dst-mac", "ff:ff:ff:ff:ff:ff",
                       "--rings", "1", prefix=netns.client_argv(wire, []))  # fmt: skip
            with running(gen):
                assert gen.document()["tx"]["frames"] == 5000
            time.sleep(1)  # the sink's last frames; nobody else sees its counters
            sink.interrupt()
            assert "matched 2500" in sink.text()


@pytest.mark.net
@needs_net
def test_ping_and_pong_over_a_wire_and_a_kernels_datagrams_too() -> None:
    with netns.wire(queues=1) as wire:
        pong = Tool("pong", f"packet:{wire.server_if}", "--rings", "1", as_json=False,
                    prefix=netns.server_argv(wire, []))  # fmt: skip
        with running(pong):
            pong.first_line()
            ping = Tool("ping", f"packet:{wire.client_if}", "-n", "50", "--dst-mac",
                        "ff:ff:ff:ff:ff:ff", prefix=netns.client_argv(wire, []))  # fmt: skip
            with running(ping):
                document = ping.document()
            assert (document["answered"], document["unanswered"]) == (50, 0)
            assert kernel_is_answered(wire)
            pong.interrupt()
            assert "sent" in pong.text()


@pytest.mark.net
@needs_net
def test_rings_in_python_on_a_wire() -> None:
    """The tutorial's sink, in Python, counts what the generator sends over veth."""
    with netns.wire(queues=1) as wire:
        example = [sys.executable, "examples/sink.py", f"packet:{wire.server_if}", "7", "4"]
        sink = subprocess.Popen(
            netns.server_argv(wire, example), cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            assert sink.stdout
            assert "TPACKET" in sink.stdout.readline()
            gen = Tool("gen", f"packet:{wire.client_if}", "-n", "300", "-R", "3k",
                       "--dst", "10.77.0.2:7-10.77.0.2:8", "--dst-mac", "ff:ff:ff:ff:ff:ff",
                       prefix=netns.client_argv(wire, []))  # fmt: skip
            with running(gen):
                assert gen.document()["tx"]["frames"] == 300
            assert "150 datagrams to UDP port 7" in sink.communicate(timeout=PATIENCE_S)[0]
        finally:
            sink.kill()
            sink.wait()


def kernel_is_answered(wire: netns.Wire) -> bool:
    """A kernel's own datagram, its checksum left to the card, comes back and is accepted."""
    card = f"/sys/class/net/{wire.server_if}/address"
    mac = netns.run_in_server(wire, ["cat", card]).strip()
    netns.run_in_client(
        wire, ["ip", "neigh", "replace", wire.service, "dev", wire.client_if,
               "lladdr", mac, "nud", "permanent"],
    )  # fmt: skip
    (client,) = netns.sockets_in(wire.client_ns, 1, type=2)
    with client:
        client.settimeout(30)
        client.sendto(b"to and fro", (wire.service, 9))
        return client.recv(100) == b"to and fro"


@pytest.mark.net
@needs_net
def test_a_kernels_datagrams_cross_a_bridge_to_a_pipe_with_whole_checksums() -> None:
    """packet: has virtio-net headers, a pipe has none: what was left to the card is completed."""
    with netns.wire(queues=1) as wire:
        bridge = Tool("bridge", f"packet:{wire.server_if}", f"mem:{TAG}{{w", "--rings", "1",
                      prefix=netns.server_argv(wire, []), as_json=False)  # fmt: skip
        with running(bridge):
            bridge.first_line()
            pong = Tool("pong", f"mem:{TAG}}}w", "-d", "30", prefix=netns.server_argv(wire, []),
                        as_json=False)  # fmt: skip
            with running(pong):
                assert "second end" in pong.first_line()
                assert kernel_is_answered(wire)


@pytest.mark.net
@needs_net
def test_a_kernel_talks_to_a_server_on_a_switch() -> None:
    """Linux TCP, its interface, a bridge, a software switch, the server: every byte comes back."""
    with netns.wire(queues=1) as wire:
        prefix = netns.server_argv(wire, [])
        mac = netns.run_in_server(wire, ["cat", f"/sys/class/net/{wire.server_if}/address"]).strip()
        device = ("--device", f"vale:{TAG}:server", "--ip", f"{wire.service}/24", "--mac", mac)
        sides = {"prefix": prefix, "client_prefix": netns.client_argv(wire, [])}
        with servers.server(*device, **sides) as server:
            bridge = Tool("bridge", f"packet:{wire.server_if}", f"vale:{TAG}:wire", "--rings", "1",
                          prefix=prefix, as_json=False)  # fmt: skip
            with running(bridge):
                assert "TPACKET" in bridge.first_line()
                assert "learning switch" in bridge.first_line()
                document = server.load(f"{wire.service}:7", "-c", "20", "-d", "1s")
                bridge.interrupt()
                assert "copied" in bridge.text()
    assert servers.no_errors(document)
    assert document["finished"] == 20
