"""`shardserver load`: prints what runs, how it goes, and the report."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shardserver import client, instance, protocol, values
from shardserver.errors import ShardserverError
from shardserver.load import LoadRequest, build, from_arguments, render, run
from shardserver.load.report import counted, progress_line, succeeded

LOOK_S = 0.5  # for an answer of a server that may be the target's


class Progress:
    """A live line on a terminal, a line a second elsewhere; on standard error."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._last_s = 0.0

    def show(self, total: dict[str, int], seconds: float) -> None:
        """Draws the line anew, or adds one."""
        if self._tty:
            print(f"\r\033[K{progress_line(total, seconds)}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._last_s >= 1.0:
            self._last_s = time.monotonic()
            print(progress_line(total, seconds), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves a clean line behind."""
        if self._tty:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def shards_of(name: str) -> list[dict[str, Any]]:
    """The shards of an instance, [] without a name; raises when it does not run."""
    if not name:
        return []
    with client.Client(client.paths_of(name, os.environ)) as server:
        return list(server.request("stats")["shards"])


def serves(status: Mapping[str, Any], request: LoadRequest) -> bool:
    """Whether a server, by its status, is the one that a load is for. Pure."""
    at_port = any(name.endswith(f":{request.tcp_port}") for name in status["services"])
    address = status["address"].partition("/")[0] == values.ip_text(request.ip)
    card = f"mem:{request.device.removesuffix('^')}"  # ^ is the host of the card NAME*
    device = status["device"].removesuffix("*") == card if request.device else True
    return at_port and address and device


def instance_for(request: LoadRequest) -> str:
    """The name of this user's instance that serves the target; "" where none answers for it."""
    directory = instance.runtime_dir(os.environ, os.geteuid())
    for lock in sorted(directory.glob("*.pid")):
        if _answers_for(request, client.paths_of(lock.stem, os.environ)):
            return lock.stem
    return ""


def _answers_for(request: LoadRequest, paths: instance.Paths) -> bool:
    try:
        with client.Client(paths, LOOK_S) as server:
            return serves(server.request("status"), request)
    except ShardserverError:
        return False


def execute(request: LoadRequest) -> dict[str, Any]:
    """Runs a load with progress; returns its document."""
    progress = Progress()
    try:
        outcome = run(request, progress.show, lambda: shards_of(request.instance))
    finally:
        progress.end()
    return build(outcome)


def load(args: argparse.Namespace) -> int:
    """Runs the command; 1 when a byte was wrong or a connection was lost."""
    request = from_arguments(args)
    request = replace(request, instance=request.instance or instance_for(request))
    if not args.json:
        print(
            f"load {request.target} · {counted(request.connections, 'connection')}"
            f" · {counted(request.size, 'byte')} · pipeline {request.pipeline}"
            f" · {counted(request.processes, 'process')}",
            flush=True,
        )
    document = execute(request)
    print(protocol.pretty(document) if args.json else render(document))
    return 0 if succeeded(document) else 1
