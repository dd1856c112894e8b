"""`shardserver netmap-abi`: netmap's layouts as we declare them, and what its module says."""

from __future__ import annotations

import argparse
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardserver import native_netmap, protocol
from shardserver.errors import DeviceUnavailableError

_MODULE = Path("/sys/module/netmap")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def parameters(module: Path) -> dict[str, str]:
    """The module's parameters that can be read, by name."""
    folder = module / "parameters"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: text for path in files if (text := _text(path))}


def holders(module: Path) -> list[str]:
    """Drivers that are loaded and native to netmap."""
    folder = module / "holders"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _adapters() -> dict[str, str]:
    names = sorted(name for _, name in socket.if_nameindex())
    return {name: kind for name in names if (kind := native_netmap.netmap_adapter(name))}


def document(module: Path) -> dict[str, Any]:
    """Everything, as `--json` prints it; `module` is null when it is not loaded."""
    found = native_netmap.netmap_module()
    made: dict[str, Any] = {
        "schema": 1,
        "api": found.api,
        "ioctls": {
            "NIOCCTRL": found.ioc_ctrl,
            "NIOCTXSYNC": found.ioc_txsync,
            "NIOCRXSYNC": found.ioc_rxsync,
        },
        "layout": [asdict(entry) for entry in native_netmap.netmap_layout()],
        "module": None,
    }
    if isinstance(found.error, DeviceUnavailableError):
        return made
    names = (
        "memory_bytes", "mem_id", "ring_slots_max", "port_rings_max", "rings_max",
        "descriptors_max", "bufs_max", "buf_bytes",
    )  # fmt: skip
    made["module"] = {
        "version": _text(module / "version") or _text(module / "srcversion"),
        "answers": found.error is None,
        "limits": {name: getattr(found, name) for name in names},
        "parameters": parameters(module),
        "native_drivers": holders(module),
        "adapters": _adapters(),
    }
    return made


def _print_layout(made: dict[str, Any]) -> None:
    print(f"netmap API {made['api']}, as declared here")
    for name, number in made["ioctls"].items():
        print(f"  {name:<12} 0x{number:x}")
    for entry in made["layout"]:
        if "." in entry["name"]:
            size = f"{entry['size']} bytes" if entry["size"] else "array"
            print(f"    {entry['name'].partition('.')[2]:<16} at {entry['offset']:>3}  {size}")
        else:
            print(f"  struct {entry['name']}: {entry['size']} bytes")


def _print_module(module: dict[str, Any], api: int) -> None:
    limits = module["limits"]
    version = module["version"] or "which tells no version"
    answer = f"answers API {api}" if module["answers"] else "may not be asked"
    print(f"module netmap, {version}: {answer}")
    print(
        f"  a ring has {limits['ring_slots_max']} slots at most, a port "
        f"{limits['port_rings_max']} rings, all ports {limits['rings_max']} rings, "
        f"{limits['descriptors_max']} descriptors and {limits['bufs_max']} buffers of "
        f"{limits['buf_bytes']} bytes"
    )
    if module["answers"]:
        print(f"  region {limits['mem_id']}: {limits['memory_bytes']} bytes")
    drivers = ", ".join(module["native_drivers"]) or "none loaded"
    print(f"  native drivers: {drivers}")
    for name, kind in module["adapters"].items():
        print(f"  {name}: {kind} adapter")
    print("  parameters:")
    for name, value in module["parameters"].items():
        print(f"    {name:<20} {value}")


def netmap_abi(args: argparse.Namespace) -> int:
    """Prints layouts in any case; 6 when the module is absent, 5 when it may not be asked."""
    made = document(_MODULE)
    error = native_netmap.netmap_module().error
    if args.json:
        if error:
            made["error"] = protocol.error_document(error)["error"]
        print(protocol.pretty(made))
        return error.exit_code if error else 0
    _print_layout(made)
    if made["module"]:
        _print_module(made["module"], made["api"])
    if error:
        raise error
    return 0
