"""The tools' command line: what it means, what is refused, and what the reports say."""

import json

import pytest

from shardserver import cli, cli_parser, toolbox
from shardserver.errors import UsageError
from shardserver.native_tools import KINDS, ToolOptions, ToolStats


def options(*words: str) -> ToolOptions:
    return toolbox.from_arguments(cli_parser.parse(["tools", *words]))


def stats(**counters: int) -> ToolStats:
    names = (
        "rx_frames", "rx_bytes", "rx_batches", "rx_missed", "tx_frames", "tx_bytes", "tx_batches",
        "tx_dropped", "matched", "dropped", "swapped", "copied", "lost", "syscalls",
    )  # fmt: skip
    pipes = {"pipe_frames": [3, 4], "pipe_dropped": [0, 1], "pipe_held_max": [2, 0]}
    return ToolStats({**dict.fromkeys(names, 0), **counters}, pipes, {"p50": 12.345}, 0, 0)


def test_every_kind_of_the_core_is_a_command() -> None:
    assert tuple(toolbox.TOOLS) == KINDS


@pytest.mark.parametrize("tool", KINDS)
def test_every_tool_has_help(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["tools", tool, "-h"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: shardserver tools {tool}" in shown
    assert "vale:SWITCH:PORT" in shown


def test_the_tutorials_words_are_taken() -> None:
    assert options("sink", "mem:a", "7").udp_port == 7
    assert options("sink", "--busy", "mem:a", "0").busy == 1
    assert options("sink", "--block", "mem:a", "0").busy == 0
    found = options("forward", "mem:a", "mem:b", "9", "-c")
    assert (found.ports, found.udp_port, found.copy) == (("mem:a", "mem:b"), 9, 1)
    assert options("bridge", "mem:a", "mem:b").ports == ("mem:a", "mem:b")


def test_a_generators_options() -> None:
    found = options(
        "gen", "mem:a", "-n", "1.5m", "-R", "10k", "-s", "128", "-b", "64", "-p", "2", "-a", "3",
        "-d", "2.5", "--src", "10.0.0.1:5-10.0.0.4:9", "--dst", "10.1.0.1",
        "--dst-mac", "ff:ff:ff:ff:ff:ff", "--role", "client",
    )  # fmt: skip
    assert (found.count, found.rate, found.size, found.burst) == (1_500_000, 10_000, 128, 64)
    assert (found.threads, found.cpu, found.duration_us, found.roles[0]) == (2, 4, 2_500_000, 2)
    assert (found.src_ip, found.src_port) == ((0x0A000001, 4), (5, 5))
    assert (found.dst_ip, found.dst_port) == ((0x0A010001, 1), (0, 0))
    assert found.dst_mac == b"\xff" * 6
    assert found.src_mac == bytes(6)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sink", "mem:a"], "required: UDPPORT"),
        (["sink", "mem:a", "65536"], 'UDPPORT "65536": expected a UDP port'),
        (["sink", "mem", "1"], "mem: not a port's name"),
        (["sink", "--busy", "--block", "mem:a", "1"], "not allowed with"),
        (["gen", "mem:a", "-n", "many"], '--count "many": expected a number'),
        (["gen", "mem:a", "-R", "-5"], '--rate "-5": expected a number'),
        (["gen", "mem:a", "--src", "10.0.0.9-10.0.0.1"], "the end is before the beginning"),
        (["gen", "mem:a", "--dst", "house"], "give IP, IP:PORT"),
        (["gen", "mem:a", "--src-mac", "1:2"], '--src-mac "1:2": expected a MAC'),
        (["gen", "mem:a", "-s", "big"], '--size "big": expected a whole number'),
        (["gen", "mem:a", "--seconds", "-1"], "must be 0 or more"),
        (["gen", "mem:a", "-w", "-2"], "--wait -2.0: must be 0 or more"),
        (["lb", "mem:a", "--pipes", "33"], "--pipes 33: must be 1 to 32"),
        (["recv", "mem:a", "--role", "king"], '--role "king": expected one of auto, owner, client'),
        (["recv", "mem:a", "--contu", "5"], "unrecognized"),
        (["send", "mem:a"], "send"),
        ([], "required: TOOL"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        options(*words)
    assert sentence in f"{raised.value.message} ({raised.value.hint})"


def test_a_port_that_is_not_there_is_an_error_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tools", "recv", "mem:nobody-here", "--role", "client", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert "mem:nobody-here: no such device here" in document["error"]["message"]


def test_the_document_says_rates_and_batches() -> None:
    found = toolbox.build(
        options("gen", "mem:a"), stats(tx_frames=3000, tx_bytes=180_000, tx_batches=40), 1.5, 0.5
    )
    assert found["tx"] == {
        "frames": 3000, "bytes": 180_000, "batches": 40, "average_batch": 75.0,
        "frames_per_s": 2000.0, "lost": 0,
    }  # fmt: skip
    text = toolbox.render(found)
    assert "sent 3000 frames, 180000 bytes in 1.50 s: 2.00kpps, batch 75.0, lost 0" in text
    assert "received" not in text


def test_a_second_is_the_difference_of_two_looks() -> None:
    line = toolbox.second_line(
        "recv",
        stats(rx_frames=1000, rx_bytes=60_000, rx_batches=10),
        stats(rx_frames=3000, rx_bytes=180_000, rx_batches=20, rx_missed=7),
        2.0,
    )
    # 84 bytes on the wire: the smallest frame with checksum, preamble and gap
    assert "rx   1.00kpps 672.00kbps  batch  200.0" in line
    assert line.endswith("dropped 7")


def test_lbs_pipes_are_named_for_their_consumers() -> None:
    found = toolbox.build(options("lb", "packet:eth0"), stats(), 1.0, 0.0)
    assert [pipe["name"] for pipe in found["pipes"]] == ["mem:eth0}0", "mem:eth0}1"]
    assert "mem:eth0}1: 4 frames, 1 dropped, at most 0 held" in toolbox.render(found)
    assert toolbox.pipe_name("mem:a}x", 2) == "mem:a_x}2"


def test_pings_answers_are_in_the_document() -> None:
    found = toolbox.build(options("ping", "mem:a"), stats(matched=5, lost=1), 1.0, 0.0)
    assert (found["answered"], found["unanswered"]) == (5, 1)
    assert found["latency_us"]["p50"] == pytest.approx(12.345, abs=0.01)
