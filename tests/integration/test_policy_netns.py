"""--policy on a real wire: what is the server's, what stays the host's, and what is refused."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import netns
import pytest
import running
from kernel_clients import flows

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

SSH = 22
HTTP = 8080
STREAM = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
SERVICES = ("--service", f"http:{HTTP}")


def echo(flow: socket.socket, say: bytes) -> bool:
    """Whether what is said comes back, in as many pieces as it takes."""
    flow.sendall(say)
    heard = b""
    while len(heard) < len(say) and (piece := flow.recv(len(say) - len(heard))):
        heard += piece
    return heard == say


class Daemon:
    """The host's own service on port 22 of every address: echoes, in its kernel's TCP."""

    def __init__(self, namespace: str) -> None:
        (self._listener,) = netns.sockets_in(namespace, 1, **STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("0.0.0.0", SSH))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                flow, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(flow,), daemon=True).start()

    def _serve(self, flow: socket.socket) -> None:
        with flow, contextlib.suppress(OSError):
            while said := flow.recv(65536):
                flow.sendall(said)

    def close(self) -> None:
        """Ends the listener."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def shared_wire() -> Iterator[netns.Wire]:
    """A wire whose server side has the service's address in its kernel, with a daemon on it."""
    with netns.wire() as wire:
        netns.run_in_server(wire, ["ip", "addr", "add", f"{wire.service}/24", "dev", "srv0"])
        daemon = Daemon(wire.server_ns)
        try:
            yield wire
        finally:
            daemon.close()


@contextlib.contextmanager
def login(wire: netns.Wire) -> Iterator[socket.socket]:
    """A connection of the client to the host's daemon, as a login would be."""
    (flow,) = netns.sockets_in(wire.client_ns, 1, **STREAM)
    with flow:
        flow.settimeout(10)
        flow.connect((wire.service, SSH))
        yield flow


@contextlib.contextmanager
def server_on(wire: netns.Wire, device: str, *words: str) -> Iterator[running.Server]:
    words = ("--device", device, "--ip", f"{wire.service}/24", *SERVICES, *words)
    prefix = netns.server_argv(wire, [])
    with running.server(*words, prefix=prefix, client_prefix=netns.client_argv(wire, [])) as made:
        yield made


def interface(wire: netns.Wire) -> list[str]:
    """All that ip and ethtool tell of the server's interface, without its counters."""
    commands = (["ip", "-d", "addr", "show", "srv0"], ["ethtool", "-k", "srv0"])
    return [netns.run_in_server(wire, list(command)) for command in commands]


def resets_by_kernel(wire: netns.Wire) -> int:
    """RSTs that the kernel of the server's side has sent."""
    lines = netns.run_in_server(wire, ["cat", "/proc/net/snmp"]).splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("OutRsts")])


