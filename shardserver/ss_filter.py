"""The filter of `shardserver ss`, in the words of Linux's ss. Pure. Start reading at `parse`.

    FILTER  := or
    or      := and {(or | "|" | "||") and}
    and     := not {[and | "&" | "&&"] not}
    not     := {not | "!"} term
    term    := "(" or ")" | states | (sport | dport) OP [:]PORT | (src | dst) [= | !=] HOST
    states  := (state | exclude) NAME {(state | exclude) NAME}
    HOST    := (ADDRESS[/PREFIX] | "*") [:PORT] | :PORT

As in ss, states that follow one another are taken together: `state a state b` is either.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Protocol

from shardserver import config
from shardserver.errors import UsageError

CONNECTED = frozenset(
    {
        "established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait",
        "close-wait", "last-ack", "closing",
    }
)  # fmt: skip
LISTENING = frozenset({"listening"})
ALL = CONNECTED | LISTENING
BUCKET = frozenset({"syn-recv", "time-wait"})
USUAL = CONNECTED - BUCKET  # without -a, -l and states in the filter
STATES = {
    **{name: frozenset({name}) for name in sorted(ALL)},
    "listen": LISTENING,
    "all": ALL,
    "connected": CONNECTED,
    "synchronized": CONNECTED - {"syn-sent"},
    "bucket": BUCKET,
    "big": ALL - BUCKET,
    "closed": frozenset(),  # there are no sockets without a connection
    "unconnected": frozenset(),
}
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "=": eq, "==": eq, "eq": eq, "!=": ne, "ne": ne, "neq": ne, "<": lt, "lt": lt, ">": gt,
    "gt": gt, "<=": le, "le": le, "leq": le, ">=": ge, "ge": ge, "geq": ge,
}  # fmt: skip
_AND = ("and", "&", "&&")
_OR = ("or", "|", "||")
_NOT = ("not", "!")
_TERMS = ("state", "exclude", "sport", "dport", "src", "dst")
_TOKEN = re.compile(r"[()]|[!=<>]=|[=<>!]|&&?|\|\|?|[^\s()=<>!&|]+")
_DEPTH_MAX = 64
_HINT = "for example: state established '( dport = :51544 or src 10.0.0.0/8 )'; see ss(8)"


class Connection(Protocol):
    """What a filter looks at. Addresses are numbers."""

    @property
    def state(self) -> str: ...
    @property
    def laddr(self) -> int: ...
    @property
    def lport(self) -> int: ...
    @property
    def raddr(self) -> int: ...
    @property
    def rport(self) -> int: ...


class Term(Protocol):
    """A part of a filter, or all of it."""

    def matches(self, connection: Connection) -> bool:
        """Whether the connection is one of those asked for."""
        ...


@dataclass(frozen=True)
class States:
    """The connection is in one of these states."""

    names: frozenset[str]

    def matches(self, connection: Connection) -> bool:
        """See Term."""
        return connection.state in self.names


@dataclass(frozen=True)
class Port:
    """Our port (sport) or the peer's (dport) compared with a number."""

    ours: bool
    operator: str
    port: int

    def matches(self, connection: Connection) -> bool:
        """See Term."""
        port = connection.lport if self.ours else connection.rport
        return _OPERATORS[self.operator](port, self.port)


@dataclass(frozen=True)
class Host:
    """Our end (src) or the peer's (dst) lies in a network, and has a port if one is named."""

    ours: bool
    network: int
    mask: int
    port: int | None

    def matches(self, connection: Connection) -> bool:
        """See Term."""
        address, port = (
            (connection.laddr, connection.lport)
            if self.ours
            else (connection.raddr, connection.rport)
        )
        return address & self.mask == self.network and self.port in (None, port)


@dataclass(frozen=True)
class Not:
    """The opposite."""

    term: Term

    def matches(self, connection: Connection) -> bool:
        """See Term."""
        return not self.term.matches(connection)


@dataclass(frozen=True)
class Every:
    """All of them."""

    terms: tuple[Term, ...]

    def matches(self, connection: Connection) -> bool:
        """See Term."""
        return all(term.matches(connection) for term in self.terms)


