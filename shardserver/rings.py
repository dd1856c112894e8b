"""Rings for teaching: netmap's slots and rings of any backend, one by one, in Python.

    with rings.open("mem:a") as nic, rings.open("mem:a") as cable:
        tx = cable.tx[0]
        slot = tx[tx.head]
        slot.buf[:14] = frame
        slot.len = 14
        tx.head = tx.cur = tx.next(tx.head)
        tx.sync()

The names are netmap's. Of a ring, slots [head, tail) are ours: frames to read (rx), or free to fill
(tx). `cur` says how far we have looked: a slot between head and cur is held, not given back. A sync
gives back what lies before head, and fetches what is new. Wrong use raises RingError, where netmap
would reset the ring. A frame costs microseconds here: tools and servers live in C.

Start reading at `Ring`.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Final

from shardserver import native, native_rings
from shardserver.errors import DeviceUnavailableError, ShardserverError, UsageError

NS_BUF_CHANGED: Final = 0x0001
NS_REPORT: Final = 0x0002
NS_FORWARD: Final = 0x0004
NS_MOREFRAG: Final = 0x0020
POLLIN: Final = native_rings.IN
POLLOUT: Final = native_rings.OUT
VNET_HDR_LEN: Final = 12
_CAP_VNET_HDR: Final = 1
_FIRST_BUF: Final = 2
_ROLES: Final = {
    "auto": native_rings.AUTO,
    "owner": native_rings.OWNER,
    "client": native_rings.CLIENT,
}
_FOREVER_US: Final = (1 << 63) - 1

# The mem: devices that this process owns, by name: a second open of one is a link to it.
_owners: weakref.WeakValueDictionary[str, RingPort] = weakref.WeakValueDictionary()


# The ends of pipes and switches that this process has open: they answer for their memory.
_ends: weakref.WeakSet[RingPort] = weakref.WeakSet()


def _shared_name(spec: str) -> str:
    """What the ends of one pipe, the pipes of one region, or the ports of one switch have in
    common; "" elsewhere."""
    backend, _, name = spec.partition(":")
    if backend == "vale":
        return f"vale:{name.partition(':')[0]}"
    if backend != "mem" or not {"{", "}"} & set(name):
        return ""
    _, at, region = name.replace("}", "{").partition("{")[2].partition("@")
    return f"@{region}" if at else spec.replace("}", "{")


def _card_name(spec: str) -> str:
    """The card behind mem:NAME, mem:NAME* (with host rings) and mem:NAME^ (its host)."""
    return spec.rstrip("*^")


@contextlib.contextmanager
def _answered(spec: str) -> Iterator[None]:
    """While another end of the same is opened, one of ours that is open answers: not itself."""
    name = _shared_name(spec)
    beside = [end for end in _ends if end._opened and name and _shared_name(end.name) == name]
    owner = _owners.get(_card_name(spec)) if "^" in spec else None
    beside += [owner] if owner and owner._opened else []
    for end in beside:
        end._rings.answer(True)
    try:
        yield
    finally:
        for end in beside:
            end._rings.answer(False)


class RingError(ShardserverError):
    """A ring was used against its contract; the sentence says how."""

    word = "ring_misused"


class Slot:
    """One descriptor of a ring. Only slots within [head, tail) may be touched."""

    __slots__ = ("_index", "_native", "_ring")

    def __init__(self, ring: Ring, index: int) -> None:
        self._ring = ring
        self._index = index
        self._native = ring._native.slot[index]

    def _own(self) -> Any:
        self._ring._check_owned(self._index)
        return self._native

    @property
    def buf_idx(self) -> int:
        """The buffer that this slot names."""
        return int(self._own().buf_idx)

    @buf_idx.setter
    def buf_idx(self, value: int) -> None:
        slot = self._own()
        bufs = self._ring._port._bufs
        if not _FIRST_BUF <= value < bufs:
            raise RingError(
                f"{self._ring}: slot {self._index}: there is no buffer {value}: give"
                f" {_FIRST_BUF} to {bufs - 1}"
            )
        slot.buf_idx = value

    @property
    def len(self) -> int:
        """Bytes of the frame (of this fragment) in the buffer."""
        return int(self._own().len)

    @len.setter
    def len(self, value: int) -> None:
        slot = self._own()
        if not 0 <= value <= self._ring.buf_size:
            raise RingError(
                f"{self._ring}: slot {self._index}: {value} bytes in a buffer of"
                f" {self._ring.buf_size}"
            )
        slot.len = value

    @property
    def flags(self) -> int:
        """NS_BUF_CHANGED, NS_MOREFRAG and the like."""
        return int(self._own().flags)

    @flags.setter
    def flags(self, value: int) -> None:
        self._own().flags = value

    @property
    def buf(self) -> memoryview:
        """The whole buffer, writable. Valid until the slot is given back."""
        return self._ring._port._view(self._ring, int(self._own().buf_idx))

    @property
    def data(self) -> memoryview:
        """The frame: the first `len` bytes of the buffer, writable."""
        return self.buf[: self.len]


class Ring:
    """netmap_ring. Indices run from 0 to num_slots - 1 and around."""

    def __init__(self, port: RingPort, index: int, tx: bool) -> None:
        self._port = port
        self._native_ring = port._rings.ring(index, tx)
        self.ringid = index
        self.is_tx = tx
        self.header_len = port.header_len
        self.num_slots = int(self._native_ring.num_slots)
        self.buf_size = int(self._native_ring.nr_buf_size)

    def __repr__(self) -> str:
        return f"{self._port.name}-{self.ringid}.{'tx' if self.is_tx else 'rx'}"

    @property
    def _native(self) -> Any:
        self._port._check_open()
        return self._native_ring

    @property
    def head(self) -> int:
        """First slot of ours. Setting it gives all before it back, at the next sync."""
        return int(self._native.head)

    @head.setter
    def head(self, value: int) -> None:
        self._check_step("head", value)
        self._native.head = value

    @property
    def cur(self) -> int:
        """How far we have looked; poll() wakes when there is something beyond it."""
        return int(self._native.cur)

    @cur.setter
    def cur(self, value: int) -> None:
        self._check_step("cur", value)
        self._native.cur = value

    @property
    def tail(self) -> int:
        """First slot that is not ours. Only a sync moves it."""
        return int(self._native.tail)

    @tail.setter
    def tail(self, value: int) -> None:
        raise RingError(f"{self}: tail is the other side's: only a sync moves it")

    def next(self, index: int) -> int:
        """nm_ring_next: the slot after `index`."""
        self._check_index(index)
        return 0 if index + 1 == self.num_slots else index + 1

    def _distance(self, start: int, end: int) -> int:
        return (end - start) % self.num_slots

    @property
    def space(self) -> int:
        """nm_ring_space: slots from cur to tail, frames to read or free slots to fill."""
        return self._distance(self.cur, self.tail)

    @property
    def empty(self) -> bool:
        """nm_ring_empty: nothing to read, or no free slot."""
        return self.space == 0

    def __len__(self) -> int:
        return self.num_slots

    def __getitem__(self, index: int) -> Slot:
        self._check_index(index)
        return Slot(self, index)

    @property
    def slot(self) -> Ring:
        """The slots: ring.slot[i], as the slides write it, is ring[i]."""
        return self

    def __iter__(self) -> Iterator[Slot]:
        """Slots from cur to tail. The ring is not moved: see `give`."""
        at = self.cur
        for _ in range(self.space):
            yield Slot(self, at)
            at = self.next(at)

    def give(self, count: int = 1) -> None:
        """Moves head and cur over the next `count` slots: read, or filled."""
        if not 0 <= count <= self._distance(self.head, self.tail):
            raise RingError(f"{self}: {count} slots: only {self.space} are ours")
        self.head = self.cur = (self.head + count) % self.num_slots

    def sync(self) -> None:
        """NIOCTXSYNC or NIOCRXSYNC of this ring."""
        self._check_cursors()
        self._port._rings.sync(self.ringid, self.is_tx)

    def _check_cursors(self) -> None:
        head, cur, tail = self.head, self.cur, self.tail
        if self._distance(head, cur) > self._distance(head, tail):
            raise RingError(f"{self}: cur {cur} is behind head {head}: set both")

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.num_slots:
            raise RingError(f"{self}: there is no slot {index}: give 0 to {self.num_slots - 1}")

    def _check_step(self, what: str, value: int) -> None:
        self._check_index(value)
        head, tail = self.head, self.tail
        if self._distance(head, value) > self._distance(head, tail):
            raise RingError(
                f"{self}: {what} cannot go to {value}: it moves forward only, within"
                f" [head, tail] = [{head}, {tail}]"
            )

    def _check_owned(self, index: int) -> None:
        head, tail = self.head, self.tail
        if self._distance(head, index) >= self._distance(head, tail):
            raise RingError(
                f"{self}: slot {index} is not ours now: [head, tail) is [{head}, {tail})"
            )


class RingPort:
    """The rings of one side of a device; what netmap's nm_open returns."""

    def __init__(self, spec: str, role: str, options: native.DeviceOptions) -> None:
        if role not in _ROLES:
            raise UsageError(f"role {role}: unknown", f"give one of {', '.join(_ROLES)}")
        self._opened = False
        owner = _owners.get(_card_name(spec)) if role != "owner" and "*" not in spec else None
        below = owner._rings if owner and owner._opened and "^" not in spec else None
        with _answered(spec):
            self._rings: native_rings.Rings = native_rings.Rings(spec, options, _ROLES[role], below)
        self._opened = True
        self._views: dict[int, memoryview] = {}
        info = self._rings.info
        self.name = info.name
        self.backend = info.backend
        self.banner = info.banner
        self.mtu = info.mtu
        self.mac = info.mac
        self.peer_mac = info.peer_mac
        self.is_client = info.client
        self.header_len: int = VNET_HDR_LEN if info.caps & _CAP_VNET_HDR else 0
        self.tx = tuple(Ring(self, i, True) for i in range(info.rings))
        self.rx = tuple(Ring(self, i, False) for i in range(info.rings))
        self._bufs = info.bufs or self._largest_index() + 1
        if _shared_name(spec):
            _ends.add(self)
        elif spec.startswith("mem:") and not info.client:
            _owners[_card_name(spec)] = self

    def _largest_index(self) -> int:
        rings = (*self.tx, *self.rx)
        slots = (ring._native.slot[i] for ring in rings for i in range(ring.num_slots))
        return max(int(slot.buf_idx) for slot in slots)

    def _check_open(self) -> None:
        if not self._opened:
            raise RingError(f"{self.name}: it is closed: open it again")

    def _view(self, ring: Ring, index: int) -> memoryview:
        if not _FIRST_BUF <= index < self._bufs:
            raise RingError(f"{ring}: a slot names buffer {index}, which does not exist")
        view = self._views.get(index)
        try:
            if view is not None and view.nbytes:
                return view
        except ValueError:  # released by who had it: a new one
            pass
        view = self._views[index] = self._rings.buffer(ring._native, index)
        return view

    @property
    def ring_pairs(self) -> tuple[tuple[Ring, Ring], ...]:
        """(rx, tx) of each ring pair."""
        return tuple(zip(self.rx, self.tx, strict=True))

    def sync(self) -> None:
        """Syncs every ring: what is filled leaves, what has come appears."""
        for ring in (*self.tx, *self.rx):
            ring.sync()

    def poll(self, events: int = POLLIN, timeout_s: float | None = None, **how: bool) -> int:
        """poll() on this port alone; see the function `poll`. Returns its events, 0: timeout."""
        return poll([(self, events)], timeout_s, **how)[0]

    def same_region(self, other: RingPort) -> bool:
        """Buffers may be moved between the two by swapping buf_idx (then set NS_BUF_CHANGED)."""
        self._check_open()
        other._check_open()
        return self._rings.same_region(other._rings)

    def disturb(self, **hooks: int) -> None:
        """Test hooks, of every ring: what a wire and a card may do to a program.

        down=1: nothing leaves, nothing comes. rx_error, tx_error: the errno that syncs raise.
        late=N: a slot that was sent is free again only N TX syncs later, 31 at most. 0 ends each.
        """
        self._check_open()
        for name, value in hooks.items():
            if name not in native_rings.HOOKS:
                raise UsageError(f"{name}: no such hook", f"give {', '.join(native_rings.HOOKS)}")
            for index in range(len(self.rx)):
                self._rings.hook(index, native_rings.HOOKS.index(name), value)

    def audit(self) -> int:
        """Buffers of a mem: device that are in no or in two places; for its owner only."""
        self._check_open()
        return self._rings.audit()

    def close(self) -> None:
        """Closes the port; views of its buffers can no longer be used. Idempotent."""
        if not self._opened:
            return
        self._opened = False
        for view in self._views.values():
            view.release()
        self._views.clear()
        for ring in (*self.tx, *self.rx):
            ring._native_ring = None
        self._rings.close()

    def __enter__(self) -> RingPort:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(  # the name that the slides use
    spec: str, *, role: str = "auto", rings: int = 0, slots: int = 0, faults: str = ""
) -> RingPort:
    """Opens "BACKEND:NAME".

    A mem: device has two sides: `role` "owner" makes the device, "client" attaches a link to one
    that somebody owns, "auto" attaches if there is an owner and becomes it otherwise. "mem:NAME*"
    has host rings, too, its last ring pair; "mem:NAME^" attaches as the host behind it. Elsewhere
    everybody is an owner. `rings` and `slots` are the owner's to choose, 0 is the default.
    Raises what the core says, DeviceUnavailableError for what is not there.
    """
    if ":" not in spec:
        raise DeviceUnavailableError(f"{spec}: not a port's name", "give one such as mem:a")
    return RingPort(spec, role, native.DeviceOptions(rings=rings, slots=slots, faults=faults))


def poll(
    ports: Sequence[tuple[RingPort, int]], timeout_s: float | None = None, *, no_tx: bool = False
) -> list[int]:
    """netmap's poll on several ports, each with the events that are waited for.

    Every look syncs: RX rings for POLLIN, TX rings always (what is filled leaves), unless `no_tx`,
    then only for POLLOUT. Ready is a port with a ring whose cur is not tail. POLLOUT is nearly
    always ready: ask for it only when out of slots. Returns each port's events; all 0: timeout.
    """
    for port, _ in ports:
        port._check_open()
        for ring in (*port.tx, *port.rx):
            ring._check_cursors()
    end = None if timeout_s is None else time.monotonic() + timeout_s
    wanted = [events | (native_rings.NO_TX if no_tx else 0) for _, events in ports]
    while True:
        left = _FOREVER_US if end is None else max(0, round((end - time.monotonic()) * 1e6))
        ready = native_rings.poll([port._rings for port, _ in ports], wanted, left)
        if ready or left == 0:
            return ready or [0] * len(ports)
