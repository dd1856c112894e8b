"""Whatever comes from outside is understood or refused in our words, never with a traceback."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_protocol import Told

from orchestrator import commands
from shardserver import cli, cli_parser, config, native, protocol, values
from shardserver.errors import ConfigInvalidError, ShardserverError, UsageError

PARSERS = [
    getattr(values, name)
    for name in sorted(vars(values))
    if name.startswith("parse_") and callable(getattr(values, name))
]
KINDS = [
    protocol.Request,
    protocol.Reply,
    protocol.Event,
    protocol.FromOrchestrator,
    protocol.FromControl,
    protocol.ToWorker,
    protocol.FromWorker,
    protocol.WorkerQuery,
    protocol.WorkerReport,
]
# Texts made of what settings are made of, and any text at all.
setting_texts = st.one_of(
    st.text(alphabet="0123456789.:-,/ausmkghecdit%=", max_size=40),
    st.text(max_size=40),
    st.integers(0, 6000).map(lambda n: "9" * n + "s"),
    st.integers(0, 6000).map(lambda n: "9" * n),
)
words = st.sampled_from(
    [setting.flag for setting in config.SETTINGS if setting.flag]
    + ["--json", "-n", "-c", "--", "mem:x", "10.0.0.1", "-w", "start", "stats", "load", "--faults"]
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
    | st.text(max_size=8) | st.sampled_from(["drain", "quick", "abort"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)  # fmt: skip
properties = st.dictionaries(
    st.sampled_from(["mode", "action", "shards", "x", ""]), json_values, max_size=3
)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(text=setting_texts)
def test_a_setting_is_understood_or_refused_with_what_was_expected(
    parse: Callable[[str], object], text: str
) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert str(error).startswith("expected"), str(error)


@given(st.sampled_from(config.SETTINGS), setting_texts, st.booleans())
def test_a_configuration_is_built_or_refused(
    setting: config.Setting, text: str, as_flag: bool
) -> None:
    with contextlib.suppress(UsageError, ConfigInvalidError):
        if as_flag:
            config.build(config.from_flags({setting.name: text}), {}, {})
        else:
            config.build({}, config.from_environment({setting.variable: text}), {})


@settings(deadline=None)
@given(
    st.text(max_size=200) | st.text(alphabet='[]{}=.,"#\n server tcp port mtu 07:-', max_size=80)
)
@example("a = " + "[" * 5000)
@example("[" * 5000)
@example("a." * 500 + "a = 1")
@example("[server]\nport = " + "9" * 5000)
def test_a_file_is_a_configuration_or_refused_with_its_name(text: str) -> None:
    try:
        config.build(config.from_toml(text, "file.toml"))
    except ConfigInvalidError as error:
        assert "file.toml" in error.message


@settings(deadline=None)
@given(st.lists(words | setting_texts, max_size=6))
def test_a_command_line_is_understood_or_refused(argv: list[str]) -> None:
    with contextlib.suppress(ShardserverError, SystemExit):
        cli_parser.parse(argv)


@pytest.mark.parametrize("word", ["\udcff", "--\udcff", "stats\udcff"])
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_an_argument_that_is_no_text_is_refused(
    word: str, json: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word, *json]) == UsageError.exit_code
    told = capsys.readouterr()
    assert (told.out if json else told.err).strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (native.DeviceOptions(slots=2**40), "slots = 1099511627776: more than the core can hold"),
        (native.DeviceOptions(faults="drop=5%\0,dup=1%"), "holds a NUL character"),
        (native.DeviceOptions(faults="drop=5%," * 20), "is longer than 127 characters"),
    ],
)
def test_what_the_core_cannot_hold_is_refused(options: native.DeviceOptions, message: str) -> None:
    with pytest.raises(ConfigInvalidError, match=message):
        native.Device("mem:fuzz", options)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=st.binary(max_size=200) | json_values.map(protocol.encode))
def test_a_message_is_understood_or_an_error_of_the_protocol(kind: Any, data: bytes) -> None:
    with contextlib.suppress(protocol.ProtocolError):
        message = protocol.decode(data, kind)
        assert protocol.decode(protocol.encode(message), kind) == message


@given(st.sampled_from(list(commands.COMMANDS)), properties)
def test_any_properties_of_a_command_are_answered(command: str, given: dict[str, Any]) -> None:
    request = protocol.encode(protocol.Request("id", command, given))
    reply = commands.carry_out(Told().view, request)
    assert (reply.id, reply.status) in (("id", "ok"), ("id", "error"))
    assert protocol.decode(protocol.encode(reply), protocol.Reply).status == reply.status
