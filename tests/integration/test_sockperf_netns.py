"""sockperf, the tool that others measure with, against our service: it counts all messages."""

from __future__ import annotations

import re
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import kernel_clients
import netns
import pytest
import running
from test_tools import wait_for

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
    pytest.mark.skipif(not shutil.which("sockperf"), reason="sockperf is missing (apt package)"),
]

PORT = 11111
SERVICE = ("--service", "sockperf")
TESTED = re.compile(r"Total Run\].*SentMessages=(\d+); ReceivedMessages=(\d+)")
COUNTED = re.compile(r"dropped messages = (\d+); .*duplicated.* = (\d+); .*out-of-order.* = (\d+)")


def sockperf(wire: netns.Wire, mode: str, *words: str) -> str:
    """What the client says of a run of a second."""
    target = ["-i", wire.service, "-p", str(PORT), "-t", "1"]
    return netns.run_in_client(wire, ["timeout", "30", "sockperf", mode, "--tcp", *target, *words])


def service_bytes(server: running.Server) -> tuple[int, int]:
    """Taken and given, once no connection is left: a client ends before its last bytes came."""
    wait_for(lambda: server.stats()["total"]["connections"]["active"] == 0)
    counters = server.settled()["total"]["counters"]
    return counters["service_bytes_in"], counters["service_bytes_out"]


@pytest.mark.parametrize("device", ["packet:srv0", "xdp:srv0"])
@pytest.mark.parametrize(
    "words", [("-m", "14"), ("-m", "2000", "-r", "1900", "--data-integrity"), ("-m", "65507")]
)
def test_each_ping_has_its_pong(device: str, words: tuple[str, ...]) -> None:
    with netns.wire() as wire, kernel_clients.server_on(wire, device, 2, *SERVICE) as server:
        said = sockperf(wire, "ping-pong", *words)
        sent, received = map(int, TESTED.search(said).groups())  # type: ignore[union-attr]
        assert sent - received in (0, 1) and received > 10, said  # the last is cut off by the timer
        assert COUNTED.search(said).groups() == ("0", "0", "0"), said  # type: ignore[union-attr]
        taken, given = service_bytes(server)
        assert taken == given > 0


def test_under_load_only_those_that_ask_are_answered() -> None:
    with netns.wire() as wire, kernel_clients.server_on(wire, "packet:srv0", 2, *SERVICE) as server:
        said = sockperf(wire, "under-load", "--mps", "2000", "-m", "100", "--reply-every", "10")
        sent, received = map(int, TESTED.search(said).groups())  # type: ignore[union-attr]
        assert 0 < received <= sent / 9 + 2, said  # it does not wait for the last
        assert COUNTED.search(said).groups() == ("0", "0", "0"), said  # type: ignore[union-attr]
        taken, given = service_bytes(server)
        assert sent / 11 - 2 <= given / 100
        assert given < taken / 5


def test_throughput_is_taken_and_not_answered() -> None:
    with netns.wire() as wire, kernel_clients.server_on(wire, "packet:srv0", 2, *SERVICE) as server:
        said = sockperf(wire, "throughput", "-m", "1000")
        assert "ERROR" not in said
        (messages,) = re.findall(r"Total of (\d+) messages sent", said)
        taken, given = service_bytes(server)
        assert given == 0
        assert int(messages) > 100 and taken >= 0.9 * 1000 * int(messages)  # warm-up is not told


@contextmanager
def client_of(wire: netns.Wire) -> Iterator[socket.socket]:
    (client,) = netns.sockets_in(wire.client_ns)
    with client:
        client.settimeout(30)
        client.connect((wire.service, PORT))
        yield client


def test_a_wild_length_is_reset_and_the_next_client_served() -> None:
    with netns.wire() as wire, kernel_clients.server_on(wire, "packet:srv0", 2, *SERVICE) as server:
        for length in (13, 65508):
            with client_of(wire) as client, pytest.raises(ConnectionResetError):
                client.sendall(struct.pack(">QHI", 1, 3, length))
                client.recv(100)
        with client_of(wire) as client:
            client.sendall(struct.pack(">QHI", 7, 3, 14))
            assert client.recv(14, socket.MSG_WAITALL) == struct.pack(">QHI", 7, 2, 14)
        assert server.stats()["total"]["counters"]["service_refused"] == 2
        assert running.books_agree(server.settled())
