"""Rings in Python: netmap's contract held on both sides of a mem: device, and every wrong use."""

import gc
import os
from collections.abc import Iterator

import pytest

from shardserver import rings
from shardserver.errors import DeviceUnavailableError, ShardserverError, UsageError

NAME = f"mem:rings-{os.getpid()}"
SLOTS = 11  # not a power of two
Pair = tuple[rings.RingPort, rings.RingPort]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with rings.open(NAME, rings=1, slots=SLOTS) as card, rings.open(NAME) as cable:
        yield card, cable
        if card._opened and cable._opened:
            assert card.audit() == 0


def put(port: rings.RingPort, number: int, size: int = 60) -> None:
    slot = port.tx[0][port.tx[0].cur]
    slot.buf[:6] = port.peer_mac
    slot.buf[14:18] = number.to_bytes(4, "big")
    slot.len = size
    port.tx[0].give()


def take_ring(ring: rings.Ring) -> list[int]:
    found = [int.from_bytes(slot.data[14:18], "big") for slot in ring]
    ring.give(ring.space)
    return found


def take(port: rings.RingPort) -> list[int]:
    return take_ring(port.rx[0])


def test_the_two_sides_know_each_other(pair: Pair) -> None:
    card, cable = pair
    assert (card.is_client, cable.is_client) == (False, True)
    assert cable.peer_mac == card.mac != cable.mac
    assert card.backend == cable.backend == "mem"
    assert card.same_region(cable)


def test_a_ring_has_one_slot_less_than_it_has(pair: Pair) -> None:
    card, cable = pair
    assert cable.tx[0].space == SLOTS - 1
    assert card.rx[0].empty
    assert not cable.tx[0].empty


def test_frames_cross_in_order_and_wrap_around(pair: Pair) -> None:
    card, cable = pair
    got: list[int] = []
    sent = 0
    while len(got) < 100:
        while sent < 100 and not cable.tx[0].empty:
            put(cable, sent)
            sent += 1
        cable.tx[0].sync()
        card.rx[0].sync()
        got += take(card)
    assert got == list(range(100))


def test_nothing_leaves_before_a_sync(pair: Pair) -> None:
    card, cable = pair
    put(cable, 1)
    card.rx[0].sync()
    assert card.rx[0].empty
    cable.tx[0].sync()
    assert card.rx[0].empty
    card.rx[0].sync()
    assert take(card) == [1]


def test_poll_sends_what_is_pending_unless_told_otherwise(pair: Pair) -> None:
    card, cable = pair
    put(cable, 1)
    assert cable.poll(rings.POLLIN, 0, no_tx=True) == 0
    assert card.poll(rings.POLLIN, 0) == 0
    assert cable.poll(rings.POLLIN, 0) == 0
    assert card.poll(rings.POLLIN, 0) == rings.POLLIN


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_poll_ends_in_time_when_nothing_comes(pair: Pair, seconds: float) -> None:
    assert pair[0].poll(rings.POLLIN, seconds) == 0
    assert pair[0].poll(rings.POLLOUT, seconds) == rings.POLLOUT


def test_poll_watches_several_ports(pair: Pair) -> None:
    card, cable = pair
    put(cable, 5)
    both = [(card, rings.POLLIN), (cable, rings.POLLIN)]
    cable.tx[0].sync()
    assert rings.poll(both, 1) == [rings.POLLIN, 0]


def test_cur_decides_who_wakes_and_head_what_is_given_back(pair: Pair) -> None:
    card, cable = pair
    rx = card.rx[0]
    put(cable, 1)
    cable.tx[0].sync()
    assert card.poll(rings.POLLIN, 1)
    rx.cur = rx.tail
    assert card.poll(rings.POLLIN, 0.01) == 0
    put(cable, 2)
    cable.tx[0].sync()
    assert card.poll(rings.POLLIN, 1)
    assert [rx[rx.head].data[17], rx.space] == [1, 1]


