"""sysfs → topology → plan, on made-up machines."""

from pathlib import Path

import pytest

from orchestrator import plan, topology
from orchestrator.topology import Cpu, Interface, Queue, Topology
from shardserver import affinity, config
from shardserver.errors import ConfigInvalidError, DeviceUnavailableError, UsageError

AVAILABLE = ("mem", "packet")


def machine(cpus: int = 8, nodes: int = 2, queues: int = 4, node: int = 0, **changed: object):
    """`cpus` CPUs, two to a core, spread over `nodes`."""
    per_node = cpus // nodes
    interface = Interface(
        "eth0", 3, bytes(6), 1500, node, True,
        tuple(Queue(index, 40 + index, (index,)) for index in range(queues)),
    )  # fmt: skip
    made = {
        "cpus": tuple(Cpu(cpu, cpu // per_node, cpu // per_node, cpu % per_node // 2)
                      for cpu in range(cpus)),
        "nodes": tuple(range(nodes)),
        "interfaces": ("eth0", "lo"),
        "interface": interface,
        "host_addresses": (0x0A000001,),
    }  # fmt: skip
    return Topology(**{**made, **changed})


def settings(**flags: object) -> config.Config:
    return config.build(config.from_flags(flags))


def make(topology: Topology, **flags: object) -> plan.Plan:
    return plan.make(settings(**flags), topology, AVAILABLE)


def test_sysfs_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "allowed_cpus", lambda: (0, 1))
    for path, text in {
        "sys/devices/system/node/online": "0-1\n",
        "sys/devices/system/cpu/cpu0/topology/core_id": "0\n",
        "sys/devices/system/cpu/cpu1/topology/core_id": "5\n",
        "sys/devices/system/cpu/cpu1/topology/physical_package_id": "1\n",
        "sys/devices/system/cpu/cpu1/node1/x": "",
        "sys/class/net/eth7/ifindex": "9\n",
        "sys/class/net/eth7/address": "02:00:00:00:00:07\n",
        "sys/class/net/eth7/mtu": "9000\n",
        "sys/class/net/eth7/flags": "0x1003\n",
        "sys/class/net/eth7/device/numa_node": "1\n",
        "sys/class/net/eth7/queues/rx-0/x": "",
        "sys/class/net/eth7/queues/rx-1/x": "",
        "proc/interrupts": "      CPU0\n 40: 1 2 PCI-MSI eth7-TxRx-0\n 41: 0 0 eth7-TxRx-1\n",
        "proc/irq/40/smp_affinity_list": "3\n",
        "proc/irq/41/effective_affinity_list": "0-1\n",
        "proc/net/fib_trie": "Local:\n  |-- 10.0.0.9\n     /32 host LOCAL\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = topology.read("eth7", tmp_path / "sys", tmp_path / "proc")
    assert found.cpus == (Cpu(0, 0, 0, 0), Cpu(1, 1, 1, 5))
    assert found.nodes == (0, 1)
    assert found.host_addresses == (0x0A000009,)
    assert found.interface == Interface(
        "eth7", 9, bytes([2, 0, 0, 0, 0, 7]), 9000, 1, True,
        (Queue(0, 40, (3,)), Queue(1, 41, (0, 1))),
    )  # fmt: skip


def test_an_interface_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert topology.read_interface(tmp_path, tmp_path, "nosuch0") is None


def test_this_machine_can_be_read() -> None:
    found = topology.read("lo")
    assert found.cpus
    assert found.interface
    assert found.interface.ifindex > 0


def test_auto_is_one_worker_per_ring_within_the_cpus() -> None:
    made = make(machine(cpus=8, queues=4), iface="eth0", ip="10.0.0.5/24")
    assert len(made.shards) == 4
    made = make(machine(cpus=2, nodes=1, queues=4), iface="eth0", ip="10.0.0.5/24")
    assert len(made.shards) == 2
    assert "4 queues for 2 shards" in made.notes[0]


def test_cores_come_before_siblings_and_near_before_far() -> None:
    order = plan.order_cpus(machine(cpus=8, nodes=2).cpus, 1, "prefer")
    assert [cpu.id for cpu in order] == [4, 6, 5, 7, 0, 2, 1, 3]
    order = plan.order_cpus(machine(cpus=8, nodes=2).cpus, 1, "strict")
    assert [cpu.id for cpu in order] == [4, 6, 5, 7]
    order = plan.order_cpus(machine(cpus=8, nodes=2).cpus, 1, "off")
    assert [cpu.id for cpu in order] == [0, 2, 4, 6, 1, 3, 5, 7]


def test_a_hardware_ring_runs_where_its_irq_is() -> None:
    made = plan.make(settings(iface="eth0", ip="10.0.0.5/24"), machine(), ("mem", "netmap"))
    assert [(shard.ring, shard.cpu) for shard in made.shards] == [
        (f"netmap:eth0-{queue}", queue) for queue in range(4)
    ]


def test_the_ladder_says_why() -> None:
    made = make(machine(), iface="eth0", ip="10.0.0.5/24")
    assert str(made.device) == "packet:eth0"
    assert made.ladder == ("netmap: not in this build", "xdp: not in this build", "packet: taken")


def test_more_workers_than_cpus_share_and_say_so() -> None:
    made = make(machine(cpus=2, nodes=1), device="mem:x", workers="5")
    assert [shard.cpu for shard in made.shards] == [0, 1, 0, 1, 0]
    assert made.notes[0] == "5 shards share 2 CPUs"


def test_mem_needs_no_address_and_no_interface() -> None:
    made = make(machine(interface=None), device="mem:x", workers="2")
    assert (str(made.address), made.ifindex) == ("10.77.0.1/16", 0)


def test_cpus_that_are_given_are_used_in_their_order() -> None:
    made = make(machine(), device="mem:x", cpus="6,4", numa="off")
    assert [shard.cpu for shard in made.shards] == [6, 4]


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({}, UsageError, "no device"),
        ({"iface": "eth0"}, UsageError, "no address"),
        ({"device": "xdp:eth0", "ip": "10.0.0.5"}, DeviceUnavailableError, "not in this build"),
        ({"device": "foo:eth0", "ip": "10.0.0.5"}, UsageError, "unknown backend foo"),
        ({"iface": "eth0", "ip": "10.0.0.1"}, ConfigInvalidError, "this host's own address"),
        ({"device": "mem:x", "cpus": "99"}, ConfigInvalidError, "may not use CPU 99"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(machine(), **flags)


def test_an_interface_that_is_missing_or_down_is_refused() -> None:
    with pytest.raises(DeviceUnavailableError, match="no interface eth9"):
        make(machine(interface=None), iface="eth9", ip="10.0.0.5")
    down = Interface("eth0", 3, bytes(6), 1500, -1, False, (Queue(0, -1, ()),))
    with pytest.raises(DeviceUnavailableError, match="is down"):
        make(machine(interface=down), iface="eth0", ip="10.0.0.5")


def test_strict_numa_without_a_near_cpu_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match="NUMA node 1"):
        make(machine(node=1), iface="eth0", ip="10.0.0.5", cpus="0-3", numa="strict")


def test_the_plan_can_be_read() -> None:
    made = make(machine(), device="mem:x", workers="2")
    text = "\n".join(plan.render(made, settings(device="mem:x")))
    assert "shard 1   ring mem:x-1" in text
    assert plan.document(made, settings(device="mem:x"))["device"] == "mem:x"


def test_binding_memory_is_never_fatal() -> None:
    class Refusing:
        def set_membind_nodes(self, node: int) -> None:
            raise Exception("no")

    assert affinity.bind_memory(None, 0, "strict") == ""
    assert affinity.bind_memory(Refusing(), 0, "prefer") == ""
    assert "cannot bind" in affinity.bind_memory(Refusing(), 0, "strict")
    assert "not online" in affinity.bind_memory(Refusing(), 4711, "strict")
    assert affinity.preload(4711, "strict") is None
