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
    """A service of the host's own, on every address: echoes, in its kernel's TCP."""

    def __init__(self, namespace: str, tcp_port: int = SSH) -> None:
        self.accepted = 0
        (self._listener,) = netns.sockets_in(namespace, 1, **STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("0.0.0.0", tcp_port))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                flow, _ = self._listener.accept()
                self.accepted += 1
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


def connected(wire: netns.Wire, tcp_port: int) -> socket.socket:
    """A connection of the client's kernel."""
    (flow,) = netns.sockets_in(wire.client_ns, 1, **STREAM)
    flow.settimeout(30)
    flow.connect((wire.service, tcp_port))
    return flow


def login(wire: netns.Wire) -> socket.socket:
    """A connection to the host's daemon, as a login would be."""
    return connected(wire, SSH)


def pings(wire: netns.Wire, argv: list[str]) -> bool:
    """Whether the command's pings are answered."""
    done = subprocess.run(netns.client_argv(wire, argv), capture_output=True, check=False)
    return done.returncode == 0


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
        timeout=running.PATIENCE_S,
        check=False,
    )


def refused(wire: netns.Wire, tcp_port: int) -> bool:
    """Whether the host's kernel answers with a RST."""
    (flow,) = netns.sockets_in(wire.client_ns, 1, **STREAM)
    with flow:
        flow.settimeout(10)
        return flow.connect_ex((wire.service, tcp_port)) != 0


def http_get(wire: netns.Wire) -> str:
    with connected(wire, HTTP) as flow:
        flow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return flow.recv(65536).decode()


def talk_while(load: subprocess.Popen[str], logins: list[socket.socket]) -> int:
    """Turns of a conversation with the host's daemon for as long as the load lasts."""
    turns = 0
    while load.poll() is None:
        assert all(echo(flow, b"turn %d" % turns * 300) for flow in logins)
        turns += 1
    return turns


def everybody_answers(wire: netns.Wire, server: running.Server) -> None:
    """The services are ours; ICMP is the kernel's; it has reset nothing."""
    assert "200 OK" in http_get(wire)
    pinged = netns.run_in_client(wire, ["ping", "-c", "2", "-i", "0.2", wire.service])
    assert " 0% packet loss" in pinged
    stats = server.settled()
    assert running.books_agree(stats)
    assert stats["total"]["verdicts"]["tcp_no_listener"] == 0
    assert stats["total"]["verdicts"]["icmp_echo"] == 0
    assert resets_by_kernel(wire) == 0


@pytest.mark.parametrize("device", ["xdp:srv0", "xdp:srv0:generic", "packet:srv0", "pcap:srv0"])
def test_a_login_to_the_same_address_goes_on_under_load(device: str) -> None:
    with shared_wire() as wire, login(wire) as early:
        assert echo(early, b"before")
        before = interface(wire)
        with (
            server_on(wire, device, "--policy", "pass", "--workers", "4") as server,
            login(wire) as late,
        ):
            load = server.load_in_background(f"{wire.service}:7", "-c", "100", "-d", "4s")
            turns = talk_while(load, [early, late])
            out, _ = load.communicate(timeout=60)
            assert load.returncode == 0, out
            assert turns > 20
            everybody_answers(wire, server)
        assert interface(wire) == before
        assert refused(wire, 7)
        assert echo(early, b"after")