def start(wire: netns.Wire, *words: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    command = [*running.COMMAND, "start", "-n", f"r{os.getpid()}", *words]
    return subprocess.run(
        netns.server_argv(wire, command),
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def refused(wire: netns.Wire, tcp_port: int) -> bool:
    """Whether the host's kernel answers with a RST."""
    (flow,) = netns.sockets_in(wire.client_ns, 1, **STREAM)
    with flow:
        flow.settimeout(10)
        return flow.connect_ex((wire.service, tcp_port)) != 0


def http_get(wire: netns.Wire) -> str:
    (flow,) = netns.sockets_in(wire.client_ns, 1, **STREAM)
    with flow:
        flow.settimeout(10)
        flow.connect((wire.service, HTTP))
        flow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return flow.recv(65536).decode()


def talk_while(load: subprocess.Popen[str], wire: netns.Wire, early: socket.socket) -> int:
    """Two logins, an early and a late one, talk while the load runs. How often they did."""
    turns = 0
    with login(wire) as late:
        while load.poll() is None:
            assert echo(early, b"early %d" % turns * 300)
            assert echo(late, b"late %d" % turns * 300)
            turns += 1
    return turns


@pytest.mark.parametrize("device", ["xdp:srv0", "xdp:srv0:generic", "packet:srv0", "pcap:srv0"])
def test_a_login_to_the_same_address_goes_on_under_load(device: str) -> None:
    with shared_wire() as wire, login(wire) as early:
        assert echo(early, b"before")
        before = interface(wire)
        with server_on(wire, device, "--policy", "pass", "--workers", "4") as server:
            load = server.load_in_background(f"{wire.service}:7", "-c", "100", "-d", "4s")
            turns = talk_while(load, wire, early)
            out, _ = load.communicate(timeout=60)
            assert load.returncode == 0, out
            assert turns > 20
            assert "200 OK" in http_get(wire)
            pinged = netns.run_in_client(wire, ["ping", "-c", "2", "-i", "0.2", wire.service])
            assert " 0% packet loss" in pinged
            stats = server.stats()
            assert running.books_agree(stats)
            assert stats["total"]["verdicts"]["icmp_echo"] == 0  # the kernel answered
            assert resets_by_kernel(wire) == 0
        assert interface(wire) == before
        assert refused(wire, 7)
        assert echo(early, b"after")


@pytest.mark.parametrize("device", ["xdp:srv0", "packet:srv0"])
def test_a_killed_server_gives_the_port_back_to_the_host(device: str) -> None:
    with shared_wire() as wire, login(wire) as flow:
        before = interface(wire)
        words = ["--device", device, "--ip", f"{wire.service}/24", "--policy", "pass"]
        argv = netns.server_argv(wire, [*running.COMMAND, "start", "-n", f"k{os.getpid()}", *words])
        process = subprocess.Popen(argv, cwd=running.ROOT, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while refused(wire, 7) and time.monotonic() < end:
            time.sleep(0.05)
        assert not refused(wire, 7)
        os.kill(process.pid, signal.SIGKILL)  # its children end with it
        process.wait(10)
        while not refused(wire, 7) and time.monotonic() < end:
            time.sleep(0.05)
        assert refused(wire, 7)
        undo = [*running.COMMAND, "nic", "restore", "srv0"]
        assert subprocess.run(netns.server_argv(wire, undo), cwd=running.ROOT).returncode == 0
        assert interface(wire) == before
        assert echo(flow, b"still here")


def test_a_peer_with_another_mac_is_answered_there() -> None:
    """ARP is the host's: who the peers are is learned from their segments."""
    with (
        shared_wire() as wire,
        server_on(wire, "xdp:srv0", "--policy", "pass", "--workers", "2") as server,
        flows(wire, 4) as opened,
    ):
        assert all(echo(flow, b"first") for flow in opened)
        script = "ip link set cli0 down; ip link set cli0 address 02:00:00:00:77:77 up"
        netns.run_in_client(wire, ["sh", "-ec", script])
        assert all(echo(flow, b"then" * 500) for flow in opened)
        assert server.stats()["total"]["connections"]["reset"] == 0


def test_a_port_that_the_host_listens_on_is_refused() -> None:
    with shared_wire() as wire:
        words = ("--device", "xdp:srv0", "--ip", f"{wire.service}/24", "--policy", "pass")
        done = start(wire, *words, "--port", str(SSH))
        assert done.returncode == 78, done.stderr
        assert f"listens on TCP port {SSH}" in done.stderr
        with server_on(wire, "xdp:srv0", "--policy", "pass", "--port", str(SSH), "--force"):
            assert netns.listening(wire)


def test_exclusive_leaves_the_host_nothing() -> None:
    """Behind packet sockets too, which get copies only."""
    with netns.wire() as wire:
        address = ["ip", "addr", "add", "10.77.0.3/24", "dev", "srv0"]
        netns.run_in_server(wire, address)
        ping = ["ping", "-c", "1", "-W", "5", "10.77.0.3"]
        assert " 0% packet loss" in netns.run_in_client(wire, ping)
        with server_on(wire, "packet:srv0", "--policy", "exclusive", "--workers", "2"):
            assert "200 OK" in http_get(wire)
            command = netns.client_argv(wire, ["ping", "-c", "2", "-i", "0.2", "-W", "1"])
            done = subprocess.run([*command, "10.77.0.3"], capture_output=True, check=False)
            assert done.returncode != 0
        assert " 0% packet loss" in netns.run_in_client(wire, ping)
