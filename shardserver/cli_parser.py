"""The command line's grammar: commands, options made from the settings table, did-you-mean."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from shardserver import __version__, config
from shardserver.errors import EXIT_CODES, UsageError

SUMMARY = """\
shardserver: a TCP server on network-card rings, one pinned worker per ring.

  shardserver demo                  software NIC, verified echo; no root
  shardserver start --iface eth0    serve on it; --device mem:NAME needs none
  shardserver devices | doctor      interfaces, and what keeps them from serving
  shardserver status | stats | ss   what runs, how fast, each connection
  shardserver load 10.0.0.1         many verified connections against a server
  shardserver tools sink|gen|…      single rings: count, generate, ping
  shardserver COMMAND -h            every option"""


SECONDS_MIN, SECONDS_MAX = 0.1, 86400.0


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of ending the process, with the nearest known word."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """argparse's errors in our words."""
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found and "COMMAND" in message:
            raise unknown_command(found[1], re.findall(r"[\w-]+", found[2]))
        choice = re.fullmatch(
            r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message
        )
        if choice:
            known = ", ".join(re.findall(r"[\w-]+", choice[3]))
            message = f'{_long(choice[1])} "{choice[2]}": expected one of {known}'
        named = re.fullmatch(r"argument (\S+): (\".*\": expected .*)", message)
        if named:
            message = f"{_long(named[1])} {named[2]}"
        wrong = re.fullmatch(r"argument (.+): invalid (?:int|float) value: '(.*)'", message)
        if wrong:
            message = f'{_long(wrong[1])} "{wrong[2]}": expected a number'
        raise UsageError(message, f"{self.prog} -h shows what it takes")

    def options(self) -> list[str]:
        """Every long option."""
        return [name for action in self._actions for name in action.option_strings]


def _long(name: str) -> str:
    """-w/--watch as it is called in full."""
    return name.rpartition("/")[2] or name


def _seconds(text: str) -> float:
    """Argument type: a time to wait. argparse names the option."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(
            f'"{text}": expected seconds from {SECONDS_MIN:g} to {SECONDS_MAX:g}'
        )
    return seconds


def _count(text: str) -> int:
    """Argument type: how many times."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f'"{text}": expected a number from 0')
    return int(text)


def unknown_command(word: str, commands: Sequence[str]) -> UsageError:
    """The error for a word that is no command: what it may have meant."""
    meant = [command for command in commands if word and command.startswith(word)]
    if meant:
        return UsageError(f'"{word}" is not a command', f"did you mean {', '.join(meant)}?")
    near = difflib.get_close_matches(word, commands, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"commands: {', '.join(commands)}"
    return UsageError(f'"{word}" is not a command', hint)


def unknown_option(word: str, parser: Parser) -> UsageError:
    """The error for an option that the command does not have."""
    option = word.partition("=")[0]
    if not option.startswith("-"):
        return UsageError(f'unexpected argument "{word}"', f"{parser.prog} -h shows what it takes")
    near = config.suggest(option, parser.options()).removeprefix("; did you mean ").strip('"?')
    hint = f" (did you mean {near}?)" if near else ""
    return UsageError(
        f"unrecognized option {option}{hint}", f"{parser.prog} -h shows what it takes"
    )


def _exit_codes() -> str:
    codes = "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items())
    return textwrap.fill(f"exit codes: {codes}", 78)  # some parsers print it as it is


def _instance_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--name", metavar="NAME", help="instance (default: default)")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")


def _timeout_option(parser: argparse.ArgumentParser, seconds: float) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=seconds,
        metavar="SEC",
        help=f"how long to wait for an answer (default: {seconds:g})",
    )


def _add_setting(group: argparse._ArgumentGroup, setting: config.Setting) -> None:
    names = ["-n", setting.flag] if setting.name == "name" else [setting.flag]
    default = f" (default: {setting.default})" if setting.default else ""
    options: dict[str, Any] = {"metavar": setting.metavar, "help": setting.help + default}
    if setting.repeats:
        options["action"] = "append"
    if setting.metavar == "BOOL":
        options.update(nargs="?", const="true")
    group.add_argument(*names, dest=setting.name, **options)