def test_buffers_may_be_exchanged(pair: Pair) -> None:
    card, cable = pair
    put(cable, 9)
    cable.tx[0].sync()
    card.rx[0].sync()
    source, target = card.rx[0][0], card.tx[0][0]
    before = (source.buf_idx, target.buf_idx)
    source.buf_idx, target.buf_idx = target.buf_idx, source.buf_idx
    assert (target.buf_idx, source.buf_idx) == before
    assert target.buf[17] == 9


def test_a_view_writes_through(pair: Pair) -> None:
    slot = pair[1].tx[0][0]
    slot.buf[3] = 77
    slot.len = 4
    assert bytes(slot.data) == b"\0\0\0\x4d"
    assert not slot.buf.readonly
    with slot.buf:
        pass
    assert slot.buf[3] == 77


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda tx: setattr(tx, "head", 10), None),
        (lambda tx: (setattr(tx, "head", 3), setattr(tx, "head", 2)), "moves forward only"),
        (lambda tx: (setattr(tx, "cur", 2), setattr(tx, "head", 3), tx.sync()), "cur 2 is behind"),
        (lambda tx: setattr(tx, "cur", 11), "there is no slot 11"),
        (lambda tx: setattr(tx, "head", -1), "there is no slot -1"),
        (lambda tx: setattr(tx, "tail", 1), "only a sync moves it"),
        (lambda tx: tx[11], "there is no slot 11: give 0 to 10"),
        (lambda tx: tx[-1], "there is no slot -1"),
        (lambda tx: tx[10].buf, "slot 10 is not ours now"),
        (lambda tx: (tx.give(2), tx[1].len), "slot 1 is not ours now"),
        (lambda tx: tx.give(11), "11 slots: only 10 are ours"),
        (lambda tx: setattr(tx[0], "len", 2049), "2049 bytes in a buffer of 2048"),
        (lambda tx: setattr(tx[0], "buf_idx", 1), "there is no buffer 1"),
        (lambda tx: setattr(tx[0], "buf_idx", 1 << 31), "there is no buffer"),
    ],
)
def test_wrong_use_is_an_exception_that_says_how(
    pair: Pair, wrong: object, sentence: str | None
) -> None:
    assert callable(wrong)
    if sentence is None:
        wrong(pair[1].tx[0])
        return
    with pytest.raises(rings.RingError, match="rings-") as raised:
        wrong(pair[1].tx[0])
    assert sentence in raised.value.message


def test_a_closed_port_says_so() -> None:
    port = rings.open(NAME)
    ring, view = port.tx[0], port.tx[0][0].buf
    slot = ring[0]
    port.close()
    port.close()
    for use in (lambda: ring.head, ring.sync, port.sync, lambda: slot.buf, port.poll, port.audit):
        with pytest.raises(rings.RingError, match="it is closed: open it again"):
            use()
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_memory_lives_as_long_as_a_view_of_it() -> None:
    with rings.open(NAME) as port:
        piece = port.tx[0][0].buf[:4]
        piece[0] = 5
    assert piece[0] == 5
    del piece
    gc.collect()
    with rings.open(NAME, role="owner") as port:
        assert not port.is_client


def test_a_cable_may_outlive_its_card() -> None:
    card = rings.open(NAME)
    cable = rings.open(NAME)
    card.close()
    put(cable, 1)
    cable.tx[0].sync()
    cable.close()
    with rings.open(NAME, role="owner"):
        pass


def test_what_cannot_be_opened_is_one_sentence() -> None:
    with pytest.raises(DeviceUnavailableError, match="not a port's name"):
        rings.open("eth0")
    with pytest.raises(UsageError, match="role king"):
        rings.open(NAME, role="king")
    with pytest.raises(ShardserverError, match="no such device here"):
        rings.open(NAME, role="client")
    with pytest.raises(ShardserverError, match="only mem:NAME and mem:NAME\\^ are attached to"):
        rings.open("packet:lo", role="client")
    with rings.open(NAME, role="owner"), pytest.raises(DeviceUnavailableError, match="exists"):
        rings.open(NAME, role="owner")
    with pytest.raises(ShardserverError, match="8 to 8176 slots"):
        rings.open(NAME, slots=3)


