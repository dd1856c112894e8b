"""Wishes and settings → changes, and what a driver cannot do."""

import msgspec
import pytest
from fake_card import KEY, features, settings

from shardserver.errors import DeviceUnavailableError
from shardserver.nic import changes
from shardserver.nic.changes import ChannelChange, FeatureChange, FlagChange, RssChange, Wishes
from shardserver.nic.settings import Channels, Feature, Rss


def only(plan: changes.ChangePlan) -> changes.Change:
    (change,) = (*plan.before_open, *plan.after_open)
    return change


def test_no_wish_is_no_change() -> None:
    assert changes.plan("eth0", settings(), Wishes()) == changes.ChangePlan()


def test_auto_turns_off_what_the_backend_cannot_live_with() -> None:
    for backend, off in (
        ("packet", ()),
        ("xdp", ("rx-lro",)),
        ("netmap", ("rx-gro", "rx-lro", "tx-checksum-ipv4")),
    ):
        plan = changes.plan("eth0", settings(), Wishes(backend, "auto"))
        found = [change for change in plan.before_open if isinstance(change, FeatureChange)]
        assert tuple(name for change in found for name in change.after) == off
        assert all(change.before == dict.fromkeys(change.after, True) for change in found)


def test_off_turns_all_of_it_off_on_every_backend() -> None:
    change = only(changes.plan("eth0", settings(), Wishes("packet", "off")))
    assert isinstance(change, FeatureChange)
    assert list(change.after) == ["rx-gro", "rx-lro", "tx-checksum-ipv4"]  # not rx-hashing


def test_what_was_asked_for_comes_back_not_what_was_active() -> None:
    """An offload that is on by another's grace must not be asked for at the end."""
    had = {**features(rx_gro=True), "rx-lro": Feature(False, True, False)}
    change = only(changes.plan("eth0", settings(features=had), Wishes("netmap", "off")))
    assert isinstance(change, FeatureChange)
    assert change.before == {"rx-gro": True, "rx-lro": False}


def test_a_fixed_offload_is_a_note() -> None:
    had = {"rx-lro": Feature(False, True, True)}
    plan = changes.plan("eth0", settings(features=had), Wishes("xdp", "auto"))
    assert plan.before_open == ()
    assert plan.notes == ("eth0: the driver keeps rx-lro on",)


def test_promiscuity_comes_after_the_rings_are_open() -> None:
    plan = changes.plan("eth0", settings(), Wishes(promisc=True))
    assert (plan.before_open, plan.after_open) == ((), (FlagChange("promisc", False, True),))
    on = settings(promisc=True)
    assert changes.plan("eth0", on, Wishes(promisc=True)) == changes.ChangePlan()


def test_queues_are_combined_or_a_pair_of_each() -> None:
    change = only(changes.plan("eth0", settings(rss=None), Wishes(channels=2)))
    assert isinstance(change, ChannelChange)
    assert (change.before.combined, change.after.combined, change.after.other) == (4, 2, 1)
    veth = Channels(4, 4, 0, 0, 4, 4, 0, 0)
    change = only(changes.plan("v0", settings(channels=veth), Wishes(channels=2)))
    assert isinstance(change, ChannelChange)
    assert (change.after.rx, change.after.tx, change.after.combined) == (2, 2, 0)
    assert changes.plan("eth0", settings(), Wishes(channels=4)) == changes.ChangePlan()


def test_a_symmetric_key_repeats_its_first_word() -> None:
    change = only(changes.plan("eth0", settings(), Wishes(rss=("symmetric",))))
    assert isinstance(change, RssChange)
    assert change.after.key == "6d5a" * 20
    assert len(change.after.key) == len(KEY)
    assert change.after.table == change.before.table
    assert changes.is_symmetric(change.after)
    assert not changes.is_symmetric(change.before)
    again = changes.plan("eth0", settings(rss=change.after), Wishes(rss=("symmetric",)))
    assert again == changes.ChangePlan()


def test_equal_spreads_over_the_queues_that_there_will_be() -> None:
    plan = changes.plan("eth0", settings(), Wishes(channels=8, rss=("equal:3",)))
    channels, rss = plan.before_open
    assert isinstance(channels, ChannelChange)
    assert isinstance(rss, RssChange)
    assert rss.before.table == [0, 1, 2, 3, 4, 5, 6, 7]  # the driver's own, over 8 queues
    assert rss.after.table == [0, 1, 2, 0, 1, 2, 0, 1]
    assert rss.default_table


def test_a_table_set_by_hand_is_known_as_such() -> None:
    mine = Rss(1, KEY, [3, 3, 3, 3, 0, 0, 0, 0])
    change = only(changes.plan("eth0", settings(rss=mine), Wishes(rss=("equal",))))
    assert isinstance(change, RssChange)
    assert not change.default_table
    assert change.before.table == mine.table


@pytest.mark.parametrize(
    ("changed", "wishes", "message"),
    [
        ({"channels": None}, Wishes(channels=2), "no adjustable number of queues"),
        ({}, Wishes(channels=9), "--channels 9: its driver has at most 8"),
        ({"rss": None}, Wishes(rss=("symmetric",)), "no adjustable flow hash"),
        ({"rss": Rss(1, "", [])}, Wishes(rss=("equal",)), "no adjustable flow hash"),
        ({"rss": Rss(1, "", [0, 1])}, Wishes(rss=("symmetric",)), "tells no hash key"),
        ({"rss": Rss(2, KEY, [0])}, Wishes(rss=("symmetric",)), "number 2, not Toeplitz"),
        ({"rss": Rss(1, KEY, [])}, Wishes(rss=("equal",)), "has no table"),
        ({}, Wishes(rss=("equal:5",)), "--rss equal:5: it has 4 queues"),
    ],
)
def test_what_the_driver_cannot_do_is_refused(
    changed: dict[str, object], wishes: Wishes, message: str
) -> None:
    with pytest.raises(DeviceUnavailableError, match=message):
        changes.plan("eth0", settings(**changed), wishes)


def test_each_change_has_its_shell_command_and_its_words() -> None:
    wishes = Wishes("netmap", "off", True, 2, ("symmetric", "equal:1"))
    plan = changes.plan("eth0", settings(), wishes)
    found = [*plan.before_open, *plan.after_open]
    key = ":".join(["6d:5a"] * 20)
    assert [changes.command("eth0", change) for change in found] == [
        "ethtool -L eth0 combined 2",
        f"ethtool -X eth0 hkey {key} equal 1",
        "ethtool -K eth0 rx-gro off rx-lro off tx-checksum-ipv4 off",
        "ip link set eth0 promisc on",
    ]
    assert [changes.describe(change) for change in found] == [
        "channels combined 4 → combined 2",
        "rss key symmetric, table over 1 queues",
        "offloads off: rx-gro, rx-lro, tx-checksum-ipv4",
        "promisc off → on",
    ]


def test_a_difference_is_named() -> None:
    now = settings(promisc=True, features=features(rx_gro=False))
    found = changes.differences(settings(), now)
    assert [line.partition(":")[0] for line in found] == [
        "rx-gro", "rx-lro", "tx-checksum-ipv4", "rx-hashing", "promisc",
    ]  # fmt: skip
    assert changes.differences(settings(), settings()) == []


def test_every_change_survives_the_journals_form() -> None:
    wishes = Wishes("netmap", "off", True, 2, ("symmetric",))
    plan = changes.plan("eth0", settings(), wishes)
    for change in (*plan.before_open, *plan.after_open):
        assert msgspec.json.decode(msgspec.json.encode(change), type=changes.Change) == change
