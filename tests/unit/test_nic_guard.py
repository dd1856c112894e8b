"""What of the host's own an interface carries, and who is asked before it is taken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from serving import ROOT

from shardserver.errors import DeviceUnavailableError
from shardserver.nic import guard
from shardserver.nic.guard import Ways
from shardserver.nic.netlink import DefaultRoute, HostAddress, Link

SSH = "192.0.2.9 51544 192.0.2.1 22"


def link(index: int, name: str, **more: object) -> Link:
    return Link(index, name, 1, 0x1043, bytes(6), 1500, **more)  # type: ignore[arg-type]


ETH = link(2, "eth0")
OTHER = link(3, "eth1")


def test_a_quiet_interface_may_be_taken() -> None:
    ways = Ways((ETH, OTHER), (DefaultRoute("IPv4", 2),), (HostAddress(2, "192.0.2.1", 24),), SSH)
    assert guard.check(ways, "eth1", force=False) == ()
    assert guard.check(ways, "nosuch0", force=False) == ()


def test_default_routes_of_both_families_are_seen() -> None:
    ways = Ways((ETH, OTHER), (DefaultRoute("IPv4", 2), DefaultRoute("IPv6", 3)))
    assert guard.reasons(ways, "eth0") == ["the IPv4 default route"]
    assert guard.reasons(ways, "eth1") == ["the IPv6 default route"]


@pytest.mark.parametrize(
    ("login", "address"),
    [
        (SSH, "192.0.2.1"),
        ("2001:db8::9 5 2001:db8::1 22", "2001:db8::1"),
        ("::ffff:192.0.2.9 5 ::ffff:192.0.2.1 22", "192.0.2.1"),
        ("fe80::9%eth0 5 fe80::1%eth0 22", "fe80::1"),
    ],
)
def test_the_interface_of_the_login_is_seen(login: str, address: str) -> None:
    ways = Ways((ETH, OTHER), (), (HostAddress(2, address, 24),), login)
    (why,) = guard.reasons(ways, "eth0")
    assert why.startswith("this login (SSH from ")
    assert guard.reasons(ways, "eth1") == []


@pytest.mark.parametrize("login", ["", "x", "a b c d", "192.0.2.9 5 203.0.113.1 22"])
def test_a_login_that_came_elsewhere_is_nothing(login: str) -> None:
    ways = Ways((ETH,), (), (HostAddress(2, "192.0.2.1", 24),), login)
    assert guard.reasons(ways, "eth0") == []


@pytest.mark.parametrize(
    "above",
    [
        (link(2, "eth0", master=9), link(9, "br0", kind="bridge")),
        (link(2, "eth0", master=8), link(8, "bond0", master=9, kind="bond"), link(9, "br0")),
        (ETH, link(9, "eth0.10", kind="vlan", lower=2)),
        (link(2, "eth0", master=8), link(8, "bond0"), link(9, "bond0.7", kind="vlan", lower=8)),
    ],
)
def test_a_port_carries_what_its_bridge_bond_or_vlan_carries(above: tuple[Link, ...]) -> None:
    (why,) = guard.reasons(Ways(above, (DefaultRoute("IPv4", 9),)), "eth0")
    assert why == f"the IPv4 default route, on {above[-1].name}"


def test_a_veth_does_not_carry_its_peers_traffic() -> None:
    links = (link(2, "v0", kind="veth", lower=3), link(3, "v1", kind="veth", lower=2))
    assert guard.reasons(Ways(links, (DefaultRoute("IPv4", 3),)), "v0") == []


def test_it_is_refused_and_force_is_a_note() -> None:
    ways = Ways((ETH,), (DefaultRoute("IPv4", 2),), (HostAddress(2, "192.0.2.1", 24),), SSH)
    with pytest.raises(DeviceUnavailableError, match="eth0 carries the IPv4 default route and this "
                       "login") as refused:  # fmt: skip
        guard.check(ways, "eth0", force=False)
    assert "--force" in refused.value.hint
    assert "--confirm" in refused.value.hint
    (note,) = guard.check(ways, "eth0", force=True)
    assert note.endswith("taken by --force")


def test_a_login_is_found_where_sudo_has_cleaned_the_environment() -> None:
    """The parent has SSH_CONNECTION, the child does not: as sudo leaves it."""
    code = "from shardserver.nic import guard; print(guard.find_login({}))"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], env={{}})"
    environment = {**os.environ, "SSH_CONNECTION": SSH}
    done = subprocess.run(
        [sys.executable, "-c", parent],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == SSH


def test_the_environment_comes_first() -> None:
    assert guard.find_login({"SSH_CONNECTION": SSH}) == SSH


def test_this_machines_ways_can_be_read() -> None:
    ways = guard.read({})
    assert "lo" in [link.name for link in ways.links]
