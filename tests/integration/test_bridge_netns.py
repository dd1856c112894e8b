"""Two Linux hosts that know nothing of the bridge between them: TCP, UDP, IPv6, big frames."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import netns
import pytest
from test_tools import Tool, running, wait_for

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

TAG = f"b{os.getpid()}"
LEFT, RIGHT = "10.77.0.10", "10.77.0.11"
LEFT_6, RIGHT_6 = "fd77::10", "fd77::11"
PORT = 7000
BULK = os.urandom(1 << 16) * 64
FOREIGN = "both hosts' MACs are foreign to the bridge's interfaces"


@dataclass(frozen=True)
class Between:
    """left - veth - srv0, middle, srv1 - veth - right."""

    left: str
    middle: str
    right: str

    def bridge(self, a: str, b: str) -> Tool:
        """Runs in the middle; its ports are open."""
        prefix = ["ip", "netns", "exec", self.middle]
        tool = Tool("bridge", a, b, "--rings", "1", prefix=prefix, as_json=False)
        assert tool.first_line()
        return tool

    def promiscuity(self, interface: str) -> int:
        words = ["ip", "-n", self.middle, "-d", "link", "show", "dev", interface]
        shown = netns._run(words).stdout.split()
        return int(shown[shown.index("promiscuity") + 1])


@pytest.fixture(scope="module")
def between() -> Iterator[Between]:
    """Their addresses are all that is configured; nobody forwards, nobody routes."""
    with netns.wire(queues=1) as one, netns.wire(queues=1) as two:
        made = Between(one.client_ns, one.server_ns, two.client_ns)
        netns._ip("-n", two.server_ns, "link", "set", "srv0", "netns", made.middle, "name", "srv1")
        netns._ip("-n", made.middle, "link", "set", "srv1", "up")
        netns._ip("-n", made.right, "addr", "del", f"{LEFT}/24", "dev", "cli0")
        netns._ip("-n", made.right, "addr", "add", f"{RIGHT}/24", "dev", "cli0")
        for namespace, address in ((made.left, LEFT_6), (made.right, RIGHT_6)):
            on = "echo 0 > /proc/sys/net/ipv6/conf/cli0/disable_ipv6"
            netns._ip("netns", "exec", namespace, "sh", "-c", on)
            netns._ip("-n", namespace, "addr", "add", f"{address}/64", "dev", "cli0", "nodad")
        yield made


def opened(namespace: str, family: int, kind: int) -> socket.socket:
    (made,) = netns.sockets_in(namespace, 1, family=family, type=kind)
    made.settimeout(20)
    return made


@contextlib.contextmanager
def connected(between: Between, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    address = RIGHT if family == socket.AF_INET else RIGHT_6
    with (
        opened(between.right, family, socket.SOCK_STREAM) as listener,
        opened(between.left, family, socket.SOCK_STREAM) as here,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen()
        here.connect((address, PORT))
        there = listener.accept()[0]
        with there:
            there.settimeout(20)
            yield here, there


def received(end: socket.socket, length: int) -> str:
    digest = hashlib.sha256()
    while length > 0:
        data = end.recv(min(length, 1 << 20))
        assert data, "the other end is gone"
        digest.update(data)
        length -= len(data)
    return digest.hexdigest()


def bytes_cross(between: Between, family: int = socket.AF_INET) -> None:
    """Four MiB there and back, by kernels that send super-segments wherever they may."""
    expected = hashlib.sha256(BULK).hexdigest()
    with connected(between, family) as (here, there):
        for sender, receiver in ((here, there), (there, here)):
            thread = threading.Thread(target=sender.sendall, args=(BULK,))
            thread.start()
            assert received(receiver, len(BULK)) == expected
            thread.join()


def datagrams_cross(between: Between) -> None:
    with (
        opened(between.left, socket.AF_INET, socket.SOCK_DGRAM) as here,
        opened(between.right, socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        there.bind((RIGHT, PORT))
        here.sendto(b"to and fro", (RIGHT, PORT))
        data, sender = there.recvfrom(100)
        assert data == b"to and fro"
        assert sender[0] == LEFT
        there.sendto(b"fro and to", sender)
        assert here.recv(100) == b"fro and to"


@pytest.mark.parametrize(
    ("a", "b"),
    [("packet", "packet"), ("packet", "xdp"), ("xdp", "xdp"), ("packet", "pcap"), ("pcap", "xdp")],
)
def test_hosts_talk_through_a_bridge(between: Between, a: str, b: str) -> None:
    bridge = between.bridge(f"{a}:srv0", f"{b}:srv1")
    with running(bridge):
        assert between.promiscuity("srv0") == between.promiscuity("srv1") == 1, FOREIGN
        datagrams_cross(between)
        bytes_cross(between)
        bytes_cross(between, socket.AF_INET6)
        bridge.interrupt()
        assert "dropped" in bridge.text()
    assert between.promiscuity("srv0") == between.promiscuity("srv1") == 0


def test_a_killed_bridge_leaves_nothing_promiscuous(between: Between) -> None:
    bridge = between.bridge("packet:srv0", "xdp:srv1")
    with running(bridge):
        assert between.promiscuity("srv0") == 1
    wait_for(lambda: between.promiscuity("srv0") == between.promiscuity("srv1") == 0)


def test_super_segments_cross_a_pipe_in_pieces(between: Between) -> None:
    """A pipe takes no super-segment and no unfinished checksum: they are cut and completed."""
    one = between.bridge("packet:srv0", f"mem:{TAG}{{w")
    with running(one):
        two = between.bridge(f"mem:{TAG}}}w", "packet:srv1")
        with running(two):
            datagrams_cross(between)
            bytes_cross(between)
            bytes_cross(between, socket.AF_INET6)
            two.interrupt()
            two.text()
            one.interrupt()
            text = one.text()
    print(text)
    assert "dropped 0" in text
