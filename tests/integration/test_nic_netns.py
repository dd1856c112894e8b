"""Settings of a real interface: changed, served on, bit for bit as before, whoever is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import netns
import pytest
import running

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or ""),
]

CHANGED = ("--offloads", "off", "--channels", "2", "--promisc")
WORKERS = min(2, len(os.sched_getaffinity(0)))  # one a ring, as far as there are CPUs
SYSTEM = Path("/run/shardserver")


@contextmanager
def bench(wire: netns.Wire, **environment: str) -> Iterator[running.Server]:
    """An instance that does not run yet, with a runtime directory of its own."""
    with tempfile.TemporaryDirectory(prefix="ss-") as runtime:
        prefix = tuple(netns.server_argv(wire, []))
        name = "from shardserver.nic import journal; print(journal.namespace())"
        namespace = subprocess.run(
            [*prefix, sys.executable, "-c", name],
            cwd=running.ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        made = {"RUNTIME_DIRECTORY": runtime, "SSH_CONNECTION": "", "NAMESPACE": namespace}
        made.update(environment)
        server = running.Server(f"t{os.getpid()}", runtime, prefix, (), made)
        try:
            yield server
        finally:
            server.run("stop", "-n", server.name, "--now")
            server.run("nic", "restore")


def start(
    server: running.Server, wire: netns.Wire, *words: str, iface: str = ""
) -> subprocess.CompletedProcess[str]:
    """`start -D` on the wire."""
    where = ["--iface", iface or wire.server_if, "--ip", f"{wire.service}/24"]
    return server.run("start", "-D", "-n", server.name, *where, *words)


def settings(wire: netns.Wire) -> list[str]:
    """All that ethtool and ip tell of the interface, as they print it."""
    found = []
    for option in ("-k", "-l", "-g", "-c", "-a", "-x"):
        argv = netns.server_argv(wire, ["ethtool", option, wire.server_if])
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        found.append(done.stdout + done.stderr)
    link = netns.run_in_server(wire, ["ip", "-d", "-j", "link", "show", wire.server_if])
    return [*found, link]


def orchestrator(server: running.Server) -> int:
    return int(Path(server.runtime, f"{server.name}.pid").read_text())


def all_gone(wire: netns.Wire) -> None:
    """Waits until a killed server's processes are."""
    end_s = time.monotonic() + running.PATIENCE_S
    while netns.processes(wire.server_ns):
        assert time.monotonic() < end_s, "a killed server's processes are still there"
        time.sleep(0.02)


def kill(server: running.Server, wire: netns.Wire) -> None:
    """kill -9, and all of its processes are gone."""
    os.kill(orchestrator(server), signal.SIGKILL)
    all_gone(wire)


def journals(server: running.Server) -> list[str]:
    """Those of this wire: killed servers of other tests may have left some of theirs."""
    folders = (SYSTEM, Path(server.runtime))
    pattern = f"nic-{server.environment['NAMESPACE']}-*"
    return [path.name for folder in folders for path in folder.glob(pattern)]


def test_settings_are_as_before_after_the_exit() -> None:
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        started = start(server, wire, *CHANGED)
        assert started.returncode == 0, started.stderr
        during = settings(wire)
        assert "tx-checksum-ip-generic: off" in during[0]
        assert "RX:\t\t2" in during[1].partition("Current")[2]
        assert '"PROMISC"' in during[-1]
        shown = server.run("nic", "show", wire.server_if).stdout
        assert f'the server "{server.name}" (pid {orchestrator(server)})' in shown
        assert "channels rx 4 tx 4 → rx 2 tx 2" in shown
        assert len(journals(server)) == 1
        stopped = server.run("stop", "-n", server.name)
        assert stopped.returncode == 0, stopped.stderr
        assert settings(wire) == before
        assert journals(server) == []


def echoed(wire: netns.Wire) -> bool:
    """A kernel client's bytes come back."""
    words = f"s = socket.create_connection(({wire.service!r}, 7), 10); s.sendall(b'hello')"
    program = f"import socket; {words}; print(s.recv(5, socket.MSG_WAITALL))"
    return "hello" in netns.run_in_client(wire, [sys.executable, "-c", program])


@pytest.mark.parametrize("backend", ["packet", "xdp", "pcap"])
def test_a_mac_that_is_not_the_cards_is_heard_and_nothing_is_left_of_it(backend: str) -> None:
    """Promiscuity hangs on a descriptor of the orchestrator: no death can leave it behind."""
    words = ("--backend", backend, "--mac", "02:aa:bb:cc:dd:01", "--workers", "1")
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        for end in ("stop", "kill"):
            started = start(server, wire, *words)
            assert started.returncode == 0, started.stderr
            log = Path(server.runtime, f"{server.name}.log").read_text()
            assert "promiscuous for a MAC of its own" in log
            during = json.loads(settings(wire)[-1])[0]
            assert during["promiscuity"] == 1
            assert echoed(wire)
            if end == "stop":
                assert server.run("stop", "-n", server.name).returncode == 0
            else:
                kill(server, wire)
                server.run("nic", "restore")
            assert settings(wire) == before


