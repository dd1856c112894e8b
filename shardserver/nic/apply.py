"""Makes a change on an interface, and takes it back; each is checked by reading it again."""

from __future__ import annotations

import errno
import os
import time

from shardserver.errors import NoPermissionError, ShardserverError
from shardserver.nic import changes, ethtool
from shardserver.nic.changes import (
    Change,
    ChannelChange,
    FeatureChange,
    FlagChange,
    RssChange,
)
from shardserver.nic.ethtool import Card
from shardserver.nic.settings import Settings

IFF_RUNNING = 0x40
CARRIER_S = 5.0
_FLAGS = {"promisc": ethtool.IFF_PROMISC, "up": ethtool.IFF_UP}


def read(card: Card) -> Settings:
    """All settings of an interface."""
    flags = card.flags()
    return Settings(
        up=bool(flags & ethtool.IFF_UP),
        promisc=bool(flags & ethtool.IFF_PROMISC),
        features=card.features(),
        channels=card.channels(),
        rss=card.rss(),
        rings=card.rings(),
        moderation=card.moderation(),
        pause=card.pause(),
    )


def _make(card: Card, change: Change) -> None:
    match change:
        case FlagChange(flag=flag, after=after):
            card.set_flag(_FLAGS[flag], after)
        case FeatureChange(after=after):
            card.set_features(after)
        case ChannelChange(after=after):
            card.set_channels(after)
        case RssChange(before=before, after=after):
            key = bytes.fromhex(after.key) if before.key != after.key else b""
            card.set_rss(after.table if before.table != after.table else None, key)


def _stays(card: Card, change: Change) -> str:
    """What a driver silently did not do; "" when all is as asked."""
    match change:
        case FeatureChange(after=after):
            features = card.features()
            kept = [n for n, on in after.items() if features[n].wanted != on]
            kept += [n for n, on in after.items() if not on and features[n].active]
            return ", ".join(dict.fromkeys(kept))
        case ChannelChange(after=after):
            return "" if card.channels() == after else "the number of queues"
        case RssChange(after=after):
            now = card.rss()
            same = now and (now.key, now.table) == (after.key, after.table)
            return "" if same else "the flow hash"
        case FlagChange(flag=flag, after=after):
            return "" if bool(card.flags() & _FLAGS[flag]) == after else flag


def make(card: Card, change: Change) -> None:
    """Makes a change; an error says what the driver refused."""
    what = f"{card.name}: {changes.describe(change)}"
    try:
        _make(card, change)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NoPermissionError(
                f"{what}: {why}", "run as root, or with CAP_NET_ADMIN in this user namespace"
            ) from None
        raise changes.refuse(
            card.name,
            f"the driver refuses {changes.describe(change)}: {why}",
            f"try it by hand: {changes.command(card.name, change)}",
        ) from None
    kept = _stays(card, change)
    if kept:
        raise changes.refuse(card.name, f"the driver did not take it and kept {kept}")


def take_back(card: Card, change: Change) -> None:
    """Undoes a change; doing it twice does no harm. OSError where the driver refuses."""
    match change:
        case FlagChange(flag=flag, before=before):
            card.set_flag(_FLAGS[flag], before)
        case FeatureChange(before=before):
            card.set_features(before)
        case ChannelChange(before=before):
            if card.channels() != before:
                card.set_channels(before)
        case RssChange() as rss:
            _rss_back(card, rss)


def _rss_back(card: Card, change: RssChange) -> None:
    """The driver's own table comes back as its own: a table that was set pins the queues."""
    before = change.before
    key = bytes.fromhex(before.key) if before.key != change.after.key else b""
    if before.table == change.after.table:
        card.set_rss(None, key)
        return
    if not change.default_table:
        card.set_rss(before.table, key)
        return
    card.set_rss([], key)
    now = card.rss()
    if now and not changes.has_default_table(now, card.channels()):
        card.set_rss(changes.default_table(len(now.table), changes.queues_of(card.channels())), b"")


def wait_for_carrier(card: Card, had: bool) -> None:
    """A change may reset the link: waits until it is back, CARRIER_S at most."""
    end_s = time.monotonic() + CARRIER_S
    while had and not card.flags() & IFF_RUNNING:
        if time.monotonic() >= end_s:
            raise ShardserverError(
                f"{card.name}: the link did not come back within {CARRIER_S:g} s after the change",
                f"look at: ip link show {card.name}",
            )
        time.sleep(0.01)


def running(card: Card) -> bool:
    """Whether the interface is up and has a carrier."""
    return bool(card.flags() & IFF_RUNNING)
