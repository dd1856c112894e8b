"""Facts → findings: what fails, what only warns, and the one command for each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_card import FakeCard, features, settings

from shardserver import cli, cli_doctor
from shardserver.errors import DeviceUnavailableError
from shardserver.nic import changes, doctor, findings, guard, journal, machine
from shardserver.nic.changes import ChannelChange, FlagChange, RssChange
from shardserver.nic.doctor import Engine, Facts, Interface, Irq
from shardserver.nic.findings import Finding
from shardserver.nic.machine import Machine
from shardserver.nic.netlink import Link
from shardserver.nic.settings import Driver, Moderation, Pair, Pause, Rss

SYMMETRIC = Rss(1, "6d5a" * 20, [0, 1, 2, 3] * 2)
GOOD = settings(
    rss=SYMMETRIC, features=features(rx_hashing=True), rings=Pair(1024, 1024, 4096, 4096),
    moderation=Moderation(0, 1, 0, 1, False, False), pause=Pause(False, False, False),
)  # fmt: skip
MACHINE = Machine(
    kernel="6.18.1",
    capabilities=frozenset(machine.CAPABILITIES),
    huge_pages={"2048kB": (0, 0)},
    huge_transparent="madvise",
    xdp_features={2: 11},
)
ETH = Interface(
    Link(2, "eth0", 1, 0x1043, bytes(6), 1500, rx_queues=4),
    GOOD,
    Driver("ixgbe", "6", "0000:3b:00.0"),
    tuple(Irq(queue, 40 + queue, (queue,)) for queue in range(4)),
    node=0,
)
FACTS = Facts(
    MACHINE, ("mem", "packet", "xdp", "netmap"), "3.11.7", "/usr/bin/python3", "core",
    (Engine("native", "shardserver 1"), Engine("picotcp", "picoTCP 1.7", "/lib/p.so")),
    {0: 0, 1: 0, 2: 0, 3: 0}, ETH,
)  # fmt: skip


def facts(**changed: object) -> Facts:
    """FACTS with some of the interface, its link, its settings or the machine otherwise."""
    found = FACTS
    for name, value in changed.items():
        if name in vars(found):
            found = replace(found, **{name: value})  # type: ignore[arg-type]
        elif name in vars(MACHINE):
            here = replace(found.machine, **{name: value})  # type: ignore[arg-type]
            found = replace(found, machine=here)
        else:
            assert found.interface
            found = replace(found, interface=_interface(found.interface, name, value))
    return found


def _interface(its: Interface, name: str, value: object) -> Interface:
    if name in vars(its):
        return replace(its, **{name: value})  # type: ignore[arg-type]
    if name in vars(its.link):
        return replace(its, link=replace(its.link, **{name: value}))  # type: ignore[arg-type]
    changed = {field: getattr(its.settings, field) for field in its.settings.__struct_fields__}
    assert name in changed
    return replace(its, settings=type(its.settings)(**{**changed, name: value}))


def of(topic: str, found: Facts) -> Finding:
    (finding,) = (each for each in doctor.examine(found) if each.topic == topic)
    return finding


def test_a_good_machine_passes_everywhere() -> None:
    listed = doctor.examine(FACTS)
    assert {finding.status for finding in listed} == {"ok"}
    assert len(listed) == 24
    assert findings.exit_code(listed) == 0
    assert doctor.fixes(listed) == []


@pytest.mark.parametrize(
    ("changed", "topic", "status", "fix"),
    [
        ({"kernel": "4.19.0"}, "kernel", "warn", "use Linux 5.4"),
        ({"engines": (Engine("picotcp", "", "/p.so", "/p.so is of another version"),)}, "engines",
         "warn", "make picotcp"),
        ({"netmap": "/dev/netmap is absent"}, "netmap", "warn", "modprobe netmap"),
        ({"capabilities": frozenset()}, "caps", "fail",
         "sudo setcap cap_net_raw,cap_net_admin,cap_bpf+ep /usr/bin/python3"),
        ({"capabilities": frozenset({"net_raw"})}, "caps", "warn",
         "sudo setcap cap_net_admin,cap_bpf+ep /usr/bin/python3"),
        ({"first_user_namespace": False}, "userns", "warn", "run it as root"),
        ({"user_namespaces": "kernel.unprivileged_userns_clone is 0"}, "userns", "warn",
         "sysctl -w kernel.unprivileged_userns_clone=1"),
        ({"user_namespaces": "user.max_user_namespaces is 0"}, "userns", "warn",
         "sysctl -w user.max_user_namespaces=15000"),
        ({"memlock": 8 << 20, "capabilities": frozenset({"net_raw"})}, "memlock", "warn",
         "ulimit -l unlimited"),
        ({"memlock": 8 << 20, "first_user_namespace": False}, "memlock", "warn",
         "ulimit -l unlimited"),
        ({"huge_transparent": "never"}, "hugepages", "warn",
         "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        ({"left": ("promisc off → on",)}, "journal", "fail", "shardserver nic restore eth0"),
        ({"up": False}, "link", "fail", "ip link set eth0 up"),
        ({"carrier": False}, "link", "fail", "ethtool eth0"),
        ({"type": 65534}, "backend", "fail", "shardserver demo"),
        ({"xdp_mode": "generic", "xdp_program": 7}, "xdp", "warn",
         "ip link set eth0 xdpgeneric off"),
        ({"carries": ("the IPv4 default route",)}, "route", "warn",
         "shardserver start --iface eth0 --force --confirm 30s"),
        ({"cpus": {0: 0, 1: 0}}, "queues", "warn", "ethtool -L eth0 combined 2"),
        ({"rings": Pair(256, 256, 4096, 4096)}, "rings", "warn", "ethtool -G eth0 rx 512"),
        ({"rss": settings().rss}, "rss", "warn", "ethtool -X eth0 hkey 6d:5a:6d:5a"),
        ({"features": features(rx_gro=True)}, "offloads", "warn", "ethtool -K eth0 rx-gro off"),
        ({"mtu": 9000}, "mtu", "warn", "ip link set eth0 mtu 1500"),
        ({"promisc": True}, "promisc", "warn", "ip link set eth0 promisc off"),
        ({"irqs": (Irq(0, 40, (0, 1)), Irq(1, 41, (0, 1)))}, "irq", "warn",
         "for p in 40:0 41:1; do echo"),
        ({"moderation": Moderation(50, 0, 50, 0, True, False)}, "moderation", "warn",
         "ethtool -C eth0 adaptive-rx off rx-usecs 0"),
        ({"pause": Pause(True, True, True)}, "pause", "warn",
         "ethtool -A eth0 autoneg off rx off tx off"),
        ({"cpus": {0: 0, 1: 0, 2: 1, 3: 1}}, "numa", "warn", "shardserver start --cpus 0,1"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_line_and_its_command(
    changed: dict[str, object], topic: str, status: str, fix: str
) -> None:
    finding = of(topic, facts(**changed))
    assert finding.status == status
    assert finding.fix.startswith(fix)


def test_engines_are_named_with_version_and_place() -> None:
    text = "native: shardserver 1 · picotcp: picoTCP 1.7, /lib/p.so"
    assert of("engines", FACTS).text == text
    absent = of("engines", facts(engines=(Engine("picotcp"),)))
    assert (absent.status, absent.text) == ("ok", "picotcp: not built (make picotcp)")


def test_what_a_driver_does_not_tell_is_no_fault() -> None:
    silent = facts(
        rss=None, rings=None, moderation=None, pause=None, channels=None, irqs=(), node=-1
    )
    assert {finding.status for finding in doctor.examine(silent)} == {"ok"}


def test_an_interface_that_serves_is_no_fault() -> None:
    serving = facts(taken=True, xdp_mode="native", xdp_program=7)
    assert {finding.status for finding in doctor.examine(serving)} == {"ok"}


def test_the_gravest_failure_is_the_exit_code() -> None:
    def code(**changed: object) -> int:
        return findings.exit_code(doctor.examine(facts(**changed)))

    assert code(promisc=True) == 0
    assert code(left=("x",)) == 1
    assert code(up=False, left=("x",)) == 6
    assert code(capabilities=frozenset(), up=False) == 5


def test_a_veths_queues_are_left_to_its_peer() -> None:
    assert of("queues", facts(cpus={0: 0}, kind="veth")).status == "ok"


def test_netmap_s_line_names_the_ring_of_a_veth_that_hears_nothing() -> None:
    finding = of("netmap", facts(kind="veth"))
    assert (finding.status, finding.fix) == ("warn", "ethtool -L PEER tx 5")
    assert "of the 4 rings of eth0 the last hears nothing unless" in finding.text
    assert of("netmap", facts(kind="veth", channels=None)).status == "ok"
    assert of("netmap", facts(kind="veth", netmap="absent")).fix == "modprobe netmap"


def test_fixes_come_in_the_order_that_they_need() -> None:
    bad = facts(
        up=False, promisc=True, rss=settings().rss, cpus={0: 0, 1: 0},
        features=features(rx_gro=True), xdp_mode="none",
    )  # fmt: skip
    bad = replace(bad, interface=replace(bad.interface, link=ETH.link))  # type: ignore[type-var]
    made = doctor.fixes(doctor.examine(bad))
    assert [type(change).__name__ for change in made] == [
        "FlagChange", "FlagChange", "ChannelChange", "RssChange", "FeatureChange",
    ]  # fmt: skip
    assert FlagChange("up", False, True) in made


def test_the_best_backend_now_and_after_the_fixes() -> None:
    assert (doctor.best(FACTS), doctor.best_after(FACTS)) == ("netmap", "netmap")
    poor = facts(netmap="absent", capabilities=frozenset({"net_raw"}))
    assert (doctor.best(poor), doctor.best_after(poor)) == ("packet", "xdp")
    none = facts(interface=None)
    assert (doctor.best(none), doctor.best_after(none)) == ("", "")


# --fix on a card in memory


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCard:
    made = FakeCard(settings(features=features(rx_gro=True), promisc=True))

    class Same:
        def __init__(self, _name: str) -> None: ...

        def __enter__(self) -> FakeCard:
            return made

        def __exit__(self, *_: object) -> None: ...

    def read(_name: str | None) -> Facts:
        return replace(FACTS, interface=replace(ETH, settings=made.now))

    for module in (cli_doctor, journal):
        monkeypatch.setattr(module, "Card", Same)
    monkeypatch.setattr(cli_doctor, "facts", read)
    monkeypatch.setattr(guard, "read", lambda _environment: guard.Ways())
    monkeypatch.setattr(cli_doctor, "_candidates", lambda: (tmp_path,))
    monkeypatch.setattr(journal, "current_name", lambda _record: "eth0")
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    code = cli.main(["doctor", "eth0", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_fix_changes_what_can_be_undone_and_restore_undoes_it(
    card: FakeCard, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = card.now
    code, document = run(capsys)
    assert (code, document["warnings"], document["fixed"]) == (0, 3, [])
    assert card.now == before
    code, document = run(capsys, "--fix")
    assert (code, document["warnings"], document["refused"]) == (0, 0, [])
    assert document["fixed"] == ["promisc on → off", "rss key symmetric", "offloads off: rx-gro"]
    (record,) = journal.records([tmp_path])
    assert record.header.keeper == "admin"
    assert journal.stale([tmp_path], 2) == []  # a start leaves it alone
    assert journal.restore(record) == journal.Outcome()
    assert card.now == before


def test_a_second_fix_goes_on_in_the_first_ones_journal(
    card: FakeCard, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = card.now
    run(capsys, "--fix")
    card.set_flag(0x100, True)
    assert run(capsys, "--fix")[1]["fixed"] == ["promisc on → off"]
    (record,) = journal.records([tmp_path])
    assert len(record.changes) == 4
    journal.restore(record)
    assert card.now == before


def test_what_the_driver_refuses_is_told_and_the_rest_is_done(
    card: FakeCard, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    card.refuses = {"set_rss"}
    _, document = run(capsys, "--fix")
    assert document["fixed"] == ["promisc on → off", "offloads off: rx-gro"]
    (refused,) = document["refused"]  # type: ignore[misc]
    assert "the driver refuses rss key symmetric" in refused
    (record,) = journal.records([tmp_path])
    assert journal.restore(record).stays == ()


def test_nothing_done_leaves_no_journal(
    card: FakeCard, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    card.refuses = {"set_rss", "set_flag", "set_features"}
    assert run(capsys, "--fix")[1]["fixed"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"taken": True}, "a shardserver has it"),
        ({"left": ("x",)}, "a killed server has left it changed"),
    ],
)
def test_fix_keeps_off_an_interface_in_use(changed: dict[str, object], message: str) -> None:
    found = replace(FACTS, interface=replace(ETH, **changed))  # type: ignore[arg-type]
    with pytest.raises(DeviceUnavailableError, match=message):
        cli_doctor._check_fixable(found, force=True)


def test_this_machine_can_be_examined(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "lo"])
    out = capsys.readouterr().out
    assert code in (0, 1, 5, 6)
    assert " ✓ driver " in out
    assert "best backend now: " in out
    assert cli.main(["doctor", "nosuch0"]) == 6
    assert "no such interface" in capsys.readouterr().err


def test_changes_that_findings_carry_are_those_of_start() -> None:
    finding = of("queues", facts(cpus={0: 0, 1: 0}))
    assert isinstance(finding.change, ChannelChange)
    assert finding.change.after.combined == 2
    rss = of("rss", facts(rss=settings().rss)).change
    assert isinstance(rss, RssChange)
    assert changes.is_symmetric(rss.after)
