"""Each stage of a start fails in turn: nothing may be left, whatever failed."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeCore, FakeDevice
from serving import children

from orchestrator import control, host, main, rings, supervisor
from shardserver import config, instance, logs, native, privileges, process
from shardserver.errors import ShardserverError
from shardserver.instance import DeviceLock


class FailedHere(ShardserverError):
    """What the failing stage raises."""


def fails(*_: Any, **__: Any) -> Any:
    raise FailedHere("this stage fails")


def fails_at(call: int, original: Callable[..., Any]) -> Callable[..., Any]:
    """The original, but for its n-th call."""
    left = [call]

    def stage(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        return original(*args, **kwargs) if left[0] else fails()

    return stage


def descriptors() -> list[str]:
    """Those of this process."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Starts a server in this process, over made-up rings."""
    with tempfile.TemporaryDirectory(prefix="ss") as name:

        @contextlib.contextmanager
        def opened(_plan: object, _config: object) -> Iterator[Any]:
            yield rings.Rings(FakeDevice(), FakeCore(Path(name)))  # type: ignore[arg-type]

        monkeypatch.setattr(rings, "opened", opened)
        monkeypatch.setattr(native, "backend_names", lambda: ("mem",))
        monkeypatch.setattr(native, "confine", lambda: None)
        monkeypatch.setattr(privileges, "resolve", lambda *_: privileges.Identity(None, None, ""))
        flags = {"device": f"mem:stages-{os.getpid()}", "workers": "2"}
        made = config.build(config.from_flags(flags))
        before = descriptors()
        yield lambda: main.run(made, {"XDG_RUNTIME_DIR": name}, main.Callbacks())
        assert list((Path(name) / "shardserver").glob("*")) == []
        assert descriptors() == before
        assert children(os.getpid()) == {}
        DeviceLock(instance.device_key("mem", f"stages-{os.getpid()}", 0), "free").release()


STAGES = {
    "privileges": (privileges, "resolve", 1),
    "lock": (instance, "make_directory", 1),
    "device lock": (main, "DeviceLock", 1),
    "interface": (host, "prepared", 1),
    "rings": (rings, "opened", 1),
    "control socket": (instance, "listen", 1),
    "events socket": (instance, "listen", 2),
    "first worker socket": (instance, "listen", 3),
    "last worker socket": (instance, "listen", 4),
    "signals": (main, "Inbox", 1),
    "banner": (main, "_banner", 1),
    "preload": (main.worker, "preload", 1),
    "first fork": (process, "fork", 1),
    "second fork": (process, "fork", 2),
    "control's fork": (process, "fork", 3),
    "tick": (supervisor.Supervisor, "_tick", 1),
    "ready": (main, "_tell_ready", 1),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_fails_leaves_nothing(
    stage: str, run: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, call = STAGES[stage]
    monkeypatch.setattr(owner, name, fails_at(call, getattr(owner, name)))
    with pytest.raises(FailedHere):
        run()


def test_a_control_that_always_dies_stops_no_shard(
    run: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "main", lambda _job: 1)
    ticks = []

    def tick(self: supervisor.Supervisor, _now_s: float) -> None:
        ticks.append(1)
        if len(ticks) == 3:
            self.stop("quick")

    monkeypatch.setattr(supervisor.Supervisor, "_tick", tick)
    run()
    assert len(ticks) >= 3


def test_a_backend_that_does_not_open_gives_way_to_the_next_rung(
    run: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "backend_names", lambda: ("mem", "xdp", "packet"))
    monkeypatch.setattr(host, "cannot", lambda *_: {})
    monkeypatch.setattr(host, "check_way", lambda *_: ())
    original = rings.opened
    tried: list[str] = []

    def opened(made: Any, made_config: object) -> Any:
        tried.append(str(made.device))
        if made.device.backend == "xdp":
            raise rings.NotOpenedError(FailedHere("xdp:lo: no, said the driver"))
        return original(made, made_config)  # type: ignore[arg-type]

    monkeypatch.setattr(rings, "opened", opened)
    monkeypatch.setattr(main, "_tell_ready", lambda *_: fails())
    flags = {"iface": "lo", "ip": "10.99.0.1", "name": "rungs"}
    made = config.build(config.from_flags(flags))
    with tempfile.TemporaryDirectory(prefix="ss") as name, caplog.at_level("INFO", "shardserver"):
        monkeypatch.setattr(logs.get(), "propagate", True)
        with pytest.raises(FailedHere, match="this stage fails"):
            main.run(made, {"XDG_RUNTIME_DIR": name}, main.Callbacks())
    assert tried == ["xdp:lo", "packet:lo"]
    assert "backend: xdp: xdp:lo: no, said the driver" in caplog.messages
    assert "backend: packet: taken" in caplog.messages


@pytest.mark.parametrize("device", ["xdp:lo", "packet:lo"])
def test_a_backend_asked_for_by_name_fails_with_its_own_words(
    run: Callable[[], None], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(native, "backend_names", lambda: ("mem", "xdp", "packet"))
    monkeypatch.setattr(host, "check_way", lambda *_: ())

    def opened(_plan: object, _config: object) -> Any:
        raise rings.NotOpenedError(FailedHere("no, said the driver"))

    monkeypatch.setattr(rings, "opened", opened)
    made = config.build(config.from_flags({"device": device, "ip": "10.99.0.1", "name": "named"}))
    with (
        tempfile.TemporaryDirectory(prefix="ss") as name,
        pytest.raises(FailedHere, match="no, said the driver"),
    ):
        main.run(made, {"XDG_RUNTIME_DIR": name}, main.Callbacks())
