"""`shardserver start`: settings from everywhere, in the foreground or as a daemon."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from shardserver import client, config, errors, instance, logs, process, protocol
from shardserver.config import Config
from shardserver.errors import ShardserverError, UsageError

_POSITIONALS = {"interface": "iface", "mac": "mac", "ip": "ip", "port": "port"}


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags, with the original's four positionals in their places."""
    flags = dict(vars(args))
    for place, name in _POSITIONALS.items():
        value = flags.pop(f"at_{place}")
        if value is not None and flags.get(name) is not None:
            raise UsageError(f"{name} is given twice: {value} and --{name} {flags[name]}")
        flags[name] = value if value is not None else flags.get(name)
    return flags


def read_config(args: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """Merges flags, environment and file. A wrong flag is a usage error, not the file's."""
    flags = config.from_flags(flags_of(args))
    file = config.read_file(args.config) if args.config else {}
    return config.build(flags, config.from_environment(environment), file)


def _orchestrator() -> Any:
    """The package `orchestrator`; a stranger's of the same name is refused."""
    import orchestrator

    here = Path(__file__).resolve().parent.parent
    found = Path(str(orchestrator.__file__)).resolve().parent.parent
    if found != here or not hasattr(orchestrator, "run"):
        raise ShardserverError(
            f"another distribution owns the package orchestrator ({found})",
            "uninstall it, or install shardserver into an environment of its own",
        )
    from orchestrator import main

    return main


def _dry_run(made: Config, as_json: bool) -> None:
    main = _orchestrator()
    plan = main.make_plan(made)
    if as_json:
        print(protocol.pretty(main.plan.document(plan, made)))
    else:
        print("\n".join(main.plan.render(plan, made)))


def _serve(
    made: Config,
    on_ready: Callable[[], None] = lambda: None,
    reopen_logs: Callable[[], None] = lambda: None,
    in_child: Callable[[], None] = lambda: None,
) -> None:
    main = _orchestrator()
    logs.setup(made.log_format, made.log_level)
    main.run(made, os.environ, main.Callbacks(on_ready, reopen_logs, in_child))


class _Report(msgspec.Struct, frozen=True):
    """What a daemon tells its starter: it serves, or why not."""

    word: str = ""
    message: str = ""
    hint: str = ""


def _log_to(path: Path) -> Callable[[], None]:
    def reopen() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    return reopen


def _check_log(path: Path) -> None:
    """Opens it while there is a terminal to say why it cannot be."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    except OSError as error:
        kind = errors.NoPermissionError if isinstance(error, PermissionError) else ShardserverError
        raise kind(
            f"the log {path} cannot be opened: {error.strerror}", "give another --log-file"
        ) from None


def _daemon(made: Config, report_fd: int, log: Path) -> int:
    """The daemon's process."""
    reported = False

    def report(what: _Report) -> None:
        nonlocal reported
        if not reported:
            reported = True
            os.write(report_fd, protocol.encode(what))
            os.close(report_fd)

    def forget() -> None:
        if not reported:
            os.close(report_fd)

    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    reopen = _log_to(log)
    try:
        reopen()
        _serve(made, lambda: report(_Report()), reopen, forget)
    except ShardserverError as error:
        failure = error
    except OSError as error:
        failure = errors.from_os_error(error)
    else:
        return 0
    logs.get().error("%s", failure.message)
    report(_Report(failure.word, failure.message, failure.hint))
    return failure.exit_code


def _wait_for_report(read_fd: int, log: Path) -> None:
    """Returns when the daemon serves; raises its failure."""
    data = os.read(read_fd, protocol.MESSAGE_MAX)  # one write, far below PIPE_BUF
    os.close(read_fd)
    if not data:
        raise errors.BootFailedError("the server ended while it started", f"its log is {log}")
    report: _Report = protocol.decode(data, _Report)
    if report.word:
        raise errors.from_word(report.word, report.message, report.hint)


def _start_daemon(made: Config, as_json: bool) -> int:
    paths = client.paths_of(made.name, os.environ)
    instance.make_directory(paths.directory)
    log = Path(made.log_file).absolute() if made.log_file else paths.log
    _check_log(log)
    read_fd, write_fd = os.pipe()
    pid = process.daemonize()
    if pid == 0:
        os.close(read_fd)
        os._exit(_daemon(made, write_fd, log))
    os.close(write_fd)
    _wait_for_report(read_fd, log)
    if as_json:
        print(protocol.pretty({"schema": 1, "instance": made.name, "pid": pid, "log": str(log)}))
    else:
        print(f'server "{made.name}" is ready (pid {pid}), log {log}')
    return 0


def start(args: argparse.Namespace) -> int:
    """Runs a server; returns the exit code."""
    made = read_config(args, os.environ)
    if args.dry_run:
        _dry_run(made, args.json)
        return 0
    if args.daemon:
        return _start_daemon(made, args.json)
    sys.stdout.flush()
    _serve(made)
    return 0
