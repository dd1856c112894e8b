"""A real wire for tests: a server's and a client's network namespace, joined by a veth pair.

The server's address is not configured anywhere, so its kernel neither answers nor resets: only what
opens `packet:srv0` there can. The client's side is an ordinary Linux host. Start at `wire`.

Needs root and iproute2. Everything is removed when the context ends; what a killed test run left
behind is removed by the next one (names carry the process id of their maker).
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "sstest"
SERVICE = "10.77.0.2"
CLIENT_NET = "10.77.0"
FIRST_CLIENT = 10
SERVER_IF = "srv0"
CLIENT_IF = "cli0"
DEAD_MAC = "02:00:00:00:de:ad"

_serial = itertools.count()

_OPENER = """
import json, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
opened = [socket.socket(**json.loads(sys.argv[3])) for _ in range(int(sys.argv[2]))]
socket.send_fds(channel, [b"x"], [each.fileno() for each in opened])
"""


@dataclass(frozen=True)
class Wire:
    """Two joined namespaces: `service` is the address that the server answers for."""

    server_ns: str
    client_ns: str
    queues: int
    clients: tuple[str, ...]
    service: str = SERVICE
    server_if: str = SERVER_IF
    client_if: str = CLIENT_IF


@functools.cache
def unavailable() -> str | None:
    """Why there can be no wire here, or None."""
    if os.geteuid() != 0:
        return "network namespaces with names need root"
    if shutil.which("ip", path=_path()) is None:
        return "the ip command is missing (package iproute2)"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    if _ip("netns", "add", probe, check=False).returncode != 0:
        return "network namespaces are refused here"
    _ip("netns", "del", probe)
    return None


def server_argv(wire: Wire, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` in the server's namespace, with a /sys of its own."""
    return ["ip", "netns", "exec", wire.server_ns, *argv]


