"""--policy and --rings → whose frames are whose, on made-up machines."""

from pathlib import Path

import pytest
from test_topology import machine, settings

from orchestrator import plan, rings, topology
from orchestrator.topology import NetmapPort
from shardserver import native
from shardserver.errors import (
    ConfigInvalidError,
    DeviceUnavailableError,
    ShardserverError,
    UsageError,
)

HOST = "10.0.0.1/24"  # machine()'s own address
FREE = "10.0.0.5/24"
ROUTER = 0x0A0000FE
ALL = ("mem", "vale", "netmap", "xdp", "packet", "tap", "pcap", "vde")


def made(*, on: object = None, **flags: object) -> plan.Plan:
    """The plan for a machine with every backend."""
    where = on if on is not None else machine(netmap=True, gateway=ROUTER)
    return plan.make(settings(**flags), where, ALL)  # type: ignore[arg-type]


def options(of: plan.Plan, **flags: object) -> native.DeviceOptions:
    return rings.device_options(of, settings(**flags))


def test_the_hosts_own_address_is_shared_by_pass_only() -> None:
    shares = made(device="xdp:eth0", ip=HOST, policy="pass")
    assert (shares.policy, shares.sharing.shared) == ("pass", True)
    asked = options(shares, service="http:80")
    assert (asked.take, asked.tcp_ports) == (native.Take.PORTS, (7, 80))
    with pytest.raises(ConfigInvalidError, match="this host's own address") as refused:
        made(device="xdp:eth0", ip=HOST)
    assert "--policy pass" in refused.value.hint
    with pytest.raises(ConfigInvalidError, match="is not an address of this host") as refused:
        made(device="xdp:eth0", ip=FREE, policy="pass")
    assert "--policy pass-ip" in refused.value.hint
    with pytest.raises(ConfigInvalidError, match="this host's own address") as refused:
        made(device="packet:eth0", ip=HOST)
    assert "--policy pass, which shares it" in refused.value.hint


@pytest.mark.parametrize(
    ("flags", "take"),
    [
        ({"device": "xdp:eth0"}, native.Take.ADDRESS),
        ({"device": "xdp:eth0", "policy": "exclusive"}, native.Take.ALL),
        ({"device": "netmap:eth0"}, native.Take.ADDRESS),
        ({"device": "netmap:eth0", "policy": "exclusive"}, native.Take.ALL),
        ({"device": "packet:eth0"}, native.Take.ADDRESS),
        ({"device": "packet:eth0", "policy": "exclusive"}, native.Take.ALL),
        ({"device": "mem:x"}, native.Take.ALL),
    ],
)
def test_each_policy_takes_its_frames(flags: dict[str, object], take: native.Take) -> None:
    where = machine(netmap=True)
    if flags["device"] == "netmap:eth0":
        where = machine(netmap=True, netmap_port=NetmapPort("eth0"))
    assert options(made(on=where, ip=FREE, **flags)).take == take


def test_the_router_is_the_kernels_where_the_address_is() -> None:
    assert made(device="xdp:eth0", ip=HOST, policy="pass").sharing.gateway == ROUTER
    assert made(device="xdp:eth0", ip=FREE).sharing.gateway == 0
    given = made(device="xdp:eth0", ip=HOST, policy="pass", gateway="10.0.0.7")
    assert rings.server_options(given, settings()).gateway == 0x0A000007


def test_rings_by_number_are_xdps() -> None:
    some = made(device="xdp:eth0", ip=FREE, rings="3,1")
    assert (some.policy, some.sharing.queues) == ("rings", (1, 3))
    assert [shard.ring for shard in some.shards] == ["xdp:eth0-1", "xdp:eth0-3"]
    assert [shard.cpu for shard in some.shards] == [1, 3]  # where their interrupts are
    assert options(some).queues == 0b1010
    assert options(some).take == native.Take.ADDRESS
    both = made(device="xdp:eth0", ip=HOST, rings="1")
    assert options(both).take == native.Take.PORTS
    one = made(device="xdp:eth0", ip=FREE, rings="1,3", workers="1")
    assert "2 queues for 1 shards" in " ".join(one.notes)


