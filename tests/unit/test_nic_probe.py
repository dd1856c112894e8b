"""Which backends can open an interface, which policies they can do, and what netlink says."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from shardserver.errors import DeviceUnavailableError
from shardserver.nic import inventory, machine, netlink, policy, probe
from shardserver.nic.machine import Machine
from shardserver.nic.netlink import DefaultRoute, HostAddress, Link
from shardserver.values import DeviceName

ALL = ("mem", "packet", "xdp", "netmap", "pcap", "tap", "vde")
ROOT = frozenset(machine.CAPABILITIES)
HERE = Machine(kernel="6.18.1-test", capabilities=ROOT, xdp_features={2: 3})


def link(**changed: object) -> Link:
    made = {"index": 2, "name": "eth0", "type": 1, "flags": 0x1043, "mac": bytes(6), "mtu": 1500}
    return Link(**{**made, **changed})  # type: ignore[arg-type]


def test_root_on_a_whole_machine_can_have_everything() -> None:
    found = probe.verdicts(link(), HERE, ALL)
    assert found == {"netmap": "", "xdp": "", "packet": "", "pcap": ""}
    assert probe.best(found) == "netmap"


def test_a_build_without_a_backend_says_so() -> None:
    found = probe.verdicts(link(), HERE, ("mem", "packet"))
    assert found["netmap"] == found["xdp"] == "not in this build"
    assert probe.best(found) == "packet"


def test_a_backend_that_makes_its_own_opens_no_interface() -> None:
    assert "an interface of its own" in probe.why_not("tap", link(), HERE, ALL)
    assert "--device mem:NAME" in probe.why_not("mem", link(), HERE, ALL)


@pytest.mark.parametrize(
    ("backend", "of_link", "of_machine", "why"),
    [
        ("netmap", {}, {"netmap": "/dev/netmap is absent"}, "/dev/netmap is absent"),
        ("netmap", {"type": 772}, {}, "it is the loopback"),
        ("xdp", {}, {"first_user_namespace": False}, "bpf(2) is refused in a user namespace"),
        ("xdp", {}, {"capabilities": ROOT - {"bpf", "sys_admin"}}, "CAP_BPF is missing"),
        ("xdp", {}, {"capabilities": ROOT - {"net_admin"}}, "CAP_NET_ADMIN is missing"),
        ("xdp", {}, {"kernel": "5.4.0"}, "Linux 5.4.0 is older than 5.9"),
        ("xdp", {"xdp_mode": "native", "xdp_program": 7}, {},
         "another native XDP program (id 7) is on it"),
        ("xdp", {"type": 772}, {}, "it is the loopback"),
        ("packet", {}, {"capabilities": frozenset()}, "CAP_NET_RAW is missing"),
        ("packet", {"flags": 0x1002}, {}, "it is down: ip link set eth0 up"),
        ("packet", {"type": 65534}, {}, "it is no Ethernet interface"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_reason(
    backend: str, of_link: dict[str, object], of_machine: dict[str, object], why: str
) -> None:
    here = Machine(**{**vars(HERE), **of_machine})
    assert probe.why_not(backend, link(**of_link), here, ALL).startswith(why)


def test_what_a_server_has_nobody_else_can_open() -> None:
    found = probe.verdicts_taken(link(xdp_mode="native"), HERE, ("mem", "packet", "xdp"))
    assert found == {
        "netmap": "not in this build", "xdp": probe.TAKEN, "packet": probe.TAKEN,
    }  # fmt: skip
    assert probe.best(found) == ""


def test_xdp_modes_are_the_drivers() -> None:
    assert probe.xdp_modes(link(), HERE) == "native, copy"
    flags = netlink.XDP_BASIC | netlink.XDP_ZERO_COPY
    assert probe.xdp_modes(link(), Machine(xdp_features={2: flags})) == "native, zero-copy"
    assert probe.xdp_modes(link(), Machine(xdp_features={2: 0})).startswith("generic only")
    assert "does not tell" in probe.xdp_modes(link(), Machine())


@pytest.mark.parametrize(
    ("device", "interface"),
    [
        ("auto:eth0", "eth0"),
        ("packet:eth0:queue", "eth0"),
        ("netmap:eth0-3", "eth0"),
        ("netmap:eth0^", "eth0"),
        ("netmap:eth0-1@2", "eth0"),
        ("netmap:eth0/x", "eth0"),
        ("netmap:x{1", ""),
        ("netmap:vale0:1", ""),
        ("xdp:br-lan", "br-lan"),
        ("mem:eth0", ""),
        ("vde:/run/sw.ctl", ""),
        ("pcap:/tmp/x.pcap", ""),
        ("pcap:eth0", "eth0"),
    ],
)
def test_the_interface_is_found_in_a_devices_name(device: str, interface: str) -> None:
    backend, _, name = device.partition(":")
    assert probe.interface_of(DeviceName(backend, name)) == interface


def test_capabilities_are_read_from_the_status() -> None:
    assert machine.capabilities("CapEff:\t0000000000003000\n") == {"net_admin", "net_raw"}
    assert machine.capabilities("CapEff:\t000001ffffffffff\n") == ROOT
    assert machine.capabilities("") == frozenset()
    assert machine.maps_all("         0          0 4294967295\n")
    assert not machine.maps_all("         0       1000          1\n")


def test_this_machine_can_be_read() -> None:
    here = machine.read()
    assert here.kernel_number >= (4, 0)
    assert os.geteuid() != 0 or here.has("net_raw") or not here.first_user_namespace
    (lo,) = (device for device in inventory.read(("mem", "packet")) if device.name == "lo")
    assert (lo.index, lo.mac, lo.backends["netmap"]) == (1, "00:" * 5 + "00", "not in this build")


def test_a_taken_interface_is_seen() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        assert not machine.taken(987654)
        lock.bind("\0shardserver/device/if987654")
        assert machine.taken(987654)
    assert not machine.taken(987654)


# netlink's messages


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def route(family: int, *attributes: bytes, prefix: int = 0, kind: int = 1) -> bytes:
    head = struct.pack("=BBBBBBBBI", family, prefix, 0, 0, 254, 3, 0, kind, 0)
    return head + b"".join(attributes)


def test_a_link_is_read() -> None:
    head = struct.pack("=BxHiII", 0, 1, 5, 0x1043, 0)
    kind = attribute(18, attribute(1, b"vlan\0"))
    xdp = attribute(43 | 0x8000, attribute(2, b"\2") + attribute(4, struct.pack("=I", 9)))
    words = [(4, 1400), (5, 2), (10, 7), (30, 1), (32, 4)]
    numbers = b"".join(attribute(at, struct.pack("=I", value)) for at, value in words)
    found = netlink.parse_link(head + attribute(3, b"eth0.5\0") + numbers + kind + xdp)
    assert (found.name, found.index, found.kind, found.mtu) == ("eth0.5", 5, "vlan", 1400)
    assert (found.lower, found.master, found.promiscuity, found.rx_queues) == (2, 7, 1, 4)
    assert (found.xdp_mode, found.xdp_program) == ("generic", 9)
    elsewhere = netlink.parse_link(head + numbers + attribute(37, bytes(4)))
    assert elsewhere.lower == 0  # the lower one is in another namespace


def test_a_default_route_has_all_its_next_hops() -> None:
    out = attribute(4, struct.pack("=I", 3))
    assert netlink.parse_default_route(route(2, out)) == (DefaultRoute("IPv4", 3),)
    hops = attribute(9, b"".join(struct.pack("=HBBi", 8, 0, 0, index) for index in (5, 6)))
    assert netlink.parse_default_route(route(10, hops)) == (
        DefaultRoute("IPv6", 5),
        DefaultRoute("IPv6", 6),
    )
    assert netlink.parse_default_route(route(2, out, prefix=24)) == ()
    assert netlink.parse_default_route(route(10, out, kind=7)) == ()  # unreachable


def test_an_address_is_read() -> None:
    body = struct.pack("=BBBBI", 2, 24, 0, 0, 4) + attribute(2, bytes([10, 0, 0, 9]))
    assert netlink.parse_address(body) == HostAddress(4, "10.0.0.9", 24)
    assert str(netlink.parse_address(body)) == "10.0.0.9/24"


def test_attributes_that_lie_about_their_length_end_the_run() -> None:
    good = attribute(1, b"abcd")
    assert netlink.attributes(good + b"\2\0\5\0") == {1: b"abcd"}
    assert netlink.attributes(good + b"\xff\0\5\0") == {1: b"abcd"}
    assert netlink.attributes(b"\0") == {}


# policies


def test_auto_is_the_policy_that_is_safest_for_the_host() -> None:
    assert policy.choose("packet", "auto", "packet:eth0") == "pass-ip"
    assert policy.choose("xdp", "auto", "xdp:eth0") == "pass-ip"
    assert policy.choose("mem", "auto", "mem:x") == "exclusive"
    assert policy.choose("netmap", "auto", "netmap:eth0") == "pass-ip"
    assert policy.choose(policy.NETMAP_RING, "auto", "netmap:eth0-1") == "rings"
    assert policy.choose(policy.NETMAP_PORT, "auto", "netmap:x{1") == "exclusive"


@pytest.mark.parametrize("backend", policy.BACKENDS)
@pytest.mark.parametrize("wanted", list(policy.MEANING))
def test_a_policy_is_obtained_or_refused_with_the_reason(backend: str, wanted: str) -> None:
    why = policy.can(backend, wanted)
    if not why:
        assert policy.choose(backend, wanted, "x") == wanted
        return
    with pytest.raises(DeviceUnavailableError, match=f"cannot do --policy {wanted}") as refused:
        policy.choose(backend, wanted, f"{backend}:eth0")
    assert why in refused.value.message
    assert refused.value.hint.startswith(f"{backend} can: ")


def test_each_policy_says_what_it_means() -> None:
    assert set(policy.POLICIES) == {"auto", "exclusive", "pass", "pass-ip", "rings"}
    assert policy.explain("pass-ip").startswith("pass-ip: frames for the server's address")
