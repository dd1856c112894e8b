"""Settings: one table for all sources, their order, and messages that say where and what."""

from dataclasses import fields

import pytest

from shardserver import config
from shardserver.config import Config, Given
from shardserver.errors import ConfigInvalidError, UsageError


def build(
    flags: dict[str, object] | None = None, env: dict[str, str] | None = None, toml: str = ""
) -> Config:
    return config.build(
        config.from_flags(flags or {}),
        config.from_environment(env or {}),
        config.from_toml(toml, "bad.toml"),
    )


def test_the_table_and_the_config_have_the_same_fields() -> None:
    assert [field.name for field in fields(Config)] == [s.name for s in config.SETTINGS]


def test_every_default_is_understood() -> None:
    made = build()
    assert (made.workers, made.port, made.rcv_buf, made.rto_min) == (0, 7, 262144, 200_000)
    assert made.services == (config.Service("echo", 7),)


def test_flag_beats_environment_beats_file_beats_default() -> None:
    toml = "[server]\nport = 1\n[limits]\nmtu = 601\n[tcp]\nretries_max = 1\n"
    env = {"SHARDSERVER_PORT": "2", "SHARDSERVER_MTU": "602"}
    made = build({"port": "3"}, env, toml)
    assert (made.port, made.mtu, made.retries_max, made.conns_max) == (3, 602, 1, 16384)


def test_an_interface_on_the_command_line_replaces_a_device_of_the_file() -> None:
    made = build({"iface": "eth0"}, {}, '[server]\ndevice = "mem:x"\n')
    assert (made.device, str(made.wanted_device)) == (None, "auto:eth0")


def test_a_service_that_is_named_twice_counts_once() -> None:
    made = build({"service": ["echo:7", "echo"]})
    assert [str(service) for service in made.services] == ["echo:7"]


def test_services_add_up() -> None:
    made = build({"service": ["discard:9", "http"]})
    assert [str(service) for service in made.services] == ["echo:7", "discard:9", "http:80"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[server]\n\n\nworker = 4\n',
         'bad.toml:4: [server] unknown key "worker"; did you mean "workers"?'),
        ('[tcp]\n# x\nrto_min = "2x"\n',
         'bad.toml:3: [tcp] rto_min = "2x": expected a duration such as 200ms or 1s'),
        ('[server]\nrto_min = "1s"\n',
         'bad.toml:2: [server] unknown key "rto_min"; it belongs into [tcp]'),
        ('[sever]\nport = 1\n', 'bad.toml:1: unknown section [sever]; did you mean "server"?'),
        ('[tcp]\n\n[ "sever" ]\nport = 1\n',
         'bad.toml:3: unknown section [sever]; did you mean "server"?'),
        ('port = 1\n', 'bad.toml:1: "port" stands outside of a section'),
        ('[server]\nport = 1.5\n',
         "bad.toml:2: [server] port: expected a text, a number, true, false or a list of these"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_its_line(toml: str, message: str) -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        build(toml=toml)
    assert caught.value.message == message
    assert caught.value.exit_code == 78


def test_a_file_that_is_not_toml_names_the_line() -> None:
    with pytest.raises(ConfigInvalidError, match=r"bad.toml:2: not TOML"):
        build(toml="[server]\nport = = 1\n")


def test_a_missing_file_is_one_clear_line() -> None:
    with pytest.raises(ConfigInvalidError, match="cannot be read: No such file"):
        config.read_file("/nonexistent/x.toml")


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigInvalidError, match='SHARDSERVER_PORT="x": expected a TCP port'):
        build(env={"SHARDSERVER_PORT": "x"})


def test_a_wrong_flag_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match='--port "x": expected a TCP port') as caught:
        build({"port": "x"})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"iface": "eth0", "device": "mem:x"}, "two devices"),
        ({"backend": "packet", "device": "mem:x"}, "contradicts"),
        ({"port": "9", "service": ["discard"]}, "two services on TCP port 9"),
        ({"service": [f"http:{port}" for port in range(100, 116)]}, "at most 16"),
    ],
)
def test_contradictions_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigInvalidError, match=message):
        build(flags)


def test_lists_and_booleans_of_a_file_are_understood() -> None:
    made = build(toml='[server]\nservice = ["discard:9"]\nworkers = 3\n[tcp]\nnagle = true\n')
    assert (made.nagle, made.workers, str(made.service[0])) == (True, 3, "discard:9")


def test_a_given_text_keeps_its_origin() -> None:
    assert config.from_flags({"port": "1", "other": 2}) == {"port": Given("1", "--port")}