def test_settings_are_as_before_after_a_kill_and_restore() -> None:
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        assert start(server, wire, *CHANGED).returncode == 0
        refused = server.run("nic", "restore", wire.server_if)
        assert refused.returncode == 6
        assert f"shardserver stop -n {server.name}" in refused.stderr
        skipped = server.run("nic", "restore")
        assert (skipped.returncode, "left as it is: the server" in skipped.stdout) == (0, True)
        assert settings(wire) != before
        kill(server, wire)
        assert settings(wire) != before
        assert "a killed server" in server.run("nic", "show").stdout
        restored = server.run("nic", "restore", wire.server_if, "--json")
        (document,) = json.loads(restored.stdout)["restored"]
        assert (document["interface"], document["not_ours"]) == (wire.server_if, [])
        assert [change["type"] for change in document["changes"]] == [
            "channels", "features", "flag",
        ]  # fmt: skip
        assert settings(wire) == before
        assert journals(server) == []
        assert "nothing to restore" in server.run("nic", "restore").stdout


def test_a_start_after_a_kill_restores_first() -> None:
    """Or it would take the changed settings for the original ones."""
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        assert start(server, wire, *CHANGED).returncode == 0
        kill(server, wire)
        assert start(server, wire, "--channels", "3").returncode == 0
        log = Path(server.runtime, f"{server.name}.log").read_text()
        assert "had changed it; undone: channels rx 4 tx 4 → rx 2 tx 2" in log
        assert server.run("stop", "-n", server.name).returncode == 0
        assert settings(wire) == before
        assert journals(server) == []


def test_a_kill_at_any_moment_of_the_start_is_undone() -> None:
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        seen = set()
        for step in range(10):
            process = start_in_foreground(server, wire)
            found = wait_for_change(wire, before, process, step)
            process.kill()
            process.wait()
            all_gone(wire)
            seen.add(found)
            assert server.run("nic", "restore").returncode == 0
            assert settings(wire) == before, f"killed at step {step}"
        assert seen == {True}, "no kill fell after the first change"
        assert journals(server) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_between_the_first_change_and_readiness_loses_nothing(number: int) -> None:
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        for step in range(3):
            process = start_in_foreground(server, wire)
            assert wait_for_change(wire, before, process, step * 10)
            process.send_signal(number)
            if number == signal.SIGHUP:  # the terminal is gone: the server stays
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert settings(wire) == before, f"after {number} at step {step}"
            assert journals(server) == []


