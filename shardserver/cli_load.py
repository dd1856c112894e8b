"""`shardserver load`: prints what runs, how it goes, and the report."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from shardserver import client, protocol
from shardserver.load import LoadRequest, build, from_arguments, render, run
from shardserver.load.report import progress_line, succeeded


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
    if not args.json:
        print(
            f"load {request.target} · {request.connections} connections · {request.size} bytes"
            f" · pipeline {request.pipeline} · {request.processes} processes",
            flush=True,
        )
    document = execute(request)
    print(protocol.pretty(document) if args.json else render(document))
    return 0 if succeeded(document) else 1
