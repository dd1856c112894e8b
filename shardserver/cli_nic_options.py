"""The options of devices, nic, doctor and confirm."""

from __future__ import annotations

from typing import Any


def add(commands: Any, epilog: str) -> None:
    """Adds the commands about the host's interfaces."""
    devices = commands.add_parser(
        "devices", help="interfaces, and which backends can open them", epilog=epilog
    )
    devices.add_argument("--json", action="store_true", help="JSON on standard output")
    doctor = commands.add_parser(
        "doctor",
        help="what keeps this machine or an interface from serving well",
        description="Each line that fails names the one command that fixes it. --fix makes the "
        "changes to the interface that `shardserver nic restore` can undo, and no others.",
        epilog=epilog,
    )
    doctor.add_argument("interface", nargs="?", metavar="IFACE", help="interface to look at")
    doctor.add_argument("--fix", action="store_true", help="make the changes that can be undone")
    doctor.add_argument(
        "--force",
        action="store_true",
        help="--fix an interface that carries the host's own traffic",
    )
    doctor.add_argument("--json", action="store_true", help="JSON on standard output")
    nic = commands.add_parser(
        "nic", help="what was changed on interfaces: show, restore", epilog=epilog
    )
    nic.add_argument("action", choices=("show", "restore"), metavar="show|restore")
    nic.add_argument("interface", nargs="?", metavar="IFACE", help="default: every interface")
    nic.add_argument("--json", action="store_true", help="JSON on standard output")
    confirm = commands.add_parser(
        "confirm", help="keep a server that was started with --confirm", epilog=epilog
    )
    confirm.add_argument("-n", "--name", metavar="NAME", help="instance (default: default)")
    confirm.add_argument("--json", action="store_true", help="JSON on standard output")
    confirm.add_argument(
        "--timeout", type=float, default=5.0, metavar="SEC", help="how long to wait (default: 5)"
    )
