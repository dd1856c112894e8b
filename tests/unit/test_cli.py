"""The command line: words, exit codes, one clear line for what is wrong."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ROOT

import shardserver.__main__
from shardserver import cli, cli_parser, cli_show, cli_start
from shardserver.errors import UsageError

COMMANDS = (
    "start", "stop", "status", "stats", "ss", "restart", "load", "demo",
    "devices", "doctor", "nic", "confirm", "tools",
)  # fmt: skip


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ss") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
        yield name


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    done = capsys.readouterr()
    return code, done.out, done.err


def test_the_bare_command_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert "shardserver demo" in out
    assert out.count("\n  shardserver ") == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "-h"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: shardserver {command}" in out
    assert max(map(len, out.splitlines())) <= 80
    assert command == "tools" or "exit codes: 0 done" in out


def test_the_summary_fits_a_terminal() -> None:
    assert max(map(len, cli_parser.SUMMARY.splitlines())) <= 80


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("shardserver 0.")


@pytest.mark.parametrize(
    ("argv", "code", "line"),
    [
        (["sta"], 2, 'error: "sta" is not a command\n       did you mean start, status, stats?'),
        (["stats"], 3, 'error: no server named "default" is running (looked at '),
        (["stop", "-n", "web"], 3, 'error: no server named "web" is running'),
        (["status", "-n", "a/b"], 2, 'error: --name "a/b": expected a name'),
        (["status", "-n", ""], 2, 'error: --name "": expected a name'),
        (["start", "--device", "mem:x", "-D", "--log-file", "/nonexistent/x.log"], 1,
         "error: the log /nonexistent/x.log cannot be opened: No such file or directory\n"),
        (["ss", "-a"], 3, 'error: no server named "default" is running (looked at '),
        (["ss", "-n", "web", "sport", "=", ":7"], 3, 'error: no server named "web" is running'),
        (["ss", "sport", "=", "http"], 2, 'error: filter: "http": expected a port such as :80'),
        (["ss", "state"], 2, "error: filter: it ends where a state is expected"),
        (["ss", "-x"], 2, "error: unrecognized option -x"),
        (["start", "--worker", "4"], 2,
         "error: unrecognized option --worker (did you mean --workers?)"),
        (["start", "--port", "0"], 2, 'error: --port "0": expected a TCP port from 1 to 65535'),
        (["start"], 2, "error: no device"),
        (["start", "a", "b", "c", "7", "x"], 2, 'error: unexpected argument "x"'),
        (["start", "lo", "--iface", "eth0"], 2, "error: iface is given twice"),
        (["start", "--device", "mem:x", "--iface", "lo"], 78, "error: --iface lo and --device"),
        (["start", "--device", "netmap:lo", "--ip", "10.0.0.9"], 6,
         "error: netmap:lo: no /dev/netmap"),
        (["start", "--iface", "nosuch0", "--ip", "10.0.0.9"], 6,
         "error: nosuch0: this network namespace has no interface nosuch0"),
        (["start", "-c", "/nonexistent.toml"], 78, "error: /nonexistent.toml: cannot be read"),
        (["nic"], 2, "error: the following arguments are required: show|restore"),
        (["nic", "undo"], 2, 'error: show|restore "undo": expected one of show, restore'),
        (["nic", "show", "nosuch0"], 6, "error: nosuch0: this network namespace has no such"),
        (["doctor", "nosuch0"], 6, "error: nosuch0: this network namespace has no such"),
        (["confirm"], 3, 'error: no server named "default" is running'),
        (["start", "--rss", "odd"], 2, 'error: --rss "odd": expected keep, symmetric, equal'),
        (["start", "--policy", "x"], 2, 'error: --policy "x": expected one of auto, exclusive'),
        (["start", "--confirm", "soon"], 2, 'error: --confirm "soon": expected a duration'),
        (["load"], 2, "error: the following arguments are required: TARGET"),
        (["load", "10.0.0.1", "-d", "x"], 2, 'error: --duration "x": expected a duration'),
        (["load", "10.0.0.1", "-c", "x"], 2, 'error: --connections "x": expected a number'),
        (["load", "10.0.0.1", "--faults", "drop=1%"], 2,
         "error: --faults drop=1%: only with a mem: target"),
        (["start", "--device", "mem:x", "--mtu", "100"], 2, 'error: --mtu "100": expected an MTU'),
        (["start", "mem:x"], 2, 'error: --iface "mem:x": expected an interface\'s name; as a'),
        (["start", "--device", "mem:x", "--retries-max", "256"], 2, "error: --retries-max"),
        (["start", "--device", "mem:x", "--time-wait", "0s"], 2, 'error: --time-wait "0s": exp'),
        (["start", "--iface", "lo", "--backend", "x"], 2, 'error: --backend "x": expected one of'),
        (["stats", "-w", "0"], 2, 'error: --watch "0": expected seconds from 0.1 to 86400'),
        (["stats", "--count", "-1"], 2, 'error: --count "-1": expected a number'),
        (["status", "--timeout", "0"], 2, 'error: --timeout "0": expected seconds from 0.1'),
        (["stop", "--timeout", "soon"], 2, 'error: --timeout "soon": expected seconds'),
        (["--workers", "4", "start"], 2, "error: --workers is no option before a command\n"),
        (["--verson"], 2,
         'error: --verson is no option before a command; did you mean "--version"'),
        (["demo", "--engine", "x"], 2, 'error: --engine "x": expected one of native, picotcp'),
        (["restart", "x"], 2, 'error: SHARD "x": expected a number'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_an_exit_code(
    argv: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capsys, *argv)
    assert (found, out) == (code, "")
    assert err.startswith(line)
    assert err.count("\n") <= 2


def test_a_wrong_name_in_the_environment_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDSERVER_NAME", "a/b")
    for command in (["status"], ["start", "--device", "mem:x"]):
        code, _, err = run(capsys, *command)
        assert (code, err[:44]) == (78, 'error: SHARDSERVER_NAME="a/b": expected a na')


@pytest.mark.parametrize(
    ("limit", "why"), [(20, "too many open files"), (60, "Too many open files")]
)
def test_too_few_files_are_said_to_be_the_cause(limit: int, why: str, runtime: str) -> None:
    done = subprocess.run(
        f"ulimit -n {limit}; {sys.executable} -m shardserver start --device mem:few --workers 24",
        shell=True, capture_output=True, text=True, check=False, timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert why in done.stderr
    assert "ulimit -n" in done.stderr
    assert "--conns-max" not in done.stderr


def test_counters_of_years_fit_a_terminal() -> None:
    many = {"active": 16384, "accepted": 10**13, "closed": 10**13, "reset": 999999}
    shard = {
        "connections": many, "rx": {"frames": 10**13, "batch": 64.0},
        "tx": {"frames": 999999}, "steered": {"in": 10**13}, "retransmits": 10**13,
    }  # fmt: skip
    shards = [{"id": 63, "state": "hung", **shard}, {"id": 64, "state": "running", **shard}]
    text = cli_show._stats_text({"shards": shards, "total": shard})
    assert max(map(len, text.splitlines())) <= 80
    assert "999999" in text
    assert text.endswith("\nshard 63 is hung")


class SetBack:
    """A server whose clock goes backwards between two snapshots."""

    def __init__(self) -> None:
        self.time = 100

    def request(self, _command: str) -> dict[str, object]:
        self.time -= 10
        return {"time": self.time, "shards": [], "total": {"connections": {"active": 5}}}


def test_a_clock_that_is_set_back_has_no_rates(capsys: pytest.CaptureFixture[str]) -> None:
    args = cli_parser.parse(["stats", "-w", "0.1", "--count", "1"])
    assert cli_show._watch(SetBack(), args) == 0  # type: ignore[arg-type]
    assert "total      5" in capsys.readouterr().out


def test_errors_are_json_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "stats", "--json")
    assert (code, err) == (3, "")
    document = json.loads(out)
    assert (document["schema"], document["error"]["code"]) == (1, "not_running")
    assert "shardserver start" in document["error"]["hint"]


def test_a_file_with_an_unknown_key_names_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[server]\nworker = 4\n")
    code, _, err = run(capsys, "start", "-c", str(path))
    assert code == 78
    assert f'{path}:2: [server] unknown key "worker"; did you mean "workers"?' in err


def test_a_dry_run_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "start", "--device", "mem:x", "--workers", "2", "--dry-run")
    assert code == 0
    assert "shard 1   ring mem:x-1" in out
    code, out, _ = run(
        capsys, "start", "--device", "mem:x", "--workers", "2", "--dry-run", "--json"
    )
    assert [shard["ring"] for shard in json.loads(out)["shards"]] == ["mem:x-0", "mem:x-1"]


def test_the_originals_four_positionals_are_taken() -> None:
    args = cli_parser.parse(["start", "eth0", "02:00:00:00:00:01", "10.0.0.1", "7777"])
    made = cli_start.read_config(args, {})
    assert (made.iface, made.port) == ("eth0", 7777)
    assert (made.mac, made.ip.ip if made.ip else 0) == (bytes([2, 0, 0, 0, 0, 1]), 0x0A000001)


def test_every_setting_has_its_flag() -> None:
    _, commands = cli_parser.make()
    for setting in cli_start.config.SETTINGS:
        assert setting.flag in commands["start"].options()


def test_unknown_options_are_matched_with_known_ones() -> None:
    with pytest.raises(UsageError, match="did you mean --duration"):
        cli_parser.parse(["demo", "--duratoin", "1s"])


def test_numbers_are_short() -> None:
    assert [cli_show.short(n) for n in (0, 9999, 41200, 1.3e6, 2e9, 3e12)] == [
        "0", "9999", "41.2k", "1.3M", "2.0G", "3.0T",
    ]  # fmt: skip


def test_a_closed_pipe_is_no_traceback(runtime: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m shardserver start -h | head -1",
        shell=True, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "err"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 1, "error: No space left on device\n       free some space\n"),
        ("--nope --json >/dev/full", 2, "error: unrecognized option --nope"),
    ],
)
def test_output_that_nobody_takes_is_no_traceback(words: str, code: int, err: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m shardserver start --device mem:x --dry-run {words}",
        shell=True, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr[: len(err)]) == (code, err)
    assert "Traceback" not in done.stderr


def test_an_interrupt_while_modules_are_read_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shardserver.__main__, "open_missing_streams", interrupt)
    with pytest.raises(SystemExit) as ended:
        shardserver.__main__.main()
    assert ended.value.code == 130


def test_a_terminal_of_ascii_shows_what_it_can() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shardserver"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "tools sink|gen|? " in done.stdout


def test_a_missing_server_is_told_at_once(runtime: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shardserver", "status"],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (3, 2)


def test_the_library_that_is_not_built_is_one_line() -> None:
    code = (
        "from shardserver import native, cli; from pathlib import Path;"
        "native.LIBRARY = Path('/nonexistent/libshardserver.so');"
        "raise SystemExit(cli.main(['start', '--device', 'mem:x']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be loaded: it is missing" in done.stderr
    assert "run: make" in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["127.0.0.1:1"], "Connection refused (ECONNREFUSED)"),
        (["127.0.0.1:1", "--source", "192.0.2.1"],
         "Cannot assign requested address (EADDRNOTAVAIL)"),
    ],
)  # fmt: skip
def test_a_load_that_reaches_nobody_says_why(words: list[str], why: str) -> None:
    command = [sys.executable, "-m", "shardserver", "load", *words, "-c", "2", "-d", "100ms"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"  the first: {why}\n" in done.stdout
    assert "refused 2\n" in done.stdout
    assert "latency" not in done.stdout
