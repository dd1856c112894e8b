"""What a server wants of an interface → the changes that this takes, each with its way back. Pure.

Start at `plan`. A change knows what was before and what comes after, so that the journal can hold
it; `apply.py` makes it. What the driver cannot do is an error that names the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from shardserver.errors import DeviceUnavailableError
from shardserver.nic.settings import Channels, Feature, Rss, Settings

TOEPLITZ = 1
SYMMETRIC_WORD = "6d5a"  # a key that repeats 16 bits hashes both directions of a flow alike
# Offloads that a backend cannot live with. A name with "*" stands for all that begin so.
_TRANSMIT = ("tx-checksum-*", "tx-scatter-gather*", "tx-vlan-*", "tx-*-segmentation", "tx-gso-list")
_RECEIVE = ("rx-checksum", "rx-gro*", "rx-lro", "rx-udp-gro-forwarding", "rx-vlan-*-parse")
_HARMFUL: dict[str, tuple[str, ...]] = {
    "netmap": (*_TRANSMIT, *_RECEIVE),
    "xdp": ("rx-gro-hw", "rx-lro", "rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"),
}
_OFF = _HARMFUL["netmap"]
_SHOWN = 4  # offloads that a line names


class FlagChange(msgspec.Struct, frozen=True, tag="flag"):
    """IFF_PROMISC ("promisc") or IFF_UP ("up")."""

    flag: str
    before: bool
    after: bool


class FeatureChange(msgspec.Struct, frozen=True, tag="features"):
    """Offloads by name: what was asked for, and what is."""

    before: dict[str, bool]
    after: dict[str, bool]


class ChannelChange(msgspec.Struct, frozen=True, tag="channels"):
    """Numbers of queues."""

    before: Channels
    after: Channels


class RssChange(msgspec.Struct, frozen=True, tag="rss"):
    """Hash key and table. `default_table`: the driver's own table was there before."""

    before: Rss
    after: Rss
    default_table: bool


Change = FlagChange | FeatureChange | ChannelChange | RssChange


@dataclass(frozen=True)
class Wishes:
    """What a server wants of its interface; the defaults want nothing."""

    backend: str = ""
    offloads: str = "keep"
    promisc: bool = False
    channels: int = 0
    rss: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChangePlan:
    """Changes to make before and after the rings are opened; what cannot be changed is a note."""

    before_open: tuple[Change, ...] = ()
    after_open: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


def refuse(name: str, why: str, hint: str = "") -> DeviceUnavailableError:
    """The error for what the interface cannot do."""
    return DeviceUnavailableError(f"{name}: {why}", hint)


def _matches(name: str, pattern: str) -> bool:
    head, star, tail = pattern.partition("*")
    return name == pattern if not star else name.startswith(head) and name.endswith(tail)


def harmful(features: dict[str, Feature], backend: str) -> list[str]:
    """Offloads that are on and that the backend cannot live with, in the driver's order."""
    patterns = _HARMFUL.get(backend, ())
    return [n for n, f in features.items() if f.active and any(_matches(n, p) for p in patterns)]


def _features(settings: Settings, wishes: Wishes) -> tuple[list[Change], list[str]]:
    if wishes.offloads == "keep":
        return [], []
    backend = wishes.backend if wishes.offloads == "auto" else "netmap"
    on = harmful(settings.features, backend)
    changed = [name for name in on if not settings.features[name].fixed]
    fixed = [name for name in on if settings.features[name].fixed]
    notes = [f"the driver keeps {', '.join(fixed)} on"] if fixed else []
    if not changed:
        return [], notes
    before = {name: settings.features[name].wanted for name in changed}
    return [FeatureChange(before, dict.fromkeys(changed, False))], notes


def wanted_channels(name: str, have: Channels | None, count: int) -> Channels:
    """`have` with `count` receive queues; raises what the driver cannot do."""
    if have is None or not have.receive_max:
        raise refuse(name, "its driver has no adjustable number of queues", "leave --channels out")
    most = have.combined_max or min(have.rx_max, have.tx_max)
    if count > most:
        raise refuse(
            name, f"--channels {count}: its driver has at most {most}", f"--channels {most}"
        )
    if have.combined_max:
        return msgspec.structs.replace(have, combined=count)
    return msgspec.structs.replace(have, rx=count, tx=count)


def _channels(name: str, settings: Settings, wishes: Wishes) -> list[Change]:
    if not wishes.channels:
        return []
    after = wanted_channels(name, settings.channels, wishes.channels)
    if after == settings.channels or settings.channels is None:
        return []
    return [ChannelChange(settings.channels, after)]


