"""What ss shows of a row, and that it shows nothing that is not held."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from shardserver import native_conns, ss_view
from shardserver.errors import ProtocolError
from shardserver.ss_view import Connection

TCP = ss_view.KNOWS_TCP
ROW = {
    "state": 3, "service": 0, "laddr": 0x0A000001, "lport": 7, "raddr": 0x0A000007, "rport": 51544,
    "recv_q": 0, "send_q": 2896, "knows": 31, "timer": 0, "timer_ms": 180, "retries": 2,
    "mss": 1448, "srtt_us": 81, "rttvar_us": 12, "rto_us": 200000, "ssthresh": 14 * 1448,
    "snd_wnd": 65535, "rcv_wnd": 262144, "snd_wscale": 7, "rcv_wscale": 3, "cwnd": 20 * 1448,
    "unacked": 2896, "ooo": 10,
}  # fmt: skip


def part(**changes: Any) -> dict[str, Any]:
    row = {**ROW, **changes}
    return {
        "shard": 2,
        "columns": list(row),
        "rows": [list(row.values())],
        "next": 0,
        "changing": 0,
        "states": list(native_conns.state_names()),
        "services": ["echo", "discard"],
        "timers": list(native_conns.timer_names()),
    }


def one(**changes: Any) -> Connection:
    (found,) = ss_view.connections(part(**changes))
    return found


def test_the_columns_are_those_of_the_core() -> None:
    assert tuple(ROW) == native_conns.columns() == Connection._fields[1:]


def test_a_line_is_like_that_of_ss() -> None:
    assert ss_view.HEAD.split() == [
        "Shard", "State", "Recv-Q", "Send-Q", "Local", "Address:Port", "Peer", "Address:Port",
    ]  # fmt: skip
    line = ss_view.line(one())
    assert line.split() == ["2", "ESTAB", "0", "2896", "10.0.0.1:7", "10.0.0.7:51544"]
    assert line.index("10.0.0.1:7") + len("10.0.0.1:7") == ss_view.HEAD.index(":Port") + 5
    assert len(line) == len(ss_view.HEAD)
    listener = ss_view.line(one(state=10, raddr=0, rport=0))
    assert listener.split()[1::4] == ["LISTEN", "0.0.0.0:*"]


def test_the_details_are_those_that_are_held() -> None:
    assert ss_view.info_text(one()) == (
        "      service:echo reno wscale:7,3 mss:1448 cwnd:20 ssthresh:14 srtt:0.081/0.012ms "
        "rto:200ms backoff:2 unacked_bytes:2896 ooo_bytes:10 recovery snd_wnd:65535 rcv_wnd:262144"
    )
    idle = one(knows=TCP, ssthresh=0xFFFFFFFF, srtt_us=0, retries=0, unacked=0, ooo=0)
    assert ss_view.info_text(idle) == (
        "      service:echo reno mss:1448 rto:200ms snd_wnd:65535 rcv_wnd:262144"
    )
    assert ss_view.info_text(one(knows=0, service=1)) == "      service:discard"


def test_a_document_has_no_key_for_what_is_not_held() -> None:
    full = ss_view.document(one())
    assert full["local"] == {"address": "10.0.0.1", "port": 7}
    assert full["peer"] == {"address": "10.0.0.7", "port": 51544}
    assert full["timer"] == {"name": "on", "left_ms": 180, "timeouts": 2}
    assert full["tcp"] == {
        "congestion": "reno", "mss": 1448, "rto_ms": 200.0, "backoff": 2, "snd_wnd": 65535,
        "rcv_wnd": 262144, "unacked_bytes": 2896, "srtt_ms": 0.081, "rttvar_ms": 0.012,
        "ssthresh_bytes": 14 * 1448, "wscale": [7, 3], "cwnd_bytes": 20 * 1448, "ooo_bytes": 10,
        "recovery": True,
    }  # fmt: skip
    bare = ss_view.document(one(knows=0))
    assert sorted(bare) == ["local", "peer", "recv_q", "send_q", "service", "shard", "state"]
    idle = ss_view.document(one(knows=TCP, ssthresh=0xFFFFFFFF, srtt_us=0))
    assert not {"cwnd_bytes", "ssthresh_bytes", "srtt_ms", "wscale"} & set(idle["tcp"])
    listener = ss_view.document(one(state=10, recv_q=3, send_q=4096))
    assert (listener["half_open"], listener["backlog_max"]) == (3, 4096)
    assert "peer" not in listener


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"), (200, "200ms"), (999, "999ms"), (1000, "1sec"), (1200, "1.2sec"),
        (9999, "9.999sec"), (10_500, "10sec"), (60_000, "1min"), (90_000, "1min30sec"),
    ],
)  # fmt: skip
def test_a_timer_is_shown_as_by_ss(milliseconds: int, text: str) -> None:
    assert ss_view.duration(milliseconds) == text
    assert ss_view.timer_text(one(timer_ms=milliseconds)) == f"timer:(on,{text},2)"


def test_without_a_timer_none_is_shown() -> None:
    assert ss_view.timer_text(one(knows=TCP)) == ""
    assert ss_view.timer_text(one(timer=2, state=9)).startswith("timer:(timewait,")


def test_an_answer_of_another_version_is_refused() -> None:
    other = part()
    other["columns"] = other["columns"][:-1]
    with pytest.raises(ProtocolError, match="different versions"):
        ss_view.connections(other)
    for changes in ({"state": 99}, {"timer": "x"}):
        with pytest.raises(ProtocolError, match="not understood"):
            ss_view.connections(part(**changes))


def test_a_summary_counts_by_shard_and_state() -> None:
    counts = {0: Counter({"established": 3, "time-wait": 1}), 1: Counter[str]()}
    assert ss_view.summary_rows(counts) == [
        ["shard", "total", "ESTAB", "TIME-WAIT"],
        ["0", "4", "3", "1"],
        ["1", "0", "0", "0"],
        ["total", "4", "3", "1"],
    ]
    assert ss_view.summary_document(counts) == {
        "shards": [
            {"id": 0, "states": {"established": 3, "time-wait": 1}},
            {"id": 1, "states": {}},
        ],
        "total": {"established": 3, "time-wait": 1},
    }
