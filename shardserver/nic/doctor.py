"""Facts about the machine and an interface → findings. Pure; start at `examine`.

A line fails when it keeps a server from starting or from serving rightly, and warns when it only
costs speed or comfort. Each that does not pass names the one command that helps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from shardserver.errors import DeviceUnavailableError, NoPermissionError
from shardserver.nic import changes, machine, probe
from shardserver.nic.changes import ChannelChange, FeatureChange, FlagChange, RssChange
from shardserver.nic.findings import Finding, fail, ok, warn
from shardserver.nic.machine import Machine
from shardserver.nic.netlink import Link
from shardserver.nic.settings import Driver, Settings

MEMLOCK_WANTED = 64 << 20  # UMEM of some rings
RING_WANTED = 512
RX_US_MAX = 20
_HARDWARE = ("netmap", "xdp")
MTU_MAX = 2034  # what a buffer of 2048 bytes holds with its Ethernet header


@dataclass(frozen=True)
class Irq:
    """The interrupt of a queue and the CPUs that it may run on."""

    queue: int
    number: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """What is known of the interface asked for."""

    link: Link
    settings: Settings
    driver: Driver | None = None
    irqs: tuple[Irq, ...] = ()
    node: int = -1
    carries: tuple[str, ...] = ()  # of the host's own, in words
    left: tuple[str, ...] = ()  # changes of killed servers, in words
    taken: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return self.link.name


@dataclass(frozen=True)
class Engine:
    """A TCP/IP stack: `version` is empty where it cannot be had, and `why` then says why."""

    name: str
    version: str = ""
    path: str = ""  # of a library of its own
    why: str = ""


@dataclass(frozen=True)
class Facts:
    """All that is judged."""

    machine: Machine
    available: tuple[str, ...]
    python: str = ""
    executable: str = "python3"
    library: str = ""
    engines: tuple[Engine, ...] = ()
    cpus: dict[int, int] = field(default_factory=dict)  # CPUs allowed → their NUMA node
    interface: Interface | None = None


def best(facts: Facts, here: Machine | None = None) -> str:
    """The backend that `--iface` takes; on another machine if one is given."""
    if facts.interface is None:
        return ""
    found = probe.verdicts(facts.interface.link, here or facts.machine, facts.available)
    return probe.best(found)


def best_after(facts: Facts) -> str:
    """The same with every capability, and with the interface up."""
    if facts.interface is None:
        return ""
    here = replace(facts.machine, capabilities=frozenset(machine.CAPABILITIES))
    link = replace(facts.interface.link, flags=facts.interface.link.flags | 1)
    return best(replace(facts, interface=replace(facts.interface, link=link)), here)


# The machine


def _python(facts: Facts) -> Finding:
    return ok("python", f"Python {facts.python} · {facts.library}")


def _engine(engine: Engine) -> str:
    if engine.version:
        return f"{engine.name}: {engine.version}{f', {engine.path}' if engine.path else ''}"
    return f"{engine.name}: {engine.why if engine.path else 'not built (make picotcp)'}"


def _engines(facts: Facts) -> Finding:
    text = " · ".join(map(_engine, facts.engines))
    if any(engine.path and not engine.version for engine in facts.engines):
        return warn("engines", text, "make picotcp")
    return ok("engines", text)


def _kernel(facts: Facts) -> Finding:
    number = facts.machine.kernel_number
    if number < (5, 4):
        return warn(
            "kernel", f"Linux {facts.machine.kernel} is not tested", "use Linux 5.4 or newer"
        )
    told = "" if facts.machine.xdp_features is not None else " (does not tell what XDP drivers do)"
    return ok("kernel", f"Linux {facts.machine.kernel}{told}")


def _netmap(facts: Facts) -> Finding:
    built = "" if "netmap" in facts.available else "; this build has no netmap either"
    if facts.machine.netmap:
        text = f"{facts.machine.netmap}; the other backends do not need it{built}"
        return warn("netmap", text, "modprobe netmap")
    its = facts.interface
    rings = changes.queues_of(its.settings.channels) if its and its.link.kind == "veth" else 1
    if its and rings > 1:
        text = (
            f"/dev/netmap is there, but of the {rings} rings of {its.name} the last hears nothing "
            f"unless its peer sends on {rings + 1} queues{built}"
        )
        return warn("netmap", text, f"ethtool -L PEER tx {rings + 1}")
    return ok("netmap", f"/dev/netmap is there{built}")


def _capabilities(facts: Facts) -> Finding:
    wanted = ["net_raw", "net_admin"]
    missing = [name for name in wanted if not facts.machine.has(name)]
    if "xdp" in facts.available and not facts.machine.has("bpf", "sys_admin"):
        missing.append("bpf")
    if not missing:
        return ok("caps", "CAP_NET_RAW, CAP_NET_ADMIN" + ", CAP_BPF" * ("xdp" in facts.available))
    words = ",".join(f"cap_{name}" for name in missing)
    text = ", ".join(f"CAP_{name.upper()}" for name in missing) + " missing"
    fix = f"sudo setcap {words}+ep {facts.executable}"
    if "net_raw" in missing:
        return fail("caps", text, fix, kind=NoPermissionError)
    return warn("caps", text, fix)


def _user_namespace(facts: Facts) -> Finding:
    here = facts.machine
    if not here.first_user_namespace:
        return warn("userns", "in a user namespace: no AF_XDP, no TAP steering", "run it as root")
    if here.user_namespaces:
        name, _, bad = here.user_namespaces.partition(" is ")
        good = {"0": "1", "1": "0"}[bad] if "max" not in name else "15000"
        text = f"{here.user_namespaces}: demo --real needs root"
        return warn("userns", text, f"sysctl -w {name}={good}")
    return ok("userns", "user namespaces are allowed: demo --real needs no root")


def _memlock(facts: Facts) -> Finding:
    here = facts.machine
    # a capability of another user namespace lifts no limit
    if here.memlock < 0 or (here.has("ipc_lock") and here.first_user_namespace):
        return ok("memlock", "no limit")
    text = f"{here.memlock >> 10} KiB may be locked"
    if here.memlock >= MEMLOCK_WANTED:
        return ok("memlock", text)
    return warn("memlock", f"{text}: too little for rings of AF_XDP", "ulimit -l unlimited")


def _huge_pages(facts: Facts) -> Finding:
    here = facts.machine
    held = ", ".join(f"{total} of {size}" for size, (total, _) in here.huge_pages.items() if total)
    text = f"transparent: {here.huge_transparent or 'not there'} · reserved: {held or 'none'}"
    if here.huge_transparent == "never":
        fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        return warn("hugepages", f"{text}: arenas lie on small pages", fix)
    return ok("hugepages", text)


# The interface


def _left(_facts: Facts, its: Interface) -> Finding:
    if its.left:
        text = f"left changed by a killed server: {'; '.join(its.left)}"
        return fail("journal", text, f"shardserver nic restore {its.name}")
    return ok("journal", "no changes are left behind")


def _link(_facts: Facts, its: Interface) -> Finding:
    if not its.settings.up:
        change = FlagChange("up", False, True)
        text, fix = "the interface is down", changes.command(its.name, change)
        return fail("link", text, fix, change, DeviceUnavailableError)
    if not its.link.carrier:
        peer = "its peer is down" if its.link.kind == "veth" else "no cable, or nobody at its end"
        fix = f"ethtool {its.name}   # bring the other end up"
        return fail("link", f"no carrier: {peer}", fix, kind=DeviceUnavailableError)
    taken = " · taken by a shardserver" if its.taken else ""
    return ok("link", f"up, with carrier{taken}")


def _driver(_facts: Facts, its: Interface) -> Finding:
    name = its.driver.name if its.driver else its.link.kind or "unknown"
    bus = f" at {its.driver.bus}" if its.driver and its.driver.bus else ""
    return ok("driver", f"{name}{bus}")


def _backend(facts: Facts, its: Interface) -> Finding:
    found = probe.verdicts(its.link, facts.machine, facts.available)
    why = " · ".join(f"{backend}: {reason}" for backend, reason in found.items() if reason)
    taken = best(facts)
    if its.taken:
        return ok("backend", "in use by a shardserver: status tells which")
    if not taken:
        kind = NoPermissionError if "CAP_" in why else DeviceUnavailableError
        return fail("backend", f"none can open it: {why}", "shardserver demo", kind=kind)
    return ok("backend", f"{taken}{f' ({why})' if why else ''}")


def _xdp(facts: Facts, its: Interface) -> Finding:
    modes = probe.xdp_modes(its.link, facts.machine)
    if its.link.xdp_mode != "none" and not its.taken:
        text = (
            f"a {its.link.xdp_mode} program (id {its.link.xdp_program}) is on it; driver: {modes}"
        )
        off = {"generic": "xdpgeneric", "native": "xdpdrv", "offloaded": "xdpoffload"}
        word = off.get(its.link.xdp_mode, "xdp")
        return warn("xdp", text, f"ip link set {its.name} {word} off")
    return ok("xdp", f"driver: {modes}")


def _route(_facts: Facts, its: Interface) -> Finding:
    if not its.carries:
        return ok("route", "carries no default route and no login")
    text = f"carries {' and '.join(its.carries)}: start refuses it"
    return warn("route", text, f"shardserver start --iface {its.name} --force --confirm 30s")


def _queues(facts: Facts, its: Interface) -> Finding:
    channels, cpus = its.settings.channels, max(1, len(facts.cpus))
    queues = changes.queues_of(channels)
    text = f"{queues} queue{'s' * (queues > 1)}, {cpus} CPU{'s' * (cpus > 1)}"
    most = (channels.combined_max or min(channels.rx_max, channels.tx_max)) if channels else 0
    wanted = min(cpus, most)
    # A veth's queues answer to its peer's; what copies frames has no rings in hardware.
    free = its.link.kind == "veth" or best(facts) not in _HARDWARE
    if channels is None or free or wanted in (0, queues):
        more = "; software spreads flows over more workers" if queues < cpus else ""
        return ok("queues", text + more)
    change = ChannelChange(channels, changes.wanted_channels(its.name, channels, wanted))
    return warn("queues", f"{text}: not one each", changes.command(its.name, change), change)


def _rings(_facts: Facts, its: Interface) -> Finding:
    rings = its.settings.rings
    if rings is None or not rings.rx:
        return ok("rings", "its driver tells no sizes")
    text = f"rx {rings.rx} of {rings.rx_max}, tx {rings.tx} of {rings.tx_max} descriptors"
    wanted = min(RING_WANTED, rings.rx_max)
    if rings.rx < wanted:
        return warn("rings", f"{text}: bursts may be dropped", f"ethtool -G {its.name} rx {wanted}")
    return ok("rings", text)


def _rss(_facts: Facts, its: Interface) -> Finding:
    rss, queues = its.settings.rss, changes.queues_of(its.settings.channels)
    if rss is None or not (rss.key or rss.table):
        return ok("rss", "its driver tells no flow hash; wrong arrivals are steered in software")
    spread = f"{len(rss.table)} buckets over {len(set(rss.table))} queues" if rss.table else ""
    text = f"key {'symmetric' if changes.is_symmetric(rss) else 'not symmetric'}, {spread}"
    if changes.is_symmetric(rss) or not rss.key or rss.function != changes.TOEPLITZ:
        return ok("rss", text)
    key = changes.SYMMETRIC_WORD * (len(rss.key) // 4)
    after = msgspec.structs.replace(rss, key=key)
    own = rss.table == changes.default_table(len(rss.table), queues)
    change = RssChange(rss, after, own)
    return warn("rss", text, changes.command(its.name, change), change)


def _offloads(facts: Facts, its: Interface) -> Finding:
    backend = best(facts)
    features = its.settings.features
    on = changes.harmful(features, backend)
    free = [name for name in on if not features[name].fixed]
    if not on:
        return ok("offloads", f"none that {backend or 'a backend'} could not live with")
    text = f"{backend} cannot live with: {', '.join(on)}"
    if not free:
        return warn("offloads", f"{text}; the driver has them fixed", f"ethtool -k {its.name}")
    change = FeatureChange({n: features[n].wanted for n in free}, dict.fromkeys(free, False))
    fix = f"{changes.command(its.name, change)}   # start does it, and undoes it"
    return warn("offloads", text, fix, change)


def _mtu(facts: Facts, its: Interface) -> Finding:
    mtu = its.link.mtu
    if mtu > MTU_MAX and best(facts) in _HARDWARE:
        text = f"{mtu}: a buffer of 2048 bytes does not hold a frame"
        return warn("mtu", text, f"ip link set {its.name} mtu 1500")
    return ok("mtu", str(mtu))


def _promiscuity(_facts: Facts, its: Interface) -> Finding:
    if its.settings.promisc:
        change = FlagChange("promisc", True, False)
        return warn(
            "promisc", "on: frames for others reach the rings",
            changes.command(its.name, change), change,
        )  # fmt: skip
    listeners = its.link.promiscuity
    return ok("promisc", f"off, but {listeners} listeners want it" if listeners else "off")


def _irqs(facts: Facts, its: Interface) -> Finding:
    if not its.irqs:
        return ok("irq", "no interrupts of its own that the driver names")
    homes = [irq.cpus for irq in its.irqs]
    text = " · ".join(
        f"queue {irq.queue}: irq {irq.number} on {','.join(map(str, irq.cpus))}" for irq in its.irqs
    )
    bound = all(len(cpus) == 1 for cpus in homes)
    if bound and len(set(homes)) == min(len(homes), max(1, len(facts.cpus))):
        return ok("irq", text)
    cpus = list(facts.cpus) or [0]
    pairs = " ".join(f"{irq.number}:{cpus[at % len(cpus)]}" for at, irq in enumerate(its.irqs))
    fix = f"for p in {pairs}; do echo ${{p#*:}} > /proc/irq/${{p%:*}}/smp_affinity_list; done"
    return warn("irq", f"{text}: not one CPU each", fix)


def _moderation(_facts: Facts, its: Interface) -> Finding:
    found = its.settings.moderation
    if found is None:
        return ok("moderation", "its driver has none")
    adaptive = ", adaptive" if found.adaptive_rx else ""
    text = f"rx {found.rx_us} µs or {found.rx_frames} frames{adaptive}"
    if found.rx_us > RX_US_MAX or found.adaptive_rx:
        fix = f"ethtool -C {its.name} adaptive-rx off rx-usecs 0"
        return warn("moderation", f"{text}: requests wait for it", fix)
    return ok("moderation", text)


def _pause(_facts: Facts, its: Interface) -> Finding:
    found = its.settings.pause
    if found is None:
        return ok("pause", "its driver has none")
    if found.rx or found.tx:
        fix = f"ethtool -A {its.name} autoneg off rx off tx off"
        return warn("pause", "on: one slow ring holds the whole link", fix)
    return ok("pause", "off")


def _numa(facts: Facts, its: Interface) -> Finding:
    near = [cpu for cpu, node in facts.cpus.items() if node == its.node]
    if its.node < 0 or len(set(facts.cpus.values())) < 2 or len(near) == len(facts.cpus):
        return ok("numa", f"node {its.node}" if its.node >= 0 else "on no node")
    cpus = ",".join(map(str, near))
    text = f"on node {its.node}, {len(facts.cpus) - len(near)} of the CPUs allowed are not"
    return warn("numa", text, f"shardserver start --cpus {cpus}" if cpus else "taskset")


_MACHINE: tuple[Callable[[Facts], Finding], ...] = (
    _python, _engines, _kernel, _netmap, _capabilities, _user_namespace, _memlock, _huge_pages,
)  # fmt: skip
_INTERFACE: tuple[Callable[[Facts, Interface], Finding], ...] = (
    _left, _link, _driver, _backend, _xdp, _route, _queues, _rings, _rss, _offloads, _mtu,
    _promiscuity, _irqs, _moderation, _pause, _numa,
)  # fmt: skip


def examine(facts: Facts) -> list[Finding]:
    """Every finding, of the machine and of the interface if there is one."""
    found = [check(facts) for check in _MACHINE]
    if facts.interface:
        found += [check(facts, facts.interface) for check in _INTERFACE]
    return found


def fixes(findings: Sequence[Finding]) -> list[changes.Change]:
    """The changes that can be undone, in the order in which they are made."""
    made = [finding.change for finding in findings if finding.change]
    # A link comes up first; a table is laid over the queues that there are.
    order = (FlagChange, ChannelChange, RssChange, FeatureChange)
    return sorted(made, key=lambda change: order.index(type(change)))
