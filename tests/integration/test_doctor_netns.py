"""`shardserver doctor` on a real interface: what it finds and fixes, and that it can go back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import netns
import pytest
import running
from test_nic_netns import bench, journals, kill, settings, start

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]


def examine(server: running.Server, wire: netns.Wire, *words: str) -> tuple[int, dict]:
    done = server.run("doctor", wire.server_if, "--json", *words)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def finding(document: dict, topic: str) -> dict:
    return next(each for each in document["findings"] if each["topic"] == topic)


def link(wire: netns.Wire, *words: str) -> None:
    netns.run_in_server(wire, ["ip", "link", "set", wire.server_if, *words])


def test_a_sound_interface_passes() -> None:
    with netns.wire() as wire, bench(wire) as server:
        code, document = examine(server, wire)
        assert (code, document["failed"]) == (0, 0)
        assert document["best"] in ("netmap", "xdp", "packet")
        assert finding(document, "driver")["text"] == "veth"
        assert finding(document, "xdp")["text"] == "driver: native, copy"
        assert finding(document, "queues")["text"].startswith("4 queues")
        text = server.run("doctor", wire.server_if).stdout
        assert " ✓ driver     veth\n" in text
        assert "0 failed; best backend now: " in text


def test_it_is_examined_without_being_changed() -> None:
    with netns.wire() as wire, bench(wire) as server:
        link(wire, "promisc", "on")
        before = settings(wire)
        _, document = examine(server, wire)
        assert finding(document, "promisc")["fix"] == f"ip link set {wire.server_if} promisc off"
        assert settings(wire) == before
        assert journals(server) == []


def test_fix_brings_the_link_up_and_restore_takes_it_down_again() -> None:
    with netns.wire() as wire, bench(wire) as server:
        link(wire, "promisc", "on")
        link(wire, "down")
        before = settings(wire)
        code, document = examine(server, wire)
        assert code == 6
        assert finding(document, "link")["fix"] == f"ip link set {wire.server_if} up"
        code, document = examine(server, wire, "--fix")
        assert set(document["fixed"]) >= {"link down → up", "promisc on → off"}
        assert finding(document, "promisc")["status"] == "ok"
        assert settings(wire) != before
        fixed = settings(wire)
        shown = server.run("nic", "show", wire.server_if).stdout
        assert "by doctor --fix; undone by: shardserver nic restore" in shown
        assert start(server, wire, "--channels", "2").returncode == 0  # on top of what doctor did
        assert server.run("stop", "-n", server.name).returncode == 0
        assert settings(wire) == fixed
        assert server.run("nic", "restore", wire.server_if).returncode == 0
        assert settings(wire) == before
        assert journals(server) == []


def test_each_link_fault_has_its_word() -> None:
    with netns.wire() as wire, bench(wire) as server:
        netns.run_in_client(wire, ["ip", "link", "set", wire.client_if, "down"])
        code, document = examine(server, wire)
        assert code == 6
        assert finding(document, "link")["text"] == "no carrier: its peer is down"


def test_fix_keeps_off_the_default_routes_interface() -> None:
    with netns.wire() as wire, bench(wire) as server:
        link(wire, "promisc", "on")
        netns.run_in_server(wire, ["ip", "route", "add", "default", "dev", wire.server_if])
        before = settings(wire)
        refused = server.run("doctor", wire.server_if, "--fix")
        assert refused.returncode == 6
        assert "carries the IPv4 default route" in refused.stderr
        assert settings(wire) == before
        assert server.run("doctor", wire.server_if, "--fix", "--force").returncode == 0
        assert settings(wire) != before


def test_a_killed_servers_changes_are_a_failure() -> None:
    with netns.wire() as wire, bench(wire) as server:
        assert start(server, wire, "--promisc").returncode == 0
        kill(server, wire)
        code, document = examine(server, wire)
        assert code == 1
        assert finding(document, "journal")["fix"] == f"shardserver nic restore {wire.server_if}"


def test_without_privileges_it_says_what_is_missing() -> None:
    """As nobody, in the namespace of the test: no capability is left."""
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is missing (package util-linux)")
    with netns.wire() as wire, bench(wire) as server:
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        command = [*netns.server_argv(wire, drop), *running.COMMAND, "doctor", wire.server_if]
        done = subprocess.run(
            [*command, "--json"],
            env={**os.environ, **server.environment},
            cwd=running.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        document = json.loads(done.stdout)
        assert done.returncode == 5
        assert "CAP_NET_RAW" in finding(document, "caps")["text"]
        assert "cap_net_raw" in finding(document, "caps")["fix"]
        assert finding(document, "backend")["kind"] == "no_permission"
        assert document["best"] == ""
