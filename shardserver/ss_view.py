"""What `shardserver ss` shows of a connection: from the rows of control to text and JSON. Pure.

A row holds what the shard's engine holds of the connection, and says what it does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from shardserver.errors import ProtocolError
from shardserver.protocol import SCHEMA

KNOWS_TCP, KNOWS_SCALES, KNOWS_ACTIVE, KNOWS_TIMER, KNOWS_LOSSES = 1, 2, 4, 8, 16
NO_LOSS_YET = 0xFFFFFFFF
SHORT = {"established": "ESTAB", "listening": "LISTEN"}
_LINE = "{:<5} {:<10} {:<6} {:<6} {:>21} {:>21}"
HEAD = _LINE.format("Shard", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port")


class Connection(NamedTuple):
    """A row; names are those of struct ss_conn."""

    shard: int
    state: str
    service: str
    laddr: int
    lport: int
    raddr: int
    rport: int
    recv_q: int
    send_q: int
    knows: int
    timer: str
    timer_ms: int
    retries: int
    mss: int
    srtt_us: int
    rttvar_us: int
    rto_us: int
    ssthresh: int
    snd_wnd: int
    rcv_wnd: int
    snd_wscale: int
    rcv_wscale: int
    cwnd: int
    unacked: int
    ooo: int


_NAMED = (("state", "states"), ("service", "services"), ("timer", "timers"))
_OLD = "this command and the server are of different versions: restart the server"


def connections(part: Mapping[str, Any]) -> list[Connection]:
    """The rows of an answer of control."""
    if tuple(part["columns"]) != Connection._fields[1:]:
        raise ProtocolError(f"the columns of connections are others: {_OLD}")
    named = [(Connection._fields.index(column), part[names]) for column, names in _NAMED]
    found = []
    try:
        for row in part["rows"]:
            values = [part["shard"], *row]
            for place, names in named:
                values[place] = names[values[place]]
            found.append(Connection._make(values))
    except (IndexError, TypeError) as error:
        raise ProtocolError(f"a row of connections is not understood: {error}") from None
    return found


def state_word(state: str) -> str:
    """A state as ss prints it."""
    return SHORT.get(state, state.upper())


def _address(number: int, port: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:{port or '*'}"


def duration(milliseconds: int) -> str:
    """A timer as ss shows it, in two units at most: 200ms, 1.2sec, 1min30sec."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    if minutes:
        return f"{minutes}min{f'{second}sec' if second else ''}"
    if seconds > 9:
        return f"{seconds}sec"
    return f"{milliseconds / 1000:g}sec" if seconds else f"{rest}ms"


def timer_text(connection: Connection) -> str:
    """`timer:(on,200ms,0)`: what it waits for, how long, time-outs so far; "" without one."""
    if not connection.knows & KNOWS_TIMER:
        return ""
    left = duration(connection.timer_ms)
    return f"timer:({connection.timer},{left},{connection.retries})"


def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:g}"


def _segments(connection: Connection) -> Iterable[str]:
    mss = connection.mss or 1
    if connection.knows & KNOWS_ACTIVE:
        yield f"cwnd:{connection.cwnd // mss}"
    if connection.ssthresh != NO_LOSS_YET:
        yield f"ssthresh:{connection.ssthresh // mss}"


def _details(connection: Connection) -> Iterable[str]:
    yield f"service:{connection.service}"
    if not connection.knows & KNOWS_TCP:
        return
    yield "reno"
    if connection.knows & KNOWS_SCALES:
        yield f"wscale:{connection.snd_wscale},{connection.rcv_wscale}"
    yield f"mss:{connection.mss}"
    yield from _segments(connection)
    if connection.srtt_us:
        srtt, var = _milliseconds(connection.srtt_us), _milliseconds(connection.rttvar_us)
        yield f"srtt:{srtt}/{var}ms"
    yield f"rto:{_milliseconds(connection.rto_us)}ms"
    if connection.retries:
        yield f"backoff:{connection.retries}"
    if connection.unacked:
        yield f"unacked_bytes:{connection.unacked}"
    if connection.ooo:
        yield f"ooo_bytes:{connection.ooo}"
    if connection.knows & KNOWS_LOSSES:
        yield "recovery"
    yield f"snd_wnd:{connection.snd_wnd}"
    yield f"rcv_wnd:{connection.rcv_wnd}"