def _add_start(commands: Any) -> None:
    parser = commands.add_parser(
        "start",
        help="serve until stopped",
        description="Serves until stopped: SIGTERM drains, SIGINT is quick, the next is at once. "
        "Settings come from flags, then SHARDSERVER_* variables, then the file.",
        epilog=_exit_codes(),
        usage="shardserver start [INTERFACE [MAC [IP [PORT]]]] [options]",
    )
    for place in ("interface", "mac", "ip", "port"):
        parser.add_argument(f"at_{place}", nargs="?", metavar=place.upper(), help=argparse.SUPPRESS)
    parser.add_argument("-c", "--config", metavar="FILE", help="TOML file with settings")
    parser.add_argument("-D", "--daemon", action="store_true", help="return when it serves")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--json", action="store_true", help="the plan or an error as JSON")
    for section in config.SECTIONS:
        group = parser.add_argument_group(f"[{section}]")
        for setting in config.SETTINGS:
            if setting.section == section:
                _add_setting(group, setting)


def _add_clients(commands: Any) -> None:
    stop = commands.add_parser("stop", help="drain and stop", epilog=_exit_codes())
    _instance_options(stop)
    stop.add_argument("--quick", action="store_true", help="reset connections instead")
    stop.add_argument("--now", action="store_true", help="kill the workers")
    _timeout_option(stop, 60.0)
    status = commands.add_parser("status", help="what runs", epilog=_exit_codes())
    _instance_options(status)
    _timeout_option(status, 5.0)
    stats = commands.add_parser("stats", help="counters of each shard", epilog=_exit_codes())
    _instance_options(stats)
    stats.add_argument(
        "-w",
        "--watch",
        nargs="?",
        type=_seconds,
        const=1.0,
        metavar="SEC",
        help="rates, repeatedly",
    )
    stats.add_argument(
        "-v", "--verbose", action="store_true", help="also how many frames each turn received"
    )
    stats.add_argument(
        "--count", type=_count, default=0, metavar="N", help="stop after N intervals"
    )
    _timeout_option(stats, 5.0)
    restart = commands.add_parser(
        "restart", help="replace workers; connections live on", epilog=_exit_codes()
    )
    _instance_options(restart)
    restart.add_argument("shards", nargs="*", type=int, metavar="SHARD", help="default: all")
    _timeout_option(restart, 5.0)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo", help="a server and its clients, in seconds", epilog=_exit_codes()
    )
    demo.add_argument("--real", action="store_true", help="with Linux's own TCP as the client")
    demo.add_argument("--json", action="store_true", help="the result as JSON")
    demo.add_argument("--workers", type=int, default=0, metavar="N", help="shards (default: 2)")
    engines = ("native", "picotcp")
    demo.add_argument(
        "--engine", choices=engines, default="native", help="TCP/IP stack (default: native)"
    )
    demo.add_argument(
        "-c", "--connections", type=int, default=200, metavar="N", help="clients (default: 200)"
    )
    demo.add_argument(
        "-d", "--duration", default="3s", metavar="SECONDS", help="3, 500ms (default: 3s)"
    )
    demo.add_argument(
        "-s", "--size", default="64", metavar="BYTES", help="of a message (default: 64)"
    )


def make() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    from shardserver import cli_nic_options, cli_ss_options
    from shardserver.load import add_arguments as add_load_arguments
    from shardserver.toolbox import add_arguments as add_tool_arguments

    parser = Parser(
        prog="shardserver",
        description=SUMMARY,
        usage="shardserver COMMAND [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_exit_codes(),
    )
    parser.add_argument("--version", action="version", version=f"shardserver {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=Parser, prog="shardserver"
    )
    _add_start(commands)
    _add_clients(commands)
    sockets = cli_ss_options.add(commands, _exit_codes())
    _instance_options(sockets)
    _timeout_option(sockets, 5.0)
    add_load_arguments(
        commands.add_parser("load", help="verified load against a server", epilog=_exit_codes())
    )
    _add_demo(commands)
    cli_nic_options.add(commands, _exit_codes())
    add_tool_arguments(commands.add_parser("tools", help="loops on single rings"))
    netmap = commands.add_parser(
        "netmap-abi",
        help="netmap's layouts, and its module's parameters and limits",
        epilog=_exit_codes(),
    )
    netmap.add_argument("--json", action="store_true", help="JSON on standard output")
    return parser, commands.choices


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; UsageError says what is wrong with it."""
    parser, commands = make()
    option = argv[0].partition("=")[0] if argv else ""
    if option.startswith("-") and option not in parser.options():
        raise UsageError(
            f"{option} is no option before a command{config.suggest(option, parser.options())}",
            "shardserver COMMAND [options]; shardserver -h lists the commands",
        )
    found, rest = parser.parse_known_args(argv)
    if rest:
        raise unknown_option(rest[0], commands.get(found.command, parser))
    return found
