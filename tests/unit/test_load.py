"""The load client's command line, what it asks of servers, and the demo's errors."""

import argparse

import pytest

from shardserver import cli, cli_load, demo
from shardserver.errors import DeviceUnavailableError, NotRunningError, UsageError
from shardserver.load import LoadRequest, add_arguments, from_arguments
from shardserver.load.report import counted


def request_of(*words: str) -> LoadRequest:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["::1"], "target ::1: expected an IPv4 address"),
        (["localhost"], "target localhost: expected an IPv4 address"),
        (["0.0.0.0"], "target 0.0.0.0: expected a host's address"),
        (["224.0.0.1:7"], "target 224.0.0.1:7: expected a host's address"),
        (["10.0.0.1:0"], "target 10.0.0.1:0: expected a TCP port"),
        (["mem:"], "target mem:: a mem: device needs a name"),
        (["mem:x", "--ip", "fe80::1"], '--ip "fe80::1": expected an IPv4 address'),
        (["mem:x", "--seed", "-1"], "--seed -1: must be 0 to 18446744073709551615"),
        (["mem:x", "-s", "0"], "--size 0: must be 1 to 16777216"),
        (["mem:x", "-n", "../x"], '--name "../x": expected a name'),
        (["10.0.0.1", "--source", "::1"], "source ::1: expected an IPv4 address"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        request_of(*words)
    assert caught.value.message.startswith(message)


def test_a_target_is_a_device_or_an_address() -> None:
    found = request_of("mem:x:80", "--ip", "10.0.0.9")
    assert (found.device, found.ip, found.tcp_port) == ("x", 0x0A000009, 80)
    assert request_of("10.0.0.1").target == "10.0.0.1:7"


STATUS = {"device": "mem:x", "address": "10.77.0.1/16", "services": ["echo:7", "http:80"]}


@pytest.mark.parametrize(
    ("words", "serves"),
    [
        (["mem:x"], True),
        (["mem:x:80"], True),
        (["10.77.0.1"], True),
        (["mem:x^"], True),
        (["mem:y"], False),
        (["mem:x:8"], False),
        (["mem:x", "--ip", "10.77.0.2"], False),
        (["10.77.0.11"], False),
    ],
)
def test_a_server_serves_a_target_by_device_address_and_port(
    words: list[str], serves: bool
) -> None:
    assert cli_load.serves(STATUS, request_of(*words)) == serves


def test_things_are_counted() -> None:
    assert [counted(n, "process") for n in (0, 1, 2000)] == [
        "0 processes", "1 process", "2,000 processes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-c", "0"], "--connections 0: must be 1 to 100000"),
        (["-s", "0"], "--size 0: must be 1 to 16777216"),
        (["-d", "0"], "--duration: at least 1ms"),
        (["-d", "abc"], '--duration "abc": expected a duration'),
        (["--workers", "65"], "--workers 65: must be 1 to 64"),
    ],
)
def test_a_demo_that_cannot_be_starts_no_server(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(demo, "server")
    monkeypatch.delattr(demo, "enter_namespaces")
    for real in ([], ["--real"]):
        assert cli.main(["demo", *words, *real]) == 2
        done = capsys.readouterr()
        assert (done.out, done.err.startswith(f"error: {message}")) == ("", True)


def test_a_demo_ends_as_its_server_did() -> None:
    lines = ["[INFO] starting", "error: engine picotcp: it is not built", "       run make picotcp"]
    error = demo.why_not_started(6, lines)
    assert isinstance(error, DeviceUnavailableError)
    assert error.message.endswith("did not start: engine picotcp: it is not built")
    assert error.hint == "run make picotcp"
    assert isinstance(demo.why_not_started(None, lines), NotRunningError)
    assert "its last words: Killed" in demo.why_not_started(-9, ["Killed"]).hint
