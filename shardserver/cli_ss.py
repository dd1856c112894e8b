"""`ss`: connections of all shards, read by control from the shards' memory, part by part."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from shardserver import protocol, ss_filter, ss_view
from shardserver.cli_show import paths_for, table
from shardserver.client import Client
from shardserver.ss_view import Connection

_CHANGING = "{} connections are not listed: they changed each time they were looked at"


class _Listing:
    """Asks for the parts of each shard in turn, and counts what could not be read."""

    def __init__(self, server: Client, args: argparse.Namespace) -> None:
        self._server = server
        self.status: Mapping[str, Any] = server.request("status")
        known = [shard["id"] for shard in self.status["shards"]]
        self.shards: list[int] = known if args.shard is None else [args.shard]
        self._filter = ss_filter.parse(args.filter, _usual(args))
        self.changing = 0

    def connections(self) -> Iterator[Connection]:
        """Those that the filter matches, in the order of shards and records."""
        for shard in self.shards:
            start = 0
            while True:
                part = self._server.request("connections", **{"shard": shard, "from": start})
                self.changing += part["changing"]
                yield from filter(self._filter.matches, ss_view.connections(part))
                start = part["next"]
                if not start:
                    break


def _usual(args: argparse.Namespace) -> frozenset[str]:
    if args.all:
        return ss_filter.ALL
    return ss_filter.LISTENING if args.listening else ss_filter.USUAL


def ss(args: argparse.Namespace) -> int:
    """Prints the connections that the filter matches, as they come."""
    ss_filter.parse(args.filter, _usual(args))  # a wrong one is said before anybody is asked
    with Client(paths_for(args), args.timeout) as server:
        listing = _Listing(server, args)
        if args.summary:
            _print_summary(listing, args.json)
        elif args.json:
            _print_documents(listing)
        else:
            _print_lines(listing, args)
    if listing.changing and not args.json:
        print(_CHANGING.format(listing.changing), file=sys.stderr)
    return 0


def _print_lines(listing: _Listing, args: argparse.Namespace) -> None:
    if not args.no_header:
        print(ss_view.HEAD)
    for connection in listing.connections():
        timer = ss_view.timer_text(connection) if args.options else ""
        print(f"{ss_view.line(connection)} {timer}".rstrip())
        if args.info and connection.state != "listening":
            print(ss_view.info_text(connection))


def _print_documents(listing: _Listing) -> None:
    found = [ss_view.document(connection) for connection in listing.connections()]
    head = ss_view.head_document(listing.status)
    print(protocol.pretty({**head, "connections": found, "changing": listing.changing}))


def _print_summary(listing: _Listing, as_json: bool) -> None:
    counts: dict[int, Counter[str]] = {shard: Counter() for shard in listing.shards}
    for connection in listing.connections():
        counts[connection.shard][connection.state] += 1
    if as_json:
        head = ss_view.head_document(listing.status)
        summary = ss_view.summary_document(counts)
        print(protocol.pretty({**head, **summary, "changing": listing.changing}))
    else:
        print(table(ss_view.summary_rows(counts)))
