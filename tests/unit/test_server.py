"""The real thing on the software NIC: the C core under the orchestrator, no root needed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq
from serving import Serving, children, wait_for

from orchestrator import watch
from shardserver import native
from shardserver.errors import ConfigInvalidError, DeviceUnavailableError
from shardserver.native import DeviceOptions, ServerOptions

ADDRESS = 0x0A4D0001


@pytest.fixture
def server():
    with Serving("--device", f"mem:t{os.getpid()}", "--workers", "2", fake=False) as made:
        yield made


def load(server: Serving, *options: str) -> dict:
    done = server.cli("load", f"mem:t{os.getpid()}", "--json", "--processes", "1", *options)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_the_library_names_what_it_has() -> None:
    assert "tcp_ok" in native.verdict_names()
    assert "conns_active" in native.counter_names()
    assert {"mem", "packet", "xdp"} <= set(native.backend_names())
    assert {"echo", "discard", "chargen", "daytime", "http", "sockperf"} <= set(
        native.service_names()
    )


def test_what_the_core_refuses_becomes_an_exception_with_its_words() -> None:
    with pytest.raises(ConfigInvalidError, match="nosuch:x: not a device"):
        native.Device("nosuch:x", DeviceOptions())
    with pytest.raises(ConfigInvalidError, match="longer than 127"):
        native.Device("mem:x", DeviceOptions(faults="x" * 200))
    with native.Device("mem:refuse", DeviceOptions(rings=1)) as device:
        with pytest.raises(ConfigInvalidError, match="mtu must be"):
            native.Server(device, ServerOptions(shards=1, ip=ADDRESS, prefix=16, mtu=100))
        with pytest.raises(ConfigInvalidError, match='service "nosuch" does not exist'):
            native.Server(
                device, ServerOptions(shards=1, ip=ADDRESS, prefix=16, services=(("nosuch", 7),))
            )
        with pytest.raises(ConfigInvalidError, match='engine "nosuch" does not exist'):
            native.Server(device, ServerOptions(shards=1, ip=ADDRESS, prefix=16, engine="nosuch"))


def test_a_mem_device_that_is_taken_is_unavailable() -> None:
    with (
        native.Device("mem:taken", DeviceOptions(rings=1)) as device,
        pytest.raises(DeviceUnavailableError),
    ):
        assert device.audit() == 0
        native.Device("mem:taken", DeviceOptions(rings=1))


def test_a_worker_that_sleeps_has_a_turn_when_it_is_woken() -> None:
    with (
        native.Device("mem:wake", DeviceOptions(rings=1)) as device,
        native.Server(device, ServerOptions(shards=1, ip=ADDRESS, prefix=16)) as made,
    ):
        made.adopt(0)
        slice_over = threading.Thread(target=made.run, args=(0, 3_000_000))
        slice_over.start()
        wait_for(lambda: made.pulse(0)[1] == "sleep", "sleep")
        for _ in range(3):
            before, _ = made.pulse(0)
            made.wake()
            wait_for(lambda before=before: made.pulse(0)[0] > before, "a turn", 1.0)
        assert slice_over.is_alive(), "the slice ended meanwhile: nothing is shown"
        slice_over.join()


def test_a_server_can_be_made_and_read_in_one_process() -> None:
    with (
        native.Device("mem:single", DeviceOptions(rings=2)) as device,
        native.Server(device, ServerOptions(shards=2, ip=ADDRESS, prefix=16)) as made,
    ):
        assert device.info.backend == "mem"
        assert made.adopt(0).generation == 1
        before, _ = made.pulse(0)
        made.run(0, 1000)
        assert made.pulse(0)[0] > before
        stats = made.stats(0)
        assert stats.rx_frames == sum(stats.verdicts.values()) == 0
        assert made.conns_active(0) == 0


def test_a_worker_has_no_privilege_left(server: Serving) -> None:
    server.start()
    status = Path(f"/proc/{server.worker(0)}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"].strip() == fields["CapPrm"].strip() == "0" * 16
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    if os.geteuid() == 0:
        assert set(fields["Uid"].split()) == {"65534"}


def test_each_worker_is_pinned_as_planned(server: Serving) -> None:
    server.start()
    for shard in server.json("status")["shards"]:
        assert os.sched_getaffinity(shard["pid"]) == {shard["cpu"]}


def test_echo_is_exact_and_the_books_balance(server: Serving) -> None:
    server.start()
    report = load(server, "-c", "50", "-d", "500ms")
    assert report["errors"] == {"mismatched_bytes": 0, "resets": 0, "timeouts": 0, "refused": 0}
    assert report["messages"] > 100
    snapshot = server.json("stats")
    assert all(shard["connections"]["accepted"] > 0 for shard in snapshot["shards"])

    def balanced() -> bool:
        return all(
            shard["rx"]["frames"] + shard["steered"]["in"] == sum(shard["verdicts"].values())
            for shard in server.json("stats")["shards"]
        )

    wait_for(balanced, "no worker has frames in hand")


def test_connections_live_on_over_kills(server: Serving) -> None:
    server.start()
    client = subprocess.Popen(
        [sys.executable, "-m", "shardserver", "load", f"mem:t{os.getpid()}", "--json", "-c", "20",
         "-d", "600s", "--processes", "1"],
        env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    wait_for(lambda: server.json("stats")["total"]["connections"]["active"] == 20, "connected")
    for kill in range(5):
        os.kill(server.worker(kill % 2), signal.SIGKILL)
        wait_for(lambda kill=kill: server.log.count("serves after") > kill, "successor")
        time.sleep(0.1)
    client.send_signal(signal.SIGINT)
    out, _ = client.communicate(timeout=60)
    report = json.loads(out)
    assert report["errors"] == {"mismatched_bytes": 0, "resets": 0, "timeouts": 0, "refused": 0}
    assert report["finished"] == 20
    assert server.log.count(" 0 dropped") == 5
    assert sum(s["connections"]["adopted"] for s in server.json("stats")["shards"]) > 0


def test_a_stopped_worker_is_replaced_and_its_connections_adopted(server: Serving) -> None:
    server.start()
    victim = server.worker(1)
    time.sleep(0.2)
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: "it is stopped (state T)" in server.log, "hang seen")
    wait_for(lambda: server.worker(1) != victim, "successor")


def test_an_idle_server_costs_little(server: Serving) -> None:
    server.start()
    pids = [pid for pids in children(server.pid).values() for pid in pids]
    time.sleep(0.5)

    def ticks() -> int:
        total = 0
        for pid in [*pids, server.pid]:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(words[11]) + int(words[12])
        return total

    before = ticks()
    time.sleep(2.0)
    used_s = (ticks() - before) / os.sysconf("SC_CLK_TCK")
    assert used_s / 2.0 / len(pids) < 0.01 * max(1.0, watch.slowness())


def test_the_server_stops_and_leaves_nothing(server: Serving) -> None:
    server.start()
    done = server.cli("stop")
    assert (done.returncode, server.wait()) == (0, 0)
    assert server.left() == []
    assert f"mem/t{os.getpid()}" not in Path("/proc/net/unix").read_text()


def test_a_killed_server_can_be_started_again_at_once(server: Serving) -> None:
    for _ in range(2):
        server.start()
        server.signal(signal.SIGKILL)
        server.wait()
        server.log_path.unlink()
    server.start()
    assert server.json("status")["state"] == "running"


def test_a_killed_orchestrator_takes_even_stopped_workers_along(server: Serving) -> None:
    server.start()
    os.kill(server.worker(0), signal.SIGSTOP)
    server.signal(signal.SIGKILL)
    server.wait()
    wait_for(lambda: not server.processes(), "nobody is left")


def test_random_bytes_on_the_control_socket_harm_nobody(server: Serving) -> None:
    server.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as hostile:
        hostile.setsockopt(zmq.LINGER, 0)
        hostile.connect(f"ipc://{server.run_directory}/default.control")
        for data in (b"", b"\xff" * 100, b"[" * 60000, b"{" * 100000):
            hostile.send(data)
        hostile.send_multipart([b"a", b"b", b"c"])
    assert server.json("status")["state"] == "running"
