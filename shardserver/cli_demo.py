"""`shardserver demo`: a server and its clients in seconds, on the software NIC or over veth."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from shardserver import cli_load, demo, native, protocol, values
from shardserver.errors import ShardserverError, UsageError
from shardserver.load import LoadRequest, render
from shardserver.load.options import checked, default_processes
from shardserver.load.report import counted, human, succeeded

SERVICES = ("discard:9", "daytime:13", "chargen:19", "http:80")
QUEUES = 4


def _value(option: str, text: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(text)
    except ValueError as wrong:
        raise UsageError(f'{option} "{text}": {wrong}', "shardserver demo -h") from None


def _request(args: argparse.Namespace, name: str, device: str) -> LoadRequest:
    duration_us = _value("--duration", args.duration, values.parse_seconds_us)
    size = _value("--size", args.size, values.parse_size)
    if not 1 <= args.connections <= 100_000:
        raise UsageError(f"--connections {args.connections}: must be 1 to 100000")
    processes = min(default_processes(args.connections), 2)
    request = LoadRequest(
        device=device,
        ip=int(ipaddress.IPv4Address(demo.SERVICE_IP)),
        connections=args.connections,
        duration_us=duration_us,
        size=size,
        processes=processes,
        instance=name,
    )
    return checked(request)


def _workers(args: argparse.Namespace, default: int) -> int:
    if not 0 <= args.workers <= 64:
        raise UsageError(f"--workers {args.workers}: must be 1 to 64")
    return args.workers or default


def _final(document: dict[str, Any], args: argparse.Namespace, hint: str) -> int:
    if args.json:
        print(protocol.pretty(document))
    else:
        print(render(document))
        if succeeded(document):
            print(f"{document['messages']:,} messages, 100 % byte-exact.\n{hint}")
    return 0 if succeeded(document) else 1


def _banner(args: argparse.Namespace, text: str) -> None:
    if not args.json:
        print(text, flush=True)


def _end_as_by_ctrl_c() -> None:
    """On the other signals that end a program, too: its server and files are put away."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _on_mem(args: argparse.Namespace) -> int:
    _end_as_by_ctrl_c()
    workers = _workers(args, 2)
    name = f"demo-{os.getpid()}"
    started = time.monotonic()
    with demo.server(f"mem:{name}", workers, SERVICES, args.engine) as running:
        _banner(
            args,
            f"shardserver demo · device {running.device} (software NIC, no root)"
            f" · {counted(workers, 'shard')}\n"
            f"engine {running.engine} · ready in {time.monotonic() - started:.1f} s"
            f" · echo on {demo.SERVICE_IP}:7 · {counted(args.connections, 'client')}",
        )
        document = cli_load.execute(_request(args, running.name, name))
    return _final(document, args, "Next: shardserver demo --real · shardserver start -h")


def _output(client: subprocess.Popen[bytes]) -> bytes:
    """What a client prints; one that is interrupted still sums up."""
    while True:
        try:
            return client.communicate()[0]
        except KeyboardInterrupt:
            client.send_signal(signal.SIGINT)


def _real_load(args: argparse.Namespace, network: demo.Network, name: str) -> dict[str, Any]:
    """The client is a process of its own in the other namespace: Linux's own TCP."""
    command = [sys.executable, "-m", "shardserver", "load", f"{demo.SERVICE_IP}:7", "--json"]
    command += ["-c", str(args.connections), "-d", args.duration, "-s", args.size, "-n", name]
    client = subprocess.Popen(
        network.inside(*command),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the demo's, which passes it on
        preexec_fn=native.die_with_parent,
    )
    try:
        document: dict[str, Any] = json.loads(_output(client))
    except ValueError:
        raise ShardserverError(f"the client ended with {client.returncode}") from None
    if "error" in document:
        raise ShardserverError(document["error"]["message"], document["error"].get("hint", ""))
    return document


def _invitation(network: demo.Network) -> str:
    enter = f"nsenter -t {network.pid} -U --preserve-credentials -n"
    return (
        "while it runs, from another terminal:\n"
        f"  {enter} nc {demo.SERVICE_IP} 7\n"
        f"  {enter} curl http://{demo.SERVICE_IP}/"
    )


def _real(args: argparse.Namespace) -> int:
    workers = _workers(args, 2)
    with (
        demo.network(QUEUES) as network,
        demo.server(f"packet:{demo.SERVER_IF}", workers, SERVICES, args.engine) as running,
    ):
        _banner(
            args,
            f"shardserver demo --real · device {running.device} (AF_PACKET on veth, {QUEUES}"
            f" queues)\n{counted(workers, 'shard')} · engine {running.engine}"
            f" · client: Linux's own TCP, {counted(args.connections, 'connection')}\n"
            f"{_invitation(network)}",
        )
        document = _real_load(args, network, running.name)
    shares = ", ".join(f"shard {s['id']}: {human(s['rx_frames'])}" for s in document["shards"])
    return _final(document, args, f"Received frames: {shares}")


def _arguments(args: argparse.Namespace) -> list[str]:
    words = ["--real", "--workers", str(args.workers), "-c", str(args.connections)]
    words += ["-d", args.duration, "-s", args.size, "--engine", args.engine]
    return [*words, "--json"] if args.json else words


def demo_real(args: argparse.Namespace) -> int:
    """In namespaces of its own: outside it only waits for the demo within."""
    _end_as_by_ctrl_c()
    code = demo.enter_namespaces(_arguments(args))
    return _real(args) if code is None else code


def demo_command(args: argparse.Namespace) -> int:
    """Runs the command; 0 when every byte was right."""
    _workers(args, 2)
    _request(args, "", "")  # what is wrong is said before a server is started
    return demo_real(args) if args.real else _on_mem(args)
