"""Every interface with what `shardserver devices` tells of it. Start at `read`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shardserver import values
from shardserver.nic import machine as machines
from shardserver.nic import netlink, probe
from shardserver.nic.ethtool import Card
from shardserver.nic.machine import Machine
from shardserver.nic.netlink import Link


class Device(msgspec.Struct, frozen=True):
    """One interface. `backends` maps each backend to why it cannot open it; "" when it can."""

    name: str
    index: int
    driver: str
    bus: str
    kind: str
    rx_queues: int
    tx_queues: int
    queues_max: int
    mac: str
    mtu: int
    state: str
    carrier: bool
    addresses: list[str]
    taken: bool
    xdp: str
    backends: dict[str, str]
    best: str


def state(link: Link) -> str:
    """up, down, or up without a carrier."""
    if not link.flags & 1:
        return "down"
    return "up" if link.carrier else "no carrier"


def _read(link: Link, here: Machine, addresses: list[str], available: Sequence[str]) -> Device:
    with Card(link.name) as card:
        driver = card.driver()
        channels = card.channels()
    taken = machines.taken(link.index)
    found = (probe.verdicts_taken if taken else probe.verdicts)(link, here, available)
    return Device(
        name=link.name,
        index=link.index,
        driver=driver.name if driver else link.kind or "none",
        bus=driver.bus if driver else "",
        kind=link.kind,
        rx_queues=channels.receive if channels and channels.receive else link.rx_queues,
        tx_queues=channels.tx + channels.combined if channels else link.tx_queues,
        queues_max=channels.receive_max if channels else link.rx_queues,
        mac=values.mac_text(link.mac),
        mtu=link.mtu,
        state=state(link),
        carrier=link.carrier,
        addresses=addresses,
        taken=taken,
        xdp=probe.xdp_modes(link, here),
        backends=found,
        best=probe.best(found),
    )


def read(available: Sequence[str]) -> list[Device]:
    """Every interface of this network namespace, by number."""
    here = machines.read()
    of: dict[int, list[str]] = {}
    for address in netlink.addresses():
        of.setdefault(address.index, []).append(str(address))
    found = []
    for link in netlink.links():
        try:
            found.append(_read(link, here, of.get(link.index, []), available))
        except OSError:
            continue  # it went while we looked
    return found


def link_of(name: str) -> Link | None:
    """The interface of that name."""
    return next((link for link in netlink.links() if link.name == name), None)