def is_symmetric(rss: Rss) -> bool:
    """Whether both directions of a flow get the same hash."""
    head = rss.key[:4]
    repeats = len(rss.key) >= 4 and rss.key == head * (len(rss.key) // 4) and head != "0000"
    return bool(rss.symmetric) or (rss.function == TOEPLITZ and repeats)


def default_table(buckets: int, queues: int) -> list[int]:
    """The table that drivers begin with."""
    return [bucket % max(queues, 1) for bucket in range(buckets)]


def queues_of(channels: Channels | None) -> int:
    """Queues that receive; one where the driver does not tell."""
    return channels.receive if channels else 1


def has_default_table(rss: Rss, channels: Channels | None) -> bool:
    """Whether the table is the one that drivers begin with, for the queues that there are."""
    return rss.table == default_table(len(rss.table), queues_of(channels))


def _symmetric_key(name: str, rss: Rss) -> str:
    if not rss.key:
        raise refuse(name, "--rss symmetric: its driver tells no hash key", "leave --rss out")
    if rss.function != TOEPLITZ:
        raise refuse(
            name,
            f"--rss symmetric: its hash function is number {rss.function}, not Toeplitz",
            f"ethtool -X {name} hfunc toeplitz",
        )
    return SYMMETRIC_WORD * (len(rss.key) // 4) if not is_symmetric(rss) else rss.key


def _equal_table(name: str, word: str, rss: Rss, queues: int) -> list[int]:
    count = int(word.partition(":")[2] or queues)
    if not rss.table:
        raise refuse(name, f"--rss {word}: its driver has no table", "leave --rss out")
    if count > queues:
        raise refuse(name, f"--rss {word}: it has {queues} queues", f"--rss equal:{queues}")
    return default_table(len(rss.table), count)


def _rss(name: str, settings: Settings, wishes: Wishes) -> list[Change]:
    if not wishes.rss:
        return []
    before = settings.rss
    if before is None or not (before.key or before.table):
        raise refuse(
            name,
            f"--rss {','.join(wishes.rss)}: its driver has no adjustable flow hash",
            "leave --rss out: a flow that arrives on a wrong queue is steered to its shard",
        )
    queues = wishes.channels or queues_of(settings.channels)
    # The driver lays its table anew when the number of queues changes.
    own = has_default_table(before, settings.channels)
    start = default_table(len(before.table), queues) if own else before.table
    key, table = before.key, start
    for word in wishes.rss:
        if word == "symmetric":
            key = _symmetric_key(name, before)
        else:
            table = _equal_table(name, word, before, queues)
    after = msgspec.structs.replace(before, key=key, table=table)
    first = msgspec.structs.replace(before, table=start)
    return [] if after == first else [RssChange(first, after, own)]


def plan(name: str, settings: Settings, wishes: Wishes) -> ChangePlan:
    """The changes that `wishes` take on an interface with these settings."""
    features, notes = _features(settings, wishes)
    first = [*_channels(name, settings, wishes), *_rss(name, settings, wishes), *features]
    last: list[Change] = []
    if wishes.promisc and not settings.promisc:
        last.append(FlagChange("promisc", False, True))
    return ChangePlan(tuple(first), tuple(last), tuple(f"{name}: {note}" for note in notes))


def _on(value: bool) -> str:
    return "on" if value else "off"


def _counts(channels: Channels) -> str:
    parts = [(word, getattr(channels, word)) for word in ("rx", "tx", "combined")]
    return " ".join(f"{word} {count}" for word, count in parts if count)


def describe(change: Change) -> str:
    """A change in words: what was, and what is."""
    match change:
        case FlagChange(flag="up", after=after):
            return "link down → up" if after else "link up → down"
        case FlagChange(flag=flag, before=before, after=after):
            return f"{flag} {_on(before)} → {_on(after)}"
        case FeatureChange(after=after):
            more = f" and {len(after) - _SHOWN} more" if len(after) > _SHOWN else ""
            return f"offloads off: {', '.join(list(after)[:_SHOWN])}{more}"
        case ChannelChange(before=old, after=new):
            return f"channels {_counts(old)} → {_counts(new)}"
        case RssChange(before=rss, after=then):
            parts = []
            if rss.key != then.key:
                parts.append("key symmetric" if is_symmetric(then) else f"key {then.key}")
            if rss.table != then.table:
                parts.append(f"table over {len(set(then.table))} queues")
            return f"rss {', '.join(parts)}"


def _colons(key: str) -> str:
    return ":".join(key[at : at + 2] for at in range(0, len(key), 2))


def command(name: str, change: Change) -> str:
    """The shell's command for the same change."""
    match change:
        case FlagChange(flag=flag, after=after):
            word = ("up" if after else "down") if flag == "up" else f"promisc {_on(after)}"
            return f"ip link set {name} {word}"
        case FeatureChange(after=after):
            words = " ".join(f"{feature} {_on(on)}" for feature, on in after.items())
            return f"ethtool -K {name} {words}"
        case ChannelChange(after=after):
            return f"ethtool -L {name} {_counts(after)}"
        case RssChange(before=before, after=after):
            key = f" hkey {_colons(after.key)}" if before.key != after.key else ""
            spread = len(set(after.table))
            table = f" equal {spread}" if before.table != after.table else ""
            return f"ethtool -X {name}{key}{table}"


def differences(before: Settings, now: Settings) -> list[str]:
    """What is not as it was, one sentence each."""
    found = [
        f"{name}: {feature} became {now.features.get(name)}"
        for name, feature in before.features.items()
        if now.features.get(name) != feature
    ]
    for field in ("up", "promisc", "channels", "rss", "rings", "moderation", "pause"):
        old, new = getattr(before, field), getattr(now, field)
        if old != new:
            found.append(f"{field}: {old} became {new}")
    return found


def is_back(change: Change, now: Settings) -> bool:
    """Whether what a change has changed is as it was before it."""
    match change:
        case FlagChange(flag=flag, before=before):
            return bool(getattr(now, flag)) == before
        case FeatureChange(before=before):
            return all(n in now.features and now.features[n].wanted == w for n, w in before.items())
        case ChannelChange(before=old):
            return now.channels == old
        case RssChange(before=rss, default_table=own):
            if now.rss is None or now.rss.key != rss.key:
                return False
            return has_default_table(now.rss, now.channels) if own else now.rss.table == rss.table


def undone(changes: Sequence[Change]) -> list[Change]:
    """The changes in the order in which they are taken back."""
    return list(reversed(changes))