def start_in_foreground(server: running.Server, wire: netns.Wire) -> subprocess.Popen[bytes]:
    """Not waited for; `ip netns exec` becomes the server itself."""
    where = ["--iface", wire.server_if, "--ip", f"{wire.service}/24", "-n", server.name]
    return subprocess.Popen(
        [*server.prefix, *running.COMMAND, "start", *where, *CHANGED],
        env={**os.environ, **server.environment},
        cwd=running.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_change(
    wire: netns.Wire, before: list[str], process: subprocess.Popen[bytes], step: int
) -> bool:
    """Waits until the first setting is changed, and `step` steps of 3 ms on."""
    channels = ["ethtool", "-l", wire.server_if]
    end_s = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end_s:
        if netns.run_in_server(wire, channels) != before[1]:
            time.sleep(0.003 * step)
            return True
    return False


def test_a_server_echoes_on_a_changed_interface() -> None:
    with netns.wire() as wire, bench(wire) as server:
        assert start(server, wire, *CHANGED).returncode == 0
        assert len(server.stats()["shards"]) == WORKERS
        there = running.Server(
            server.name, server.runtime, (), tuple(netns.client_argv(wire, [])), server.environment
        )
        words = (f"{wire.service}:7", "-c", "20", "-s", "2000", "--messages", "20", "-d", "20s")
        document = there.load(*words)
        assert running.no_errors(document)
        assert document["bytes"] == 20 * 20 * 2000


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--channels", "9"), "--channels 9: its driver has at most 4"),
        (("--rss", "symmetric"), "its driver has no adjustable flow hash"),
        (("--policy", "rings", "--rings", "0"), "packet cannot do --policy rings"),
        (("--policy", "rings"), "packet cannot do --policy rings"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(words: tuple[str, ...], why: str) -> None:
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        device = ("--device", f"packet:{wire.server_if}", "--ip", f"{wire.service}/24")
        done = server.run("start", "-D", "-n", server.name, *device, "--offloads", "off", *words)
        assert (done.returncode, done.stderr.count("\n")) == (6, 2)
        assert why in done.stderr
        assert settings(wire) == before
        assert journals(server) == []


def test_a_start_that_fails_after_its_changes_undoes_them() -> None:
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        device = ("--device", f"packet:{wire.server_if}", "--ip", f"{wire.service}/24")
        words = (*CHANGED, "--slots", "1")
        done = server.run("start", "-D", "-n", server.name, *device, *words)
        assert done.returncode != 0
        assert "128 to 8176 slots" in done.stderr
        assert settings(wire) == before
        assert journals(server) == []


def test_a_dry_run_shows_the_changes_and_makes_none() -> None:
    with netns.wire() as wire, bench(wire) as server:
        before = settings(wire)
        where = ("--iface", wire.server_if, "--ip", f"{wire.service}/24")
        done = server.run("start", "--dry-run", *where, *CHANGED)
        assert done.returncode == 0, done.stderr
        assert "change    channels rx 4 tx 4 → rx 2 tx 2 (undone at the end)" in done.stdout
        assert "change    promisc off → on (undone at the end)" in done.stdout
        assert "taken" in done.stdout.splitlines()[1]
        assert f"workers   {WORKERS}" in done.stdout
        assert settings(wire) == before


def test_an_interface_that_is_gone_has_nothing_to_restore() -> None:
    with netns.wire() as wire, bench(wire) as server:
        assert start(server, wire, *CHANGED).returncode == 0
        kill(server, wire)
        netns.run_in_server(wire, ["ip", "link", "del", wire.server_if])
        assert "(gone)" in server.run("nic", "show").stdout
        done = server.run("nic", "restore")
        assert (done.returncode, "is gone" in done.stdout) == (0, True)
        assert journals(server) == []


def address(wire: netns.Wire) -> None:
    netns.run_in_server(wire, ["ip", "addr", "add", "10.77.0.9/24", "dev", wire.server_if])


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_the_default_routes_interface_is_refused_unless_forced(family: str) -> None:
    with netns.wire() as wire, bench(wire) as server:
        if family == "-6":
            path = f"/proc/sys/net/ipv6/conf/{wire.server_if}/disable_ipv6"
            netns.run_in_server(wire, ["sh", "-c", f"echo 0 > {path}"])
        route = ["route", "add", "default", "dev", wire.server_if]
        netns.run_in_server(wire, ["ip", family, *route])
        before = settings(wire)
        refused = start(server, wire, "--offloads", "off")
        assert refused.returncode == 6
        assert f"carries the IPv{family[1]} default route" in refused.stderr
        assert "--force" in refused.stderr
        assert settings(wire) == before
        dry = server.run("start", "--dry-run", wire.server_if, "--ip", f"{wire.service}/24")
        assert dry.returncode == 6
        forced = start(server, wire, "--offloads", "off", "--force")
        assert forced.returncode == 0, forced.stderr


def test_the_logins_interface_is_refused() -> None:
    login = "10.77.0.10 51544 10.77.0.9 22"
    with netns.wire() as wire, bench(wire, SSH_CONNECTION=login) as server:
        address(wire)
        refused = start(server, wire)
        assert refused.returncode == 6
        assert "carries this login (SSH from 10.77.0.10)" in refused.stderr


def test_what_nobody_confirms_is_rolled_back() -> None:
    with netns.wire() as wire, bench(wire) as server:
        begun_s = time.monotonic()
        before = settings(wire)
        confirm_s = 4 + math.ceil(8 * (time.monotonic() - begun_s))  # while we look again
        assert start(server, wire, *CHANGED, "--confirm", f"{confirm_s}").returncode == 0
        assert settings(wire) != before
        end_s = time.monotonic() + confirm_s + running.PATIENCE_S
        while Path(server.runtime, f"{server.name}.pid").exists():
            assert time.monotonic() < end_s, "it did not roll back"
            time.sleep(0.05)
        assert settings(wire) == before
        assert journals(server) == []
        log = Path(server.runtime, f"{server.name}.log").read_text()
        assert f"not confirmed within {confirm_s} s: the server was stopped" in log


def test_what_is_confirmed_stays() -> None:
    with netns.wire() as wire, bench(wire) as server:
        begun_s = time.monotonic()
        server.run("status", "-n", server.name)
        confirm_s = 3 + math.ceil(8 * (time.monotonic() - begun_s))  # while a command runs
        assert start(server, wire, *CHANGED, "--confirm", f"{confirm_s}").returncode == 0
        assert server.run("confirm", "-n", server.name).returncode == 0
        time.sleep(confirm_s + 0.2)  # until what was confirmed would have been rolled back
        assert server.run("status", "-n", server.name).returncode == 0


def test_devices_tell_what_can_be_opened_and_what_is_taken() -> None:
    with netns.wire() as wire, bench(wire) as server:
        address(wire)

        def found() -> dict[str, object]:
            document = json.loads(server.run("devices", "--json").stdout)
            return next(d for d in document["devices"] if d["name"] == wire.server_if)

        device = found()
        assert (device["driver"], device["rx_queues"], device["state"]) == ("veth", 4, "up")
        assert device["addresses"][0] == "10.77.0.9/24"
        assert device["backends"]["packet"] == ""
        assert device["taken"] is False
        assert start(server, wire).returncode == 0
        device = found()
        assert (device["taken"], device["best"]) == (True, "")
        assert device["backends"]["packet"] == "a shardserver has it"
