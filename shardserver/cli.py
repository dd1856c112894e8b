"""The command line. Start reading at `main`; only modules named cli* print.

An error is one line on standard error and a hint; with --json it is a document on standard
output. Exit codes: shardserver.errors.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from shardserver import cli_parser, protocol
from shardserver.errors import InterruptedByUserError, ShardserverError, from_os_error


def _start(args: Any) -> int:
    from shardserver import cli_start

    return cli_start.start(args)


def _show(name: str) -> Callable[[Any], int]:
    def call(args: Any) -> int:
        from shardserver import cli_show

        command: Callable[[Any], int] = getattr(cli_show, name)
        return command(args)

    return call


def _load(args: Any) -> int:
    from shardserver import cli_load

    return cli_load.load(args)


def _demo(args: Any) -> int:
    from shardserver import cli_demo

    return cli_demo.demo_command(args)


def _host(module: str, name: str) -> Callable[[Any], int]:
    def call(args: Any) -> int:
        command: Callable[[Any], int] = getattr(importlib.import_module(module), name)
        return command(args)

    return call


def _tools(args: Any) -> int:
    from shardserver import cli_tools

    return cli_tools.tools(args)


def _netmap_abi(args: Any) -> int:
    from shardserver import cli_netmap

    return cli_netmap.netmap_abi(args)


# Imported when called: -h and a wrong option need none of it.
_COMMANDS: dict[str, Callable[[Any], int]] = {
    "start": _start,
    "stop": _show("stop"),
    "status": _show("status"),
    "stats": _show("stats"),
    "restart": _show("restart"),
    "ss": _host("shardserver.cli_ss", "ss"),
    "load": _load,
    "demo": _demo,
    "devices": _host("shardserver.cli_nic", "devices"),
    "nic": _host("shardserver.cli_nic", "nic"),
    "confirm": _host("shardserver.cli_nic", "confirm"),
    "doctor": _host("shardserver.cli_doctor", "doctor_command"),
    "tools": _tools,
    "netmap-abi": _netmap_abi,
}


def report(error: ShardserverError, as_json: bool) -> int:
    """Prints an error; returns its exit code. Where no document can be written, the lines are."""
    if as_json:
        with contextlib.suppress(OSError):
            print(protocol.pretty(protocol.error_document(error)), flush=True)
            return error.exit_code
    with contextlib.suppress(OSError):
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
    _drop_output()
    return error.exit_code


def _drop_output() -> None:
    """What has no reader, or no room, is dropped here: the interpreter's end would try again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(argv: Sequence[str]) -> int:
    if not argv:
        print(cli_parser.SUMMARY)
        return 0
    args = cli_parser.parse(argv)
    if args.command is None:
        print(cli_parser.SUMMARY)
        return 0
    return _COMMANDS[args.command](args)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except ShardserverError as error:
        return report(error, as_json)
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        return report(from_os_error(error), as_json)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # ^C stands at the end of a line
        return report(InterruptedByUserError("interrupted"), as_json)
