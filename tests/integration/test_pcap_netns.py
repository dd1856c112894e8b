"""pcap: Linux's own TCP over veth through libpcap, offloads at default; captures replayed."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from pathlib import Path

import kernel_clients
import netns
import pytest
import running

_MISSING = netns.unavailable() or (
    None if kernel_clients.library("libpcap") else "libpcap is missing (package libpcap0.8)"
)
pytestmark = [pytest.mark.net, pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")]

SERVER_MAC = bytes.fromhex("020000000001")
CLIENT_MAC = bytes.fromhex("020000000002")


@pytest.mark.parametrize("workers", [1, 4])
def test_a_thousand_linux_clients_get_ten_million_bytes_back(workers: int) -> None:
    with (
        netns.wire() as wire,
        kernel_clients.server_on(wire, f"pcap:{wire.server_if}", workers) as server,
    ):
        kernel_clients.a_thousand_are_served(wire, server)


def test_a_killed_worker_changes_no_other_flow() -> None:
    with (
        netns.wire() as wire,
        kernel_clients.server_on(wire, f"pcap:{wire.server_if}", 4) as server,
    ):
        kernel_clients.a_kill_moves_no_flow(wire, server)


def test_load_outlives_its_workers() -> None:
    with (
        netns.wire() as wire,
        kernel_clients.server_on(wire, f"pcap:{wire.server_if}", 2) as server,
    ):
        kernel_clients.load_outlives_kills(wire, server, 2)


def test_flows_outlive_the_process_that_feeds_them() -> None:
    with (
        netns.wire() as wire,
        kernel_clients.server_on(wire, f"pcap:{wire.server_if}", 2) as server,
        kernel_clients.flows(wire, 20) as opened,
    ):
        for turn in range(5):
            kernel_clients.kill_feeder(wire)
            # another one is the first each time: its frame is lost, and its timeout doubles
            turned = opened[turn:] + opened[:turn]
            assert all(kernel_clients.echo(flow, b"turn %d" % turn * 50) for flow in turned)
        assert server.stats()["total"]["connections"]["reset"] == 0


def arp_request(number: int) -> bytes:
    """Who has 10.77.0.2? Asked by a host of its own each time."""
    sender = struct.pack("!6sI", CLIENT_MAC, 0x0A4D0100 + number)
    asked = struct.pack("!6sI", bytes(6), 0x0A4D0002)
    return bytes(b"\xff" * 6 + CLIENT_MAC + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)) + (
        sender + asked
    )


def test_a_capture_is_replayed_and_nothing_is_sent() -> None:
    frames = [arp_request(number) for number in range(100)]
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for number, frame in enumerate(frames):
        capture += struct.pack("<IIII", number, 0, len(frame), len(frame)) + frame
    with netns.lone("none") as wire, tempfile.TemporaryDirectory(prefix="ss-") as folder:
        path = Path(folder, "r.pcap")  # shorter than pytest's own: a device's name has a limit
        path.write_bytes(capture)
        mac = ":".join(f"{octet:02x}" for octet in SERVER_MAC)
        with kernel_clients.server_on(wire, f"pcap:{path}", 2, "--mac", mac) as server:
            end = time.monotonic() + kernel_clients.PATIENCE_S
            while server.stats()["total"]["rx"]["ended"] < 2 and time.monotonic() < end:
                time.sleep(0.05)
            total = server.stats()["total"]
            assert total["rx"]["ended"] == 2, "each ring says so"
            assert total["rx"]["frames"] == len(frames)
            assert total["tx"]["frames"] == 0
            assert total["tx"]["dropped"] == len(frames)
            assert running.books_agree(server.settled())


def test_a_capture_that_is_damaged_later_on_stops_its_port_and_is_counted() -> None:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    frame = arp_request(1)
    with netns.lone("none") as wire, tempfile.TemporaryDirectory(prefix="ss-") as folder:
        path = Path(folder, "d.pcap")
        os.mkfifo(path)  # a file that grows while it is read
        writer = os.open(path, os.O_RDWR)
        os.write(writer, header + struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)
        mac = ":".join(f"{octet:02x}" for octet in SERVER_MAC)
        with kernel_clients.server_on(wire, f"pcap:{path}", 1, "--mac", mac) as server:
            end = time.monotonic() + kernel_clients.PATIENCE_S
            while server.stats()["total"]["rx"]["frames"] == 0:
                assert time.monotonic() < end, "a frame is held back until the next one comes"
                time.sleep(0.05)
            os.write(writer, struct.pack("<IIII", 1, 0, 1 << 31, 60))
            while server.stats()["total"]["ring_errors"] == 0 and time.monotonic() < end:
                time.sleep(0.05)
            total = server.stats()["total"]
            assert (total["rx"]["frames"], total["ring_errors"] > 0) == (1, True)
            log = Path(server.runtime, f"{server.name}.log").read_text()
            assert f"pcap:{path}: the capture is damaged: " in log
            assert "the port has stopped, it holds what cannot be" in log
        os.close(writer)


def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    for name in ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so"):
        (tmp_path / name).write_bytes(b"")
    with netns.wire() as wire:
        command = [*running.COMMAND, "start", "--device", f"pcap:{wire.server_if}"]
        blind = ["env", f"LD_LIBRARY_PATH={tmp_path}", *command, "--ip", f"{wire.service}/24"]
        with pytest.raises(RuntimeError, match=r"unavailable.*apt install libpcap0\.8"):
            netns.run_in_server(wire, blind)
