"""`shardserver tools`: runs a loop of the C core, prints a line a second and a summary."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import Any

from shardserver import errors, protocol, toolbox
from shardserver.native_tools import Tool, ToolOptions, ToolStats

STEP_S = 0.02


class _Ending:
    """Signals that ask a tool to end; the handler only notes them."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _note(self, _number: int, _frame: object) -> None:
        self.asked = True

    def restore(self) -> None:
        """Puts the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _watch(tool: Tool, ending: _Ending, quiet: bool) -> None:
    """Until the threads have ended, by themselves or because a signal asked for it."""
    before, shown = tool.read(), time.monotonic()
    while not ending.asked and tool.read().running:
        time.sleep(STEP_S)
        now = time.monotonic()
        if now - shown >= 1.0 and not quiet:
            stats = tool.read()
            line = toolbox.second_line(tool.options.kind, before, stats, now - shown)
            print(line, flush=True)
            before, shown = stats, now
    tool.stop()


def _seconds(stats: ToolStats) -> float:
    return (stats.counters["ended_us"] - stats.counters["started_us"]) / 1e6


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system


def _wait(ending: _Ending, seconds: float) -> None:
    """For a link that needs a while after its card was opened."""
    end = time.monotonic() + seconds
    while not ending.asked and time.monotonic() < end:
        time.sleep(min(STEP_S, max(0.0, end - time.monotonic())))


def execute(
    options: ToolOptions, ending: _Ending, quiet: bool = True, wait_s: float = 0.0
) -> dict[str, Any]:
    """Runs a tool to its end; its document. Raises when a port died."""
    with Tool(options) as tool:
        if not quiet:
            for place in range(len(set(options.ports))):
                print(tool.banner(place), flush=True)
        _wait(ending, wait_s)
        began = _cpu_s()
        tool.start()
        _watch(tool, ending, quiet)
        stats = tool.read()
        document = toolbox.build(options, stats, _seconds(stats), _cpu_s() - began)
    if stats.error:
        if not quiet:
            print(toolbox.render(document))
        ports = " and ".join(options.ports)
        raise errors.from_errno(
            stats.error, f"{ports}: {os.strerror(stats.error)}", "its other side may have ended"
        )
    return document


def tools(args: argparse.Namespace) -> int:
    """Runs the command; 1 when ping had no answer at all."""
    options = toolbox.from_arguments(args)
    ending = _Ending()
    try:
        document = execute(options, ending, args.json, args.wait)
    finally:
        ending.restore()
    print(protocol.pretty(document) if args.json else toolbox.render(document))
    sys.stdout.flush()
    return 1 if options.kind == "ping" and not document["answered"] else 0