def info_text(connection: Connection) -> str:
    """What -i shows on a line of its own: only what is held of the connection."""
    return "      " + " ".join(_details(connection))


def line(connection: Connection) -> str:
    """The connection's line under HEAD."""
    return _LINE.format(
        connection.shard,
        state_word(connection.state),
        connection.recv_q,
        connection.send_q,
        _address(connection.laddr, connection.lport),
        _address(connection.raddr, connection.rport),
    )


def _tcp_document(connection: Connection) -> dict[str, Any]:
    document: dict[str, Any] = {
        "congestion": "reno",
        "mss": connection.mss,
        "rto_ms": connection.rto_us / 1000,
        "backoff": connection.retries,
        "snd_wnd": connection.snd_wnd,
        "rcv_wnd": connection.rcv_wnd,
        "unacked_bytes": connection.unacked,
    }
    if connection.srtt_us:
        document["srtt_ms"] = connection.srtt_us / 1000
        document["rttvar_ms"] = connection.rttvar_us / 1000
    if connection.ssthresh != NO_LOSS_YET:
        document["ssthresh_bytes"] = connection.ssthresh
    if connection.knows & KNOWS_SCALES:
        document["wscale"] = [connection.snd_wscale, connection.rcv_wscale]
    if connection.knows & KNOWS_ACTIVE:
        document["cwnd_bytes"] = connection.cwnd
        document["ooo_bytes"] = connection.ooo
        document["recovery"] = bool(connection.knows & KNOWS_LOSSES)
    return document


def document(connection: Connection) -> dict[str, Any]:
    """The connection in JSON. What is not held has no key."""
    made: dict[str, Any] = {
        "shard": connection.shard,
        "state": connection.state,
        "service": connection.service,
        "local": {"address": str(IPv4Address(connection.laddr)), "port": connection.lport},
    }
    if connection.state == "listening":
        return {**made, "half_open": connection.recv_q, "backlog_max": connection.send_q}
    made["peer"] = {"address": str(IPv4Address(connection.raddr)), "port": connection.rport}
    made["recv_q"] = connection.recv_q
    made["send_q"] = connection.send_q
    if connection.knows & KNOWS_TCP:
        made["tcp"] = _tcp_document(connection)
    if connection.knows & KNOWS_TIMER:
        made["timer"] = {
            "name": connection.timer,
            "left_ms": connection.timer_ms,
            "timeouts": connection.retries,
        }
    return made


def head_document(status: Mapping[str, Any]) -> dict[str, Any]:
    """What the documents of `ss --json` begin with."""
    return {
        "schema": SCHEMA,
        "time": status["time"],
        "instance": status["name"],
        "engine": status["engine"],
    }


def summary_rows(counts: Mapping[int, Counter[str]]) -> list[list[str]]:
    """The table of -s: a shard a row, a state that occurs a column; the first row is the head."""
    total: Counter[str] = sum(counts.values(), Counter())
    states = sorted(total, key=lambda state: (-total[state], state))
    rows = [["shard", "total", *(state_word(state) for state in states)]]
    for name, count in [*((str(shard), counts[shard]) for shard in counts), ("total", total)]:
        rows.append([name, str(count.total()), *(str(count[state]) for state in states)])
    return rows


def summary_document(counts: Mapping[int, Counter[str]]) -> dict[str, Any]:
    """The same in JSON."""
    total: Counter[str] = sum(counts.values(), Counter())
    shards = [{"id": shard, "states": dict(count)} for shard, count in counts.items()]
    return {"shards": shards, "total": dict(total)}
