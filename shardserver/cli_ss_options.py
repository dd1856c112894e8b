"""The options of `ss`: those of Linux's ss that mean something here, but for -n."""

from __future__ import annotations

import argparse
from typing import Any

_DESCRIPTION = """\
Lists the connections of all shards. It reads their memory, so a worker that
hangs hides nothing; a connection is shown as its worker committed it last.
Numbers are always shown as numbers: -n names the instance, as with every
command. Without -a, -l or a state in the filter: all but listening, syn-recv
and time-wait. FILTER is that of ss: state NAME, exclude NAME, sport and dport
with = != < > <= >= and :PORT, src and dst with ADDRESS[/PREFIX][:PORT],
joined by and, or, not, ( ).

  shardserver ss -i state established dport = :51544
  shardserver ss -a '( src 10.0.0.1:80 or sport = :7 ) and not dst 10.0.0.0/8'"""


def add(commands: Any, epilog: str) -> argparse.ArgumentParser:
    """Adds the command, but for the options that every client has."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "ss",
        help="connections of each shard",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="shardserver ss [options] [FILTER]",
        epilog=epilog,
    )
    parser.add_argument("filter", nargs="*", metavar="FILTER", help=argparse.SUPPRESS)
    parser.add_argument("-t", "--tcp", action="store_true", help="TCP: all that there is")
    parser.add_argument("-a", "--all", action="store_true", help="in every state")
    parser.add_argument("-l", "--listening", action="store_true", help="services that listen")
    parser.add_argument("-i", "--info", action="store_true", help="with what TCP knows of it")
    parser.add_argument("-o", "--options", action="store_true", help="with its timer")
    parser.add_argument("-s", "--summary", action="store_true", help="only count, by state")
    parser.add_argument("-H", "--no-header", action="store_true", help="without the first line")
    parser.add_argument("--shard", type=int, metavar="N", help="only this one (default: all)")
    return parser