@pytest.mark.parametrize(
    "names", [("mem:{}{{0", "mem:{}}}0"), ("vale:{}:a", "vale:{}:b")], ids=["pipe", "switch"]
)
def test_pipes_and_switches_are_ports_like_others(names: tuple[str, str]) -> None:
    one, two = (name.format(f"r{os.getpid()}") for name in names)
    with rings.open(one, slots=16) as left, rings.open(two, slots=16) as right:
        assert left.same_region(right)
        assert left.mac != right.mac
        for number in range(100):
            put(left, number)
            left.tx[0].sync()
            assert right.poll(rings.POLLIN, 1) == rings.POLLIN
            assert take(right) == [number]
        assert left.audit() == right.audit() == 0
        with pytest.raises(DeviceUnavailableError, match="open already"):
            rings.open(two)
    with rings.open(two) as right:
        assert right.rx[0].empty


def test_a_pipe_holds_its_sender_and_loses_nothing() -> None:
    name = f"mem:h{os.getpid()}"
    with rings.open(name + "{0", slots=8) as left, rings.open(name + "}0") as right:
        sent = 0
        while left.poll(rings.POLLOUT, 0.002):
            put(left, sent)
            sent += 1
        assert sent == 14
        got: list[int] = []
        while right.poll(rings.POLLIN, 0.01):
            got += take(right)
            right.sync()  # gives the slots back: now there is room
            left.sync()
        assert got == list(range(14))


def test_what_a_wire_may_do_to_a_program(pair: Pair) -> None:
    card, cable = pair
    cable.disturb(down=1)
    put(cable, 1)
    cable.sync()
    card.sync()
    assert card.rx[0].empty
    cable.disturb(down=0, late=1)
    cable.sync()
    card.sync()
    assert take(card) == [1]
    assert cable.tx[0].space == SLOTS - 2  # sent, but not complete
    cable.sync()
    assert cable.tx[0].space == SLOTS - 1
    cable.disturb(rx_error=5)
    with pytest.raises(ShardserverError, match="other side is gone, or its rings are broken"):
        cable.rx[0].sync()
    cable.tx[0].sync()
    with pytest.raises(UsageError, match="fire: no such hook"):
        cable.disturb(fire=1)
    with pytest.raises(ShardserverError, match="out of range"):
        cable.disturb(late=32)


def test_pipes_of_a_region_exchange_buffers_and_others_do_not() -> None:
    name = f"mem:g{os.getpid()}{{"
    with rings.open(name + "1@reg") as one, rings.open(name + "2@reg") as two:
        assert one.same_region(two)
        with rings.open(name + "3") as own:
            assert not one.same_region(own)


def test_a_card_with_host_rings_and_its_host() -> None:
    name = f"mem:h{os.getpid()}"
    with rings.open(name + "*", rings=3, slots=16) as card:
        with rings.open(name + "^") as host, rings.open(name) as cable:
            assert (host.mac, len(card.rx), len(host.rx)) == (card.mac, 3, 1)
            for number in range(40):
                put(host, number)
                host.sync()
                card.sync()
                assert [take_ring(ring) for ring in card.rx] == [[], [], [number]]
                cable.sync()
                assert cable.rx[0].empty
        with pytest.raises(ShardserverError, match="no device with host rings here"):
            rings.open(f"mem:nobody{os.getpid()}^")


def test_poll_tells_of_a_broken_ring(pair: Pair) -> None:
    card, cable = pair
    cable.disturb(rx_error=5)
    with pytest.raises(ShardserverError, match="poll failed: the other side is gone"):
        cable.poll(rings.POLLIN, 1)
    cable.disturb(rx_error=0)
    put(card, 3)
    card.sync()
    assert cable.poll(rings.POLLIN, 1) == rings.POLLIN
    assert take(cable) == [3]
