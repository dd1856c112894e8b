"""Messages: what is sent arrives, what is not understood is an error and never a crash."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import commands
from orchestrator.telemetry import InstanceInfo
from shardserver import channel, errors, native_conns, protocol
from shardserver.channel import Channel
from shardserver.errors import ProtocolError, ShardserverError
from shardserver.native import ShardStats
from shardserver.protocol import (
    Aborted,
    Drained,
    Event,
    Notice,
    Ready,
    Request,
    RestartOrder,
    ShardInfo,
    ShardTable,
    StopOrder,
    Take,
    WorkerOrder,
)

texts = st.text(max_size=20)
numbers = st.integers(0, 2**40)
infos = st.builds(ShardInfo, numbers, texts, numbers, numbers, numbers, texts, numbers, texts)
INSTANCE = InstanceInfo("x", "0.1.0", 7, "mem:x", "mem", "native", "", "10.77.0.1/16", [], 0.0)


@given(
    st.one_of(
        st.builds(ShardTable, st.lists(infos, max_size=4), st.booleans()),
        st.builds(Notice, st.builds(Event, texts, st.floats(0, 1e9), numbers)),
    )
)
def test_what_the_orchestrator_says_arrives(message: object) -> None:
    assert protocol.decode(protocol.encode(message), protocol.FromOrchestrator) == message


@given(
    st.one_of(
        st.builds(
            Ready,
            numbers,
            numbers,
            numbers,
            numbers,
            numbers,
            st.floats(0, 1e9),
            st.lists(texts, max_size=3),
        ),
        st.builds(Drained),
        st.builds(Aborted, numbers),
    )
)
def test_what_a_worker_says_arrives(message: object) -> None:
    assert protocol.decode(protocol.encode(message), protocol.FromWorker) == message


@given(st.one_of(st.builds(WorkerOrder, texts), st.builds(Take, numbers)))
def test_what_a_worker_is_told_arrives(message: object) -> None:
    assert protocol.decode(protocol.encode(message), protocol.ToWorker) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_an_error_of_the_protocol(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(data, Request)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 60000,
        b'{"id":"1"}',
        b'{"id":1,"command":"ping"}',
        b'{"id":"1","command":"ping","extra":1}',
        b" " * (protocol.MESSAGE_MAX + 1),
        b'{"id":"1","command":"ping","properties":[]}',
    ],
)
def test_hostile_requests_are_an_error_of_the_protocol(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(data, Request)


@pytest.mark.parametrize("kind", errors._ALL)
def test_an_error_travels_as_its_word(kind: type[ShardserverError]) -> None:
    body = protocol.error_body(kind("what", "next"))
    with pytest.raises(kind) as caught:
        protocol.raise_error(body)
    assert (caught.value.message, caught.value.hint, type(caught.value)) == ("what", "next", kind)


def test_words_and_exit_codes_are_documented() -> None:
    assert len({kind.word for kind in errors._ALL}) == len(errors._ALL)
    assert {kind.exit_code for kind in errors._ALL} <= set(errors.EXIT_CODES)


def test_a_channel_keeps_messages_apart_and_knows_its_end() -> None:
    ours, theirs = channel.pair()
    left, right = Channel(ours, protocol.FromControl), Channel(theirs, protocol.FromControl)
    assert right.receive() == []
    assert left.send(StopOrder("drain"))
    assert left.send(RestartOrder([1]))
    assert right.receive() == [StopOrder("drain"), RestartOrder([1])]
    left.close()
    assert right.receive() is None
    assert not right.send(StopOrder("drain"))
    right.close()


class Told:
    """A view whose effects are remembered."""

    def __init__(self, shards: int = 2) -> None:
        self.orders: list[object] = []
        self.asked: list[tuple[int, str]] = []
        self.view = commands.View(
            INSTANCE, lambda _: ShardStats(), self._read, self._order, self._ask
        )
        self.view.shards = [
            ShardInfo(shard, "running", 10 + shard, shard, 0, f"mem:x-{shard}", 0)
            for shard in range(shards)
        ]

    def _read(self, shard: int, start: int) -> native_conns.Part:
        row = tuple(range(len(native_conns.columns())))
        return native_conns.Part([row], start + 1 if start < 2 else 0, shard)

    def _order(self, order: object) -> bool:
        self.orders.append(order)
        return True

    def _ask(self, shard: int, command: str) -> bool:
        self.asked.append((shard, command))
        return True

    def call(self, command: str, **properties: object) -> protocol.Reply:
        request = Request("id", command, dict(properties))
        return commands.carry_out(self.view, protocol.encode(request))


def test_each_command_answers() -> None:
    told = Told()
    assert told.call("ping").result == {"pid": 7, "version": "0.1.0"}
    status = told.call("status").result
    assert (status["state"], len(status["shards"]), status["name"]) == ("running", 2, "x")
    assert told.call("stats").result["schema"] == 1
    part = told.call("connections", shard=1, **{"from": 2}).result
    assert (part["shard"], part["next"], part["changing"]) == (1, 0, 1)
    assert [len(row) for row in part["rows"]] == [len(part["columns"])] == [24]
    assert part["states"][3] == "established"
    assert told.call("connections").result["next"] == 1
    assert told.call("stop", mode="quick").result == {"mode": "quick"}
    assert told.call("restart", shards=[1]).result == {"shards": [1]}
    assert told.call("confirm").result == {"confirmed": False, "left_s": 0.0}
    assert told.call("shard", action="drain").result == {"action": "drain", "asked": [0, 1]}
    assert told.orders == [StopOrder("quick"), RestartOrder([1])]
    assert told.asked == [(0, "drain"), (1, "drain")]


@pytest.mark.parametrize(
    ("command", "properties", "code", "message"),
    [
        ("stas", {}, "usage", 'unknown command "stas"; did you mean "stats"?'),
        ("stats", {"x": 1}, "bad_message", 'unknown property "x"'),
        ("stop", {"mode": "gently"}, "bad_message", "mode must be one of"),
        ("restart", {"shards": [9]}, "usage", "there is no shard 9"),
        ("restart", {"shards": "all"}, "bad_message", "list of shard numbers"),
        ("connections", {"shard": 2}, "usage", "there is no shard 2"),
        ("connections", {"shard": "0"}, "bad_message", "list of shard numbers"),
        ("connections", {"from": -1}, "bad_message", "from must be a number from 0"),
        ("connections", {"from": 1 << 32}, "bad_message", "from must be a number from 0"),
        ("shard", {"action": "eat"}, "bad_message", "action must be one of"),
    ],
)
def test_a_wrong_command_is_answered_with_an_error(
    command: str, properties: dict[str, object], code: str, message: str
) -> None:
    reply = Told().call(command, **properties)
    assert reply.status == "error"
    assert reply.error is not None
    assert reply.error.code == code
    assert message in reply.error.message


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    reply = commands.carry_out(Told().view, data)
    assert reply.status == "error"
    assert protocol.decode(protocol.encode(reply), protocol.Reply) == reply
    assert abs(reply.time - time.time()) < 60
