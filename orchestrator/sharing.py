"""Policy, address and rings → which frames of the interface are the server's. Pure.

With `pass` the address is the host's as well: its kernel answers ARP and ICMP, and has every TCP
port but ours. What the kernel would answer in our place is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.topology import Topology
from shardserver import values
from shardserver.config import Config
from shardserver.errors import ConfigInvalidError, DeviceUnavailableError, UsageError
from shardserver.nic import policy
from shardserver.values import DeviceName


@dataclass(frozen=True)
class Sharing:
    """`shared`: the host has the address as well. `queues`: those that we take; () for all."""

    policy: str = "exclusive"
    shared: bool = False
    queues: tuple[int, ...] = ()
    gateway: int = 0
    notes: tuple[str, ...] = ()


NOT_SHARED = Sharing()


def wanted_policy(config: Config) -> str:
    """What was asked for; naming rings says it, too."""
    if not config.rings:
        return config.policy
    if config.policy not in ("auto", "rings"):
        raise UsageError(
            f"--rings: --policy {config.policy} takes every ring", "leave one of them out"
        )
    return "rings"


def unable(wanted: str, backends: Mapping[str, str]) -> dict[str, str]:
    """Those that cannot do a policy, and why, besides what is refused already."""
    if wanted == "auto":
        return dict(backends)
    found = {backend: policy.can(backend, wanted) for backend in policy.BACKENDS}
    named = {name: f"no --policy {wanted}: {why}" for name, why in found.items() if why}
    return {**named, **backends}


def _kind(device: DeviceName, topology: Topology) -> str:
    """What of a backend the policy is asked of: netmap's ports are of three kinds."""
    port = topology.netmap_port
    if device.backend != "netmap" or port is None:
        return device.backend
    if port.ring >= 0:
        return policy.NETMAP_RING
    return "netmap" if port.interface and port.nic and not port.host else policy.NETMAP_PORT


def _queues(config: Config, device: DeviceName, topology: Topology) -> tuple[int, ...]:
    if not config.rings:
        raise UsageError(
            f"{device}: --policy rings without rings", "give --rings 2,3: those that are ours"
        )
    have = len(topology.interface.queues) if topology.interface else 0
    beyond = [ring for ring in config.rings if ring >= have]
    if beyond:
        raise ConfigInvalidError(
            f"{device}: --rings: no ring {beyond[0]}: it has {have}, numbered from 0",
            f"ethtool -L {device.interface} combined {beyond[0] + 1}, or --channels",
        )
    return config.rings


def _listeners(config: Config, topology: Topology, ip: int) -> tuple[str, ...]:
    """The host's own listeners on our ports would hear no new connection."""
    taken = {port for address, port in topology.listening if address in (0, ip)}
    both = sorted({service.tcp_port for service in config.services} & taken)
    if not both:
        return ()
    ports = ", ".join(map(str, both))
    if config.force:
        return (f"TCP port {ports}: the host's own listener hears nothing more; by --force",)
    raise ConfigInvalidError(
        f"a program of this host listens on TCP port {ports} of {values.ip_text(ip)}: with "
        "--policy pass it would hear nothing more",
        "give the service another port, or --force",
    )


def _refuse_address(ip: int, chosen: str, device: DeviceName) -> ConfigInvalidError:
    text = values.ip_text(ip)
    if chosen == "pass":
        return ConfigInvalidError(
            f"{text} is not an address of this host: --policy pass shares one with its kernel",
            "give --ip one that the interface has, or --policy pass-ip",
        )
    able = not policy.can(device.backend, "pass")
    share = "; or --policy pass, which shares it: only the services' TCP ports are the server's"
    other = f"; xdp:{device.interface or 'IFACE'} can share it, with --policy pass"
    return ConfigInvalidError(
        f"{text} is this host's own address: its kernel would answer the same packets",
        "give --ip an address of the same network that no host uses" + (share if able else other),
    )


def _check_engine(config: Config, device: DeviceName) -> None:
    if config.engine != "native":
        raise DeviceUnavailableError(
            f"{device}: the engine {config.engine} speaks ARP itself, which is the host's for an "
            "address that is shared",
            "give --engine native, or --policy pass-ip with an address of its own",
        )


def decide(config: Config, device: DeviceName, ip: int, topology: Topology) -> Sharing:
    """The policy in force on a backend; raises what the user has to change."""
    kind = _kind(device, topology)
    chosen = policy.choose(kind, wanted_policy(config), str(device))
    by_number = chosen == "rings" and kind == "xdp"
    queues = _queues(config, device, topology) if by_number else ()
    has = ip in topology.host_addresses
    may_share = chosen == "pass" or by_number
    if (has and not may_share) or (chosen == "pass" and not has):
        raise _refuse_address(ip, chosen, device)
    if not has:
        return Sharing(chosen, queues=queues, gateway=config.gateway or 0)
    _check_engine(config, device)
    notes = _listeners(config, topology, ip)
    gateway = config.gateway or topology.gateway
    return Sharing(chosen, shared=True, queues=queues, gateway=gateway, notes=notes)
