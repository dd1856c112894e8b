"""The filter of ss: what it takes, what it refuses, and what it matches."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardserver import ss_filter
from shardserver.errors import UsageError
from shardserver.ss_filter import ALL, CONNECTED, LISTENING, STATES, USUAL


class Row(NamedTuple):
    """What a filter looks at."""

    state: str = "established"
    laddr: int = int(ipaddress.IPv4Address("10.0.0.1"))
    lport: int = 7
    raddr: int = int(ipaddress.IPv4Address("10.0.0.7"))
    rport: int = 51544


def matches(text: str, row: Row, usual: frozenset[str] = USUAL) -> bool:
    return ss_filter.parse(text.split(), usual).matches(row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("state established", True),
        ("state time-wait", False),
        ("state time-wait state established", True),
        ("state time-wait or state established", True),
        ("state connected exclude established", False),
        ("exclude time-wait", True),
        ("state all", True),
        ("state listening", False),
        ("dport = :51544", True),
        ("dport=:51544", True),
        ("dport 51544", None),
        ("dport = 51544", True),
        ("dport eq :51544", True),
        ("dport != :51544", False),
        ("dport neq 80", True),
        ("dport > :51543 dport < :51545", True),
        ("dport ge :51544 and dport le :51544", True),
        ("sport = :7 and dport = :1", False),
        ("sport = :7 or dport = :1", True),
        ("sport = :1 or sport = :7 and dport = :51544", True),
        ("( sport = :1 or sport = :7 ) and dport = :1", False),
        ("(sport=:1|sport=:7)&dport=:51544", True),
        ("not sport = :1", True),
        ("! sport = :7", False),
        ("not not sport = :7", True),
        ("!(sport=:1||sport=:2)&&!dport=:3", True),
        ("src 10.0.0.1", True),
        ("src = 10.0.0.0/8", True),
        ("src 10.0.0.1:7", True),
        ("src 10.0.0.1:8", False),
        ("src != 10.0.0.1", False),
        ("dst 10.0.0.0/30", False),
        ("dst 10.0.0.0/29:51544", True),
        ("dst *:51544", True),
        ("dst :51544", True),
        ("dst *", True),
        ("dst 0.0.0.0/0", True),
        ("state established dport = :51544", True),
        ("dport = :51544 state established", True),
        ("not state established", False),
    ],
)
def test_words_of_ss_are_understood(text: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            matches(text, Row())
    else:
        assert matches(text, Row()) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stat established", '"stat" is not a condition; did you mean "state"?'),
        ("state establised", '"establised" is not a state; did you mean "established"?'),
        ("state", "it ends where a state is expected"),
        ("dport", "it ends where an operator after dport is expected"),
        ("dport =", "it ends where a port is expected"),
        ("dport ~ :7", '"~" after dport: expected =, !=, <, >, <= or >='),
        ("dport = :http", '":http": expected a port such as :80'),
        ("dport = :65536", '":65536": expected a port such as :80'),
        ("dport = :", '":": expected a port such as :80'),
        ("dport = ::7", '"::7": expected a port such as :80'),
        ("src < 10.0.0.1", '"<" after src: expected = or !='),
        ("src 10.0.0.256", '"10.0.0.256": expected an address such as 10.0.0.0/8'),
        ("src 10.0.0.0/33", '"10.0.0.0/33": expected an address'),
        ("src ::1", '"::1": expected a port'),
        ("( sport = :7", 'it ends where ")" is expected'),
        ("sport = :7 )", '")" is left over'),
        ("sport = :7 or", "it ends where a condition is expected"),
        ("and", '"and" is not a condition'),
        ("not", "it ends where a condition is expected"),
        ("( )", '")" is not a condition'),
        ("(" * 5000, "more than 64 parentheses"),
        ("dev eth0", '"dev" is not a condition'),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        ss_filter.parse([text], USUAL)
    assert message in raised.value.message
    assert raised.value.message.startswith("filter: ")
    assert "\n" not in raised.value.message
    assert raised.value.exit_code == 2


def test_without_a_state_the_usual_ones_are_meant() -> None:
    for state in sorted(ALL):
        row = Row(state=state)
        for usual in (USUAL, ALL, LISTENING):
            assert matches("", row, usual) == (state in usual)
            assert matches("sport = :7", row, usual) == (state in usual)
        assert matches("state all", row, USUAL)
    assert {"listening", "syn-recv", "time-wait"} == ALL - USUAL
    assert STATES["synchronized"] == CONNECTED - {"syn-sent"}


def test_a_long_filter_needs_no_deep_stack() -> None:
    text = " or ".join(f"dport = :{port}" for port in range(1, 20_000))
    assert matches(text, Row(rport=19_999))
    assert not matches(text, Row(rport=20_000))
    assert matches("not " * 10_000 + "sport = :7", Row())


# A random filter as text, and beside it what it means, written down anew.
Meaning = Callable[[Row], bool]
PORTS = st.sampled_from([1, 7, 80, 51544, 65535])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.7", "10.1.2.3", "192.168.0.1"])
ROWS = st.builds(
    Row,
    st.sampled_from(sorted(ALL)),
    ADDRESSES.map(lambda text: int(ipaddress.IPv4Address(text))),
    PORTS,
    ADDRESSES.map(lambda text: int(ipaddress.IPv4Address(text))),
    PORTS,
)
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "neq": lambda a, b: a != b,
    "geq": lambda a, b: a >= b,
}


@st.composite
def port_terms(draw: st.DrawFn) -> tuple[str, Meaning]:
    end, operator, port = (
        draw(st.sampled_from(["sport", "dport"])),
        draw(st.sampled_from(sorted(COMPARE))),
        draw(PORTS),
    )
    compare = COMPARE[operator]
    colon = draw(st.sampled_from(["", ":"]))
    if end == "sport":
        return f"{end} {operator} {colon}{port}", lambda row: compare(row.lport, port)
    return f"{end} {operator} {colon}{port}", lambda row: compare(row.rport, port)


@st.composite
def host_terms(draw: st.DrawFn) -> tuple[str, Meaning]:
    ours, address, bits = draw(st.booleans()), draw(ADDRESSES), draw(st.integers(0, 32))
    port = draw(st.none() | PORTS)
    network = ipaddress.IPv4Network(f"{address}/{bits}", strict=False)

    def meaning(row: Row) -> bool:
        where, at = (row.laddr, row.lport) if ours else (row.raddr, row.rport)
        return ipaddress.IPv4Address(where) in network and (port is None or at == port)

    text = f"{'src' if ours else 'dst'} {address}/{bits}"
    return (text if port is None else f"{text}:{port}"), meaning


@st.composite
def state_terms(draw: st.DrawFn) -> tuple[str, Meaning]:
    name = draw(st.sampled_from(sorted(ALL)))
    if draw(st.booleans()):
        return f"state {name}", lambda row: row.state == name
    return f"exclude {name}", lambda row: row.state != name


def joined(pair: tuple[tuple[str, Meaning], tuple[str, Meaning], str]) -> tuple[str, Meaning]:
    (left, first), (right, second), word = pair
    if word in ("or", "|"):
        return f"( {left} ) {word} ( {right} )", lambda row: first(row) or second(row)
    return f"( {left} ) {word} ( {right} )", lambda row: first(row) and second(row)


def negated(term: tuple[str, Meaning]) -> tuple[str, Meaning]:
    text, meaning = term
    return f"not ( {text} )", lambda row: not meaning(row)


FILTERS = st.recursive(
    port_terms() | host_terms() | state_terms(),
    lambda inner: (
        st.tuples(inner, inner, st.sampled_from(["and", "or", "|", "&", ""])).map(joined)
        | inner.map(negated)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(FILTERS, st.lists(ROWS, min_size=1, max_size=8), st.booleans())
def test_a_random_filter_means_what_its_parts_mean(
    made: tuple[str, Meaning], rows: list[Row], tight: bool
) -> None:
    text, meaning = made
    if tight:  # without the spaces that are not needed
        text = text.replace("( ", "(").replace(" )", ")").replace(" = ", "=").replace(" != ", "!=")
    found = ss_filter.parse([text], USUAL)
    names_states = "state" in text or "exclude" in text
    for row in rows:
        assert found.matches(row) == (meaning(row) and (names_states or row.state in USUAL))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["state", "exclude", "established", "all", "dport", "src", "=", "!=", "<", ":7", "7",
             "10.0.0.0/8", "*", "(", ")", "and", "or", "not", "!", "", "x"]
        )
        | st.text(max_size=6),
        max_size=12,
    )
)  # fmt: skip
def test_any_words_are_a_filter_or_a_clear_error(words: list[str]) -> None:
    try:
        ss_filter.parse(words, USUAL).matches(Row())
    except UsageError as error:
        assert error.message.startswith("filter: ")