def client_argv(wire: Wire, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` on the client's side."""
    return ["ip", "netns", "exec", wire.client_ns, *argv]


def run_in_server(wire: Wire, argv: Sequence[str]) -> str:
    """Runs a command to its end in the server's namespace; its output."""
    return _run(server_argv(wire, argv)).stdout


def run_in_client(wire: Wire, argv: Sequence[str]) -> str:
    """Runs a command to its end on the client's side; its output."""
    return _run(client_argv(wire, argv)).stdout


@contextmanager
def wire(queues: int = 4, clients: int = 1, mtu: int = 1500) -> Iterator[Wire]:
    """Makes a wire with `queues` queues each way and `clients` addresses on the client's side."""
    _remove_stale()
    name = f"{PREFIX}-{os.getpid()}-{next(_serial)}"
    addresses = tuple(f"{CLIENT_NET}.{FIRST_CLIENT + i}" for i in range(clients))
    made = Wire(f"{name}-s", f"{name}-c", queues, addresses)
    try:
        _build(made, mtu)
        yield made
    finally:
        _remove(made.server_ns)
        _remove(made.client_ns)


@contextmanager
def lone(interface: str, clients: int = 1) -> Iterator[Wire]:
    """One namespace for both: the host that the server runs on is its client, over `interface`.

    For a TAP, whose other side is the host's kernel. Nothing has that name yet: `host_side` gives
    it the clients' addresses once it is there.
    """
    _remove_stale()
    name = f"{PREFIX}-{os.getpid()}-{next(_serial)}"
    addresses = tuple(f"{CLIENT_NET}.{FIRST_CLIENT + i}" for i in range(clients))
    made = Wire(name, name, 1, addresses, client_if=interface)
    try:
        _namespace(name)
        yield made
    finally:
        _remove(name)


def host_side(wire: Wire) -> None:
    """The clients' addresses on the client's interface, which is brought up."""
    _ip("-n", wire.client_ns, "link", "set", wire.client_if, "up")
    for address in wire.clients:
        _ip("-n", wire.client_ns, "addr", "add", f"{address}/24", "dev", wire.client_if)


def sockets_in(namespace: str, count: int = 1, **kind: int) -> list[socket.socket]:
    """Sockets that belong to `namespace`, unconnected; `kind` as for socket.socket().

    A process that lives there opens them and passes them on: a socket stays where it was opened.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = [str(theirs.fileno()), str(count), json.dumps(kind)]
        argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", _OPENER, *arguments]
        subprocess.run(argv, check=True, env=_environment(), pass_fds=[theirs.fileno()])
        descriptors = socket.recv_fds(ours, 1, count)[1]
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def move_flow(wire: Wire, queue: int | None) -> None:
    """Moves every TCP flow of the client to `queue`, from its next segment with nothing in flight.

    By XPS: all CPUs of the sender map to one TX queue, which is the RX queue of a veth's peer.
    None gives the choice back to each socket's hash. UDP sockets keep the queue they have.
    """
    mask = f"{(1 << (os.cpu_count() or 1)) - 1:x}"
    files = [f"/sys/class/net/{wire.client_if}/queues/tx-{q}/xps_cpus" for q in range(wire.queues)]
    script = [f"echo {mask if q == queue else 0} > {path}" for q, path in enumerate(files)]
    run_in_client(wire, ["sh", "-ec", "; ".join(script)])


@contextmanager
def losing(wire: Wire) -> Iterator[None]:
    """Loses all that the client sends meanwhile: a Linux sender then changes queues by itself.

    Each retransmission timeout gives a socket a new hash (net.core.txrehash), so after about a
    second most flows that had data in flight arrive on another queue.
    """
    neighbour = ["neigh", "replace", wire.service, "dev", wire.client_if]
    _ip("-n", wire.client_ns, *neighbour, "lladdr", DEAD_MAC, "nud", "permanent")
    try:
        yield
    finally:
        _ip("-n", wire.client_ns, "neigh", "del", wire.service, "dev", wire.client_if)


def listening(wire: Wire) -> list[str]:
    """TCP ports that the server's kernel itself listens on, as `ss -ltn` would show them."""
    rows = run_in_server(wire, ["cat", "/proc/net/tcp", "/proc/net/tcp6"]).splitlines()
    return [row.split()[1] for row in rows if row.split()[3:4] == ["0A"]]


def processes(namespace: str) -> list[int]:
    """Processes that live in a namespace."""
    return [int(pid) for pid in _ip("netns", "pids", namespace, check=False).stdout.split()]


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _path()}


def _run(argv: Sequence[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, env=_environment(), check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return _run(["ip", *words], check)


def _namespace(name: str) -> None:
    _ip("netns", "add", name)
    quiet = [f"net.ipv6.conf.{scope}.disable_ipv6" for scope in ("all", "default")]
    for path in (f"/proc/sys/{each.replace('.', '/')}" for each in quiet):
        _ip("netns", "exec", name, "sh", "-c", f"echo 1 > {path} 2>/dev/null || true")
    _ip("-n", name, "link", "set", "lo", "up")


def _build(wire: Wire, mtu: int) -> None:
    count = ["numtxqueues", str(wire.queues), "numrxqueues", str(wire.queues)]
    for namespace in (wire.server_ns, wire.client_ns):
        _namespace(namespace)
    this = ["name", wire.client_if, "mtu", str(mtu), *count]
    peer = ["name", wire.server_if, "netns", wire.server_ns, "mtu", str(mtu), *count]
    _ip("-n", wire.client_ns, "link", "add", *this, "type", "veth", "peer", *peer)
    _ip("-n", wire.server_ns, "link", "set", wire.server_if, "up")
    host_side(wire)


def _remove(namespace: str) -> None:
    for pid in processes(namespace):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _ip("netns", "del", namespace, check=False)


def _remove_stale() -> None:
    for line in _ip("netns", "list", check=False).stdout.splitlines():
        name = line.split()[0] if line else ""
        fields = name.split("-")
        stale = len(fields) > 2 and fields[0] == PREFIX and fields[1].isdigit()
        if stale and not Path(f"/proc/{fields[1]}").exists():
            _remove(name)
