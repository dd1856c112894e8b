"""Names, devices, privileges, logs: what is held, what is stale, what is refused."""

import errno
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardserver import instance, logs, privileges, process
from shardserver.errors import (
    AlreadyRunningError,
    ConfigInvalidError,
    DeviceUnavailableError,
    NoPermissionError,
    ShardserverError,
)
from shardserver.instance import DeviceLock, InstanceLock, Paths


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ss") as name:
        yield Path(name)


def test_the_runtime_directory_is_systemds_the_sessions_or_our_own() -> None:
    full = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/1"}
    assert instance.runtime_dir(full, 1) == Path("/run/a")
    assert instance.runtime_dir({"XDG_RUNTIME_DIR": "/run/user/1"}, 1) == Path(
        "/run/user/1/shardserver"
    )
    assert instance.runtime_dir({}, 7).name == "shardserver-7"


def test_a_name_is_held_once_and_given_back(directory: Path) -> None:
    paths = Paths(directory / "run", "x")
    with InstanceLock(paths) as lock:
        assert (instance.holder(paths), lock.was_stale) == (os.getpid(), False)
        assert paths.directory.stat().st_mode & 0o777 == 0o700
        with pytest.raises(AlreadyRunningError, match='a server named "x" is running'):
            InstanceLock(paths)
    assert instance.holder(paths) == 0
    assert list(paths.directory.iterdir()) == []
    assert instance.wait_until_gone(paths, 0.0)


def test_what_a_killed_holder_left_is_stale_and_reused(directory: Path) -> None:
    paths = Paths(directory, "x")
    paths.lock.write_text("4711\n")
    for path in (paths.control, paths.shard(0)):
        instance.listen(path).close()
    (directory / "x.shardless").write_text("not ours")
    assert instance.holder(paths) == 0
    assert not instance.answers(paths.control)
    with InstanceLock(paths) as lock:
        assert lock.was_stale
        assert instance.holder(paths) == os.getpid()
        assert not paths.control.exists()
        assert not paths.shard(0).exists()
    assert [path.name for path in directory.iterdir()] == ["x.shardless"]


def test_a_lock_of_another_user_is_no_missing_server(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(instance.os, "open", refuse)
    with pytest.raises(NoPermissionError, match=r"x\.pid is another user's"):
        instance.holder(Paths(directory, "x"))


def test_a_full_disk_is_named_and_nothing_is_left(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    paths = Paths(directory, "x")
    with monkeypatch.context() as patched:
        patched.setattr(instance.os, "pwrite", refuse)
        with pytest.raises(ShardserverError, match=r"x\.pid: cannot be written: No space left"):
            InstanceLock(paths)
    assert list(directory.iterdir()) == []
    InstanceLock(paths).release()


def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(NoPermissionError, match="cannot be made"):
        instance.make_directory(directory / "file" / "x")
    (directory / "link").symlink_to("/tmp")
    with pytest.raises(NoPermissionError, match="is not a directory of this user"):
        instance.make_directory(directory / "link")


def test_a_directory_that_others_could_enter_is_closed(directory: Path) -> None:
    directory.chmod(0o755)
    instance.make_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_path_that_is_too_long_for_a_socket_is_refused(directory: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="at most 107"):
        Paths(directory / ("d" * 90), "x").check()


def test_a_device_is_held_once_in_its_network_namespace() -> None:
    key = instance.device_key("mem", f"test-{os.getpid()}", 0)
    with (
        DeviceLock(key, "mem:x"),
        pytest.raises(DeviceUnavailableError, match="mem:x: taken by another"),
    ):
        DeviceLock(key, "mem:x")
    DeviceLock(key, "mem:x").release()
    assert instance.device_key("packet", "eth0", 3) == instance.device_key("xdp", "eth0", 3)


def test_a_listener_answers_a_plain_connect(directory: Path) -> None:
    path = directory / "s"
    listener = instance.listen(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert instance.answers(path)
    listener.close()
    assert not instance.answers(path)
    assert not instance.answers(directory / "none")


def test_root_gives_its_uid_away_where_it_can() -> None:
    everybody = "         0          0 4294967295\n"
    single = "         0       1000          1\n"
    assert privileges.decide(0, 65534, 65534, everybody, everybody).uid == 65534
    kept = privileges.decide(0, 65534, 65534, single, single)
    assert (kept.uid, "uid 0 kept" in kept.note) == (None, True)
    assert privileges.decide(1000, 65534, 65534, everybody, everybody).uid is None
    assert privileges.maps("0 1000 1\n1 100000 65536\n", 65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root looks the user up")
def test_an_unknown_user_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match='no user "nosuch"'):
        privileges.resolve("nosuch", "")
    with pytest.raises(ConfigInvalidError, match='no group "nosuch"'):
        privileges.resolve("nobody", "nosuch")


def test_logs_are_text_or_json() -> None:
    record = logging.LogRecord("shardserver", logging.INFO, "", 0, "ready in %d", (1,), None)
    assert logs.TextFormatter().format(record).endswith("[INFO] ready in 1")
    record.event, record.fields = "ready", {"seconds": 1}
    line = json.loads(logs.JsonFormatter().format(record))
    assert (line["event"], line["seconds"], line["message"]) == ("ready", 1, "ready in 1")


def test_cpu_time_and_state_of_a_process_are_seen() -> None:
    before = process.cpu_seconds(os.getpid())
    while process.cpu_seconds(os.getpid()) - before < 0.01:
        pass
    assert not process.is_stopped(os.getpid())
    assert not process.is_stopped(2**22 + 1)
    assert process.cpu_seconds(2**22 + 1) == 0.0


def test_an_abstract_name_is_free_after_its_holder() -> None:
    key = f"gone-{os.getpid()}"
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    holder.bind(f"\0shardserver/device/{key}")
    holder.close()
    DeviceLock(key, "mem:x").release()