def test_rings_that_are_not_named_stay_the_hosts() -> None:
    """The host's service on port 7 answers on rings 0 and 1, ours on 2 and 3."""
    with (
        shared_wire() as wire,
        contextlib.closing(Daemon(wire.server_ns, 7)) as theirs,
        server_on(wire, "xdp:srv0", "--rings", "2-3", "--force") as server,
    ):
        for ring in range(wire.queues):
            netns.move_flow(wire, ring)
            with contextlib.closing(connected(wire, 7)) as flow:
                assert echo(flow, b"ring %d" % ring)
            accepted = server.stats()["total"]["connections"]["accepted"]
            assert accepted == max(0, ring - 1)
        assert theirs.accepted == 2
        assert len(server.stats()["shards"]) == min(2, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("device", ["xdp:srv0", "packet:srv0"])
def test_exclusive_leaves_the_host_nothing(device: str) -> None:
    with netns.wire() as wire:
        other = "10.77.0.3"
        netns.run_in_server(wire, ["ip", "addr", "add", f"{other}/24", "dev", "srv0"])
        ping = ["ping", "-c", "1", "-W", "1", other]
        assert pings(wire, ping)
        with server_on(wire, device, "--policy", "exclusive", "--workers", "2"):
            assert not pings(wire, ping)
            with flows(wire, 4) as opened:
                assert all(echo(flow, b"ours") for flow in opened)
        assert pings(wire, ping)


@pytest.mark.parametrize("device", ["xdp:srv0", "packet:srv0"])
def test_a_killed_server_gives_the_port_back_to_the_host(device: str) -> None:
    with shared_wire() as wire, login(wire) as flow:
        before = interface(wire)
        words = ["--device", device, "--ip", f"{wire.service}/24", "--policy", "pass"]
        argv = netns.server_argv(wire, [*running.COMMAND, "start", "-n", f"k{os.getpid()}", *words])
        process = subprocess.Popen(argv, cwd=running.ROOT, stderr=subprocess.DEVNULL)
        end = time.monotonic() + running.PATIENCE_S
        while refused(wire, 7) and time.monotonic() < end:
            time.sleep(0.05)
        assert not refused(wire, 7)
        os.kill(process.pid, signal.SIGKILL)  # its children end with it
        process.wait(running.PATIENCE_S)
        end = time.monotonic() + running.PATIENCE_S
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


@pytest.mark.parametrize(
    ("device", "policy", "why"),
    [
        ("packet:srv0", "rings", "copies of what every ring of the card brings"),
        ("pcap:srv0", "rings", "copies of what every ring of the card brings"),
        ("tap:sstap0", "pass", "there is no host behind it"),
        ("vde:/run/x.ctl", "rings", "there is no host behind it"),
        ("mem:x", "pass", "there is no host behind it"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_in_one_line(
    device: str, policy: str, why: str
) -> None:
    with netns.wire() as wire:
        words = ("--device", device, "--ip", f"{wire.service}/24", "--policy", policy)
        done = start(wire, *words)
        backend = device.partition(":")[0]
        assert done.returncode == 6, done.stderr
        assert f"{backend} cannot do --policy {policy}: " in done.stderr
        assert why in done.stderr
        assert f"{backend} can: " in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--policy", "pass"], 78, "is not an address of this host"),
        (["--policy", "rings"], 2, "--policy rings without rings"),
        (["--policy", "pass", "--rings", "1"], 2, "--policy pass takes every ring"),
        (["--rings", "3,4"], 78, "no ring 4: it has 4"),
        (["--rings", "x"], 2, "expected a list of rings such as 0,2-5"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(words: list[str], code: int, why: str) -> None:
    with netns.wire() as wire:
        done = start(wire, "--device", "xdp:srv0", "--ip", f"{wire.service}/24", *words)
        assert done.returncode == code, done.stderr
        assert why in done.stderr


def test_packet_sockets_share_only_where_the_host_can_be_kept_off() -> None:
    """In a user namespace nobody may load the program that does it."""
    wire = "ip link add srv0 type veth peer name cli0; ip link set srv0 up; ip link set cli0 up"
    words = "--device packet:srv0 --ip 10.77.0.2/24 --policy pass"
    command = f"{' '.join(running.COMMAND)} start -n u{os.getpid()} {words}"
    script = f"{wire}; ip addr add 10.77.0.2/24 dev srv0; exec {command}"
    done = subprocess.run(
        ["unshare", "-Urn", "sh", "-ec", script],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip("user namespaces are refused here")
    assert done.returncode == 5, done.stderr
    assert "this policy needs a program at the interface's ingress" in done.stderr
    assert "with CAP_BPF" in done.stderr