@dataclass(frozen=True)
class Either:
    """At least one of them."""

    terms: tuple[Term, ...]

    def matches(self, connection: Connection) -> bool:
        """See Term."""
        return any(term.matches(connection) for term in self.terms)


def _wrong(text: str) -> UsageError:
    return UsageError(f"filter: {text}", _HINT)


def _number(text: str, shown: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise _wrong(f'"{shown}": expected a port such as :80')
    return int(text)


def _port(text: str) -> int:
    return _number(text.removeprefix(":"), text)


def _host(text: str, ours: bool) -> Host:
    where, colon, port = text.partition(":")
    number = _number(port, text) if colon else None
    if where in ("", "*"):
        return Host(ours, 0, 0, number)
    try:
        network = ipaddress.IPv4Network(where, strict=False)
    except ValueError:
        raise _wrong(f'"{text}": expected an address such as 10.0.0.0/8 or 10.0.0.1:80') from None
    return Host(ours, int(network.network_address), int(network.netmask), number)


class _Parser:
    """Descends through the grammar; one token of look-ahead."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.names_states = False

    @property
    def next(self) -> str:
        """The token to come; "" at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, what: str) -> str:
        token = self.next
        if not token:
            raise _wrong(f"it ends where {what} is expected")
        self._at += 1
        return token

    def either(self) -> Term:
        """Terms joined by or."""
        terms = [self._every()]
        while self.next in _OR:
            self._at += 1
            terms.append(self._every())
        return terms[0] if len(terms) == 1 else Either(tuple(terms))

    def _every(self) -> Term:
        terms = [self._not()]
        while self.next and self.next not in (*_OR, ")"):
            if self.next in _AND:
                self._at += 1
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else Every(tuple(terms))

    def _not(self) -> Term:
        negative = False
        while self.next in _NOT:
            self._at += 1
            negative = not negative
        term = self._term()
        return Not(term) if negative else term

    def _term(self) -> Term:
        if self.next in ("state", "exclude"):
            return self._states()
        word = self._take("a condition")
        if word == "(":
            return self._parenthesis()
        if word in ("sport", "dport"):
            operator = self._take(f"an operator after {word}")
            if operator not in _OPERATORS:
                raise _wrong(f'"{operator}" after {word}: expected =, !=, <, >, <= or >=')
            return Port(word == "sport", operator, _port(self._take("a port")))
        if word in ("src", "dst"):
            return self._end(word)
        raise _wrong(f'"{word}" is not a condition{config.suggest(word, _TERMS)}')

    def _parenthesis(self) -> Term:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise _wrong(f"more than {_DEPTH_MAX} parentheses within each other")
        term = self.either()
        if self._take('")"') != ")":
            raise _wrong('")" is missing')
        self._depth -= 1
        return term

    def _end(self, word: str) -> Term:
        negative = self.next in ("!=", "ne", "neq")
        if negative or self.next in ("=", "==", "eq"):
            self._at += 1
        elif self.next in _OPERATORS:
            raise _wrong(f'"{self.next}" after {word}: expected = or !=')
        host = _host(self._take("an address"), word == "src")
        return Not(host) if negative else host

    def _states(self) -> Term:
        self.names_states = True
        names: frozenset[str] = ALL if self.next == "exclude" else frozenset()
        while self.next in ("state", "exclude"):
            word = self._take("a state")
            name = self._take("a state")
            if name not in STATES:
                raise _wrong(f'"{name}" is not a state{config.suggest(name, STATES)}')
            names = names | STATES[name] if word == "state" else names - STATES[name]
        return States(names)


def parse(words: Sequence[str], usual: frozenset[str]) -> Term:
    """The filter of these words; `usual` are the states when it names none.

    UsageError says what is wrong.
    """
    parser = _Parser(_TOKEN.findall(" ".join(words)))
    if not parser.next:
        return States(usual)
    term = parser.either()
    if parser.next:
        raise _wrong(f'"{parser.next}" is left over')
    return term if parser.names_states else Every((States(usual), term))
