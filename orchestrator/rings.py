"""Opens the device and maps the server: everything that workers inherit, before the first fork."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.plan import Plan
from shardserver import native
from shardserver.config import BY_NAME, Config
from shardserver.errors import ShardserverError


class NotOpenedError(Exception):
    """A backend refused the device; `error` says why. Another one may not."""

    def __init__(self, error: ShardserverError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class Rings:
    """An opened device and the server on it."""

    device: native.Device
    server: native.Server


def take(plan: Plan) -> native.Take:
    """Which frames are ours. Pure."""
    if plan.sharing.shared:
        return native.Take.PORTS
    alone = plan.policy == "exclusive" or (plan.policy, plan.device.backend) == ("rings", "netmap")
    return native.Take.ALL if alone else native.Take.ADDRESS


def device_options(plan: Plan, config: Config) -> native.DeviceOptions:
    """What is asked of the device. Pure."""
    return native.DeviceOptions(
        rings=len(plan.shards),
        slots=config.slots,
        buf_size=config.buf_size,
        links=config.links,
        mtu=config.mtu,
        ip=plan.address.ip,
        take=take(plan),
        tcp_ports=tuple(service.tcp_port for service in config.services),
        queues=sum(1 << queue for queue in plan.sharing.queues),
        mac=config.mac or bytes(6),
        seed=config.seed,
        faults=config.faults,
    )


def _conns_max(config: Config) -> int:
    """0 leaves it to the engine: picoTCP carries fewer than our default."""
    default = BY_NAME["conns_max"]
    untouched = config.conns_max == default.parse(default.default)
    return 0 if config.engine != "native" and untouched else config.conns_max


def server_options(plan: Plan, config: Config) -> native.ServerOptions:
    """What is asked of the stacks. Pure."""
    return native.ServerOptions(
        shards=len(plan.shards),
        ip=plan.address.ip,
        prefix=plan.address.prefix,
        gateway=plan.sharing.gateway,
        mac=config.mac or bytes(6),
        mtu=config.mtu,
        conns_max=_conns_max(config),
        actives_max=config.actives_max,
        chunks_max=config.chunks_max,
        rcv_buf=config.rcv_buf,
        snd_buf=config.snd_buf,
        backlog_max=config.backlog_max,
        rto_min_us=config.rto_min,
        delack_us=config.delack,
        time_wait_us=config.time_wait,
        retries_max=config.retries_max,
        nagle=int(config.nagle),
        spin_us=config.spin,
        engine=config.engine,
        services=tuple((service.name, service.tcp_port) for service in config.services),
    )


def _device(plan: Plan, config: Config) -> native.Device:
    try:
        return native.Device(str(plan.device), device_options(plan, config))
    except ShardserverError as error:
        raise NotOpenedError(error) from None


@contextmanager
def opened(plan: Plan, config: Config) -> Iterator[Rings]:
    """Opens every ring; closes all of it at the end, whatever happened between.

    Raises NotOpenedError when the backend refuses the device.
    """
    with (
        _device(plan, config) as device,
        native.Server(device, server_options(plan, config)) as server,
    ):
        yield Rings(device, server)
