"""netmap's names through the C parser, and `shardserver netmap-abi` with and without a module."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shardserver import cli, cli_netmap, native_netmap, values
from shardserver.errors import ConfigInvalidError, DeviceUnavailableError
from shardserver.values import DeviceName

FOUND = native_netmap.netmap_module()
ABSENT = DeviceUnavailableError("netmap: no /dev/netmap")


def module(error: DeviceUnavailableError | None) -> native_netmap.NetmapModule:
    """What the core would tell of a module with its default parameters."""
    return replace(FOUND, ring_slots_max=2288, port_rings_max=121, bufs_max=163840, error=error)


@pytest.mark.parametrize(
    ("text", "port", "iface", "ring"),
    [
        ("nosuch0", "nosuch0", "nosuch0", None),
        ("nosuch0-3", "nosuch0", "nosuch0", 3),
        ("nosuch0^1", "nosuch0", "nosuch0", 1),
        ("x{1", "x{1", "", None),
        ("vale0:a-2", "vale0:a", "", 2),
        ("iface=br-lan,ring=1", "br-lan", "br-lan", 1),
    ],
)
def test_a_name_has_its_parts(text: str, port: str, iface: str, ring: int | None) -> None:
    name = native_netmap.netmap_name(text)
    assert (name.port, name.iface) == (port, iface)
    assert (name.ring if name.one_ring else None) == ring


def test_a_wrong_name_says_where() -> None:
    with pytest.raises(ConfigInvalidError, match=r"netmap:eth0/q: flags are .* at \"q\""):
        native_netmap.netmap_name("eth0/q")


def test_a_vale_ports_own_name_is_netmaps() -> None:
    assert values.parse_device("vale0:1") == DeviceName("netmap", "vale0:1")
    assert values.parse_device("netmap:vale0:1") == DeviceName("netmap", "vale0:1")


def test_the_layout_is_netmaps() -> None:
    layout = {entry.name: (entry.offset, entry.size) for entry in native_netmap.netmap_layout()}
    assert layout["nm_req_header"] == (0, 88)
    assert layout["nm_req_register"] == (0, 56)
    assert layout["nm_req_register.mem_id"] == (32, 2)
    assert layout["nm_if.ring_ofs"] == (56, 0)
    assert layout["nm_ring.head"] == (20, 4)
    assert layout["nm_ring.slot"] == (256, 0)
    assert layout["nm_slot"] == (0, 16)


def test_without_the_module_the_layout_is_printed_and_the_exit_code_is_6(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native_netmap, "netmap_module", lambda: module(ABSENT))
    assert cli.main(["netmap-abi"]) == 6
    shown = capsys.readouterr()
    assert "NIOCCTRL     0xc0586997" in shown.out
    assert "struct nm_slot: 16 bytes" in shown.out
    assert shown.err == "error: netmap: no /dev/netmap\n"
    assert cli.main(["netmap-abi", "--json"]) == 6
    document = json.loads(capsys.readouterr().out)
    assert document["module"] is None
    assert document["error"]["code"] == "device_unavailable"


def test_with_the_module_its_parameters_and_limits_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters/ring_size").write_text("36864\n")
    (tmp_path / "holders/igb").mkdir(parents=True)
    (tmp_path / "srcversion").write_text("ABCDEF\n")
    monkeypatch.setattr(cli_netmap, "_MODULE", tmp_path)
    monkeypatch.setattr(native_netmap, "netmap_module", lambda: module(None))
    monkeypatch.setattr(
        native_netmap, "netmap_adapter", lambda name: "native" if name != "lo" else ""
    )
    assert cli.main(["netmap-abi"]) == 0
    out = capsys.readouterr().out
    assert "module netmap, ABCDEF: answers API 14" in out
    assert "a ring has 2288 slots at most, a port 121 rings" in out
    assert "native drivers: igb" in out
    assert "ring_size            36864" in out
    assert cli.main(["netmap-abi", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["module"]["limits"]["ring_slots_max"] == 2288
    assert "lo" not in document["module"]["adapters"]