def test_a_ring_of_netmaps_is_taken_by_its_name() -> None:
    where = machine(netmap=True, netmap_port=NetmapPort("eth0", ring=2))
    some = made(on=where, device="netmap:eth0-2", ip=FREE)
    assert (some.policy, len(some.shards)) == ("rings", 1)
    assert options(some).take == native.Take.ALL
    with pytest.raises(DeviceUnavailableError, match="only a NIC with all its rings"):
        made(on=where, device="netmap:eth0-2", ip=HOST, policy="pass")
    with pytest.raises(DeviceUnavailableError, match="netmap:IFACE-2"):
        made(
            on=machine(netmap=True, netmap_port=NetmapPort("eth0")),
            device="netmap:eth0", ip=FREE, rings="2",
        )  # fmt: skip
    pipe = machine(netmap=True, netmap_port=NetmapPort(""))
    assert made(on=pipe, device="netmap:x{1", ip=FREE).policy == "exclusive"


def test_the_ladder_passes_over_who_cannot() -> None:
    found = made(iface="eth0", ip=FREE, rings="1", on=machine(netmap=True))
    assert str(found.device) == "xdp:eth0"
    assert found.ladder[0].startswith("netmap: no --policy rings: a ring is taken by its name")
    found = made(iface="eth0", ip=HOST, policy="pass", on=machine(netmap=False))
    assert str(found.device) == "xdp:eth0"


@pytest.mark.parametrize(
    ("flags", "kind", "why"),
    [
        ({"rings": "4"}, ConfigInvalidError, "no ring 4: it has 4"),
        ({"policy": "rings"}, UsageError, "without rings"),
        ({"policy": "pass-ip", "rings": "1"}, UsageError, "takes every ring"),
        ({"policy": "pass", "ip": HOST, "engine": "picotcp"}, DeviceUnavailableError, "ARP"),
    ],
)
def test_what_does_not_fit_is_refused(
    flags: dict[str, object], kind: type[ShardserverError], why: str
) -> None:
    with pytest.raises(kind, match=why):
        made(**{"device": "xdp:eth0", "ip": FREE, **flags})


def test_a_listener_of_the_hosts_keeps_its_port() -> None:
    for address in (0, 0x0A000001):
        where = machine(listening=((address, 22), (0x7F000001, 7)))
        free = made(on=where, device="xdp:eth0", ip=HOST, policy="pass")
        assert not free.notes
        with pytest.raises(ConfigInvalidError, match="listens on TCP port 22 of"):
            made(on=where, device="xdp:eth0", ip=HOST, policy="pass", port="22")
        forced = made(on=where, device="xdp:eth0", ip=HOST, policy="pass", port="22", force="true")
        assert "TCP port 22: the host's own listener hears nothing more" in forced.notes[-1]


def test_the_hosts_listeners_and_router_are_read(tmp_path: Path) -> None:
    header = "  sl  local_address rem_address   st\n"
    rows = {
        "tcp": "0: 0100000A:0016 00000000:0000 0A x\n1: 0100000A:0050 0200000A:1 01 x\n",
        "tcp6": "0: 00000000000000000000000000000000:0051 0:0 0A x\n"
        "1: 0000000000000000FFFF00000100000A:0052 0:0 0A x\n"
        "2: B80D0120000000000000000001000000:0053 0:0 0A x\n",
    }
    (tmp_path / "net").mkdir()
    for name, text in rows.items():
        (tmp_path / "net" / name).write_text(header + text)
    assert topology.listening(tmp_path) == (
        (0x0A000001, 22), (0, 0x51), (0x0A000001, 0x52), (-1, 0x53),
    )  # fmt: skip
    (tmp_path / "net/route").write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "eth0 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
        "eth1 00000000 FD00000A 0003 0 0 0 00000000 0 0 0\n"
        "eth0 00000000 FE00000A 0003 0 0 0 00000000 0 0 0\n"
    )
    assert topology.gateway(tmp_path, "eth0") == ROUTER
    assert topology.gateway(tmp_path, "eth2") == 0


def test_take_is_the_cores_enum() -> None:
    _, lib = native.load()
    assert list(native.Take) == [lib.SS_TAKE_ADDRESS, lib.SS_TAKE_PORTS, lib.SS_TAKE_ALL]
