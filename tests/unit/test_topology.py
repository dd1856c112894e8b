"""sysfs → topology → plan, on made-up machines."""

from pathlib import Path

import pytest

from orchestrator import host, plan, topology
from orchestrator.topology import Cpu, Interface, Queue, Topology
from shardserver import affinity, config, values
from shardserver.errors import (
    ConfigInvalidError,
    DeviceUnavailableError,
    NoPermissionError,
    UsageError,
)
from shardserver.nic import inventory, netlink
from shardserver.nic import machine as nic_machine
from shardserver.nic.changes import Wishes

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


@pytest.mark.parametrize(
    "label", ["eth7-TxRx-1", "i40e-eth7-TxRx-1", "eth7-rx-1", "virtio2-input.1"]
)
def test_a_queues_interrupt_is_known_by_its_name(tmp_path: Path, label: str) -> None:
    (tmp_path / "interrupts").write_text(f" 40: 7 PCI-MSI {label}\n 41: 7 x virtio2-output.1\n")
    assert topology._queue_irqs(tmp_path, "eth7", "virtio2", 2) == {1: 40}
    (tmp_path / "interrupts").write_text(" 50: 7 PCI-MSI mlx5_comp0@pci:0000:3b:00.0\n")
    assert topology._queue_irqs(tmp_path, "eth7", "0000:3b:00.0", 2) == {0: 50}


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
    made = plan.make(
        settings(iface="eth0", ip="10.0.0.5/24"), machine(netmap=True), ("mem", "netmap")
    )
    assert [(shard.ring, shard.cpu) for shard in made.shards] == [
        (f"netmap:eth0-{queue}", queue) for queue in range(4)
    ]


def test_the_ladder_says_why() -> None:
    made = make(machine(), iface="eth0", ip="10.0.0.5/24")
    assert str(made.device) == "packet:eth0"
    assert made.ladder == ("netmap: not in this build", "xdp: not in this build", "packet: taken")


def test_what_follows_an_interface_is_not_its_name() -> None:
    flags = settings(device="xdp:eth0:copy:busy-poll", ip="10.0.0.5/24")
    made = plan.make(flags, machine(), ("xdp",))
    assert str(made.device) == "xdp:eth0:copy:busy-poll"
    assert flags.device is not None
    assert flags.device.interface == "eth0"


def test_the_ladder_takes_the_next_rung_where_one_cannot() -> None:
    cannot = {"netmap": "/dev/netmap is absent", "xdp": "CAP_BPF is missing"}
    flags = settings(iface="eth0", ip="10.0.0.5/24")
    made = plan.make(flags, machine(), ("mem", "packet", "xdp", "netmap"), cannot)
    assert made.ladder == (
        "netmap: /dev/netmap is absent", "xdp: CAP_BPF is missing", "packet: taken",
    )  # fmt: skip
    made = plan.make(flags, machine(), ("mem", "packet", "xdp", "netmap"), {"netmap": "no"})
    assert (str(made.device), made.ladder[-1]) == ("xdp:eth0", "xdp: taken")


def test_a_ladder_without_a_rung_gives_every_reason() -> None:
    flags = settings(iface="eth0", ip="10.0.0.5/24")
    with pytest.raises(NoPermissionError, match="packet: CAP_NET_RAW is missing"):
        plan.make(flags, machine(), AVAILABLE, {"packet": "CAP_NET_RAW is missing"})
    with pytest.raises(DeviceUnavailableError, match="packet: it is no Ethernet interface"):
        plan.make(flags, machine(), AVAILABLE, {"packet": "it is no Ethernet interface"})


def test_a_backend_asked_for_by_name_is_never_replaced() -> None:
    flags = settings(device="xdp:eth0", ip="10.0.0.5/24")
    made = plan.make(flags, machine(), ("packet", "xdp"), {"xdp": "CAP_BPF is missing"})
    assert (str(made.device), made.ladder) == ("xdp:eth0", ())


def test_a_bare_name_is_an_interface() -> None:
    assert make(machine(), device="eth0", ip="10.0.0.5/24").ladder[-1] == "packet: taken"


def test_the_policy_is_in_the_plan() -> None:
    flags = settings(iface="eth0", ip="10.0.0.5/24")
    made = plan.make(flags, machine(), AVAILABLE)
    assert made.policy == "pass-ip"
    assert "policy    pass-ip: frames for" in "\n".join(plan.render(made, flags))
    assert plan.document(made, flags)["policy"] == "pass-ip"
    with pytest.raises(DeviceUnavailableError, match="packet: no --policy rings"):
        make(machine(), iface="eth0", ip="10.0.0.5/24", policy="rings")


def test_the_plan_counts_the_queues_that_there_will_be() -> None:
    few = host.with_channels(machine(queues=4), 2)
    more = host.with_channels(machine(queues=4), 6)
    assert few.interface and more.interface
    assert [queue.irq for queue in few.interface.queues] == [40, 41]
    assert [queue.irq for queue in more.interface.queues] == [40, 41, 42, 43, -1, -1]
    assert host.with_channels(machine(), 0) == machine()


def test_the_program_of_a_server_that_is_leaving_is_no_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = netlink.Link(3, "eth0", 1, 0x1043, bytes(6), 1500, xdp_mode="native", xdp_program=7)
    here = nic_machine.Machine(kernel="6.1", capabilities=frozenset(nic_machine.CAPABILITIES))
    monkeypatch.setattr(inventory, "link_of", lambda _name: link)
    monkeypatch.setattr(nic_machine, "read", lambda: here)
    available = ("mem", "packet", "xdp")
    monkeypatch.setattr(nic_machine, "taken", lambda _index: False)
    assert "another native XDP program (id 7)" in host.cannot("eth0", available)["xdp"]
    monkeypatch.setattr(nic_machine, "taken", lambda _index: True)
    assert list(host.cannot("eth0", available)) == ["netmap"]


def test_what_a_server_wants_of_its_interface() -> None:
    flags = settings(iface="eth0", mac="02:00:00:00:00:02", offloads="off", channels="2")
    assert host.wishes(flags, "xdp") == Wishes("xdp", "off", False, 2, ())
    assert host.wishes(settings(promisc="true"), "packet") == Wishes("packet", "auto", True)


def test_more_workers_than_cpus_share_and_say_so() -> None:
    made = make(machine(cpus=2, nodes=1), device="mem:x", workers="5")
    assert [shard.cpu for shard in made.shards] == [0, 1, 0, 1, 0]
    assert made.notes[0] == "5 shards share 2 CPUs"


def test_mem_needs_no_address_and_no_interface() -> None:
    made = make(machine(interface=None), device="mem:x", workers="2")
    assert (str(made.address), made.ifindex) == ("10.77.0.1/16", 0)


def test_a_switchs_port_has_one_worker_and_needs_no_interface() -> None:
    made = plan.make(settings(device="vale:s:a"), machine(interface=None), ("mem", "vale"))
    assert [shard.ring for shard in made.shards] == ["vale:s:a-0"]
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
        ({"device": "foo:eth0", "ip": "10.0.0.5"}, UsageError, "with one of netmap, xdp, packet"),
        ({"device": "mem:x", "gateway": "10.77.0.1"}, ConfigInvalidError, "own address"),
        ({"device": "mem:x", "gateway": "10.78.0.1"}, ConfigInvalidError,
         "10.78.0.1 is not in the network of 10.77.0.1/16"),
        ({"device": "mem:x", "channels": "4"}, ConfigInvalidError, "--channels 4 is for a network"),
        ({"device": "mem:x", "rss": "symmetric"}, ConfigInvalidError, "--rss symmetric is for"),
        ({"device": "mem:x", "promisc": "true"}, ConfigInvalidError, "--promisc is for a network"),
        ({"device": "mem:x", "offloads": "off"}, ConfigInvalidError, "--offloads off is for"),
        ({"device": "mem:x", "cpus": "0-30"}, ConfigInvalidError, "may not use CPU 8-30"),
        ({"iface": "eth0", "ip": "10.0.0.1"}, ConfigInvalidError, "this host's own address"),
        ({"device": "mem:x", "cpus": "99"}, ConfigInvalidError, "may not use CPU 99"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    flags: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(machine(), **flags)


@pytest.mark.parametrize(
    ("ip", "gateway"), [("10.0.0.5/24", "10.0.0.254"), ("10.0.0.5/32", "10.9.0.1")]
)
def test_a_gateway_is_in_the_network_where_there_is_one(ip: str, gateway: str) -> None:
    made = make(machine(), iface="eth0", ip=ip, gateway=gateway)
    assert made.sharing.gateway == values.parse_ip(gateway)


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


ALL = ("mem", "packet", "tap", "pcap", "vde")


def planned(topology: Topology, device: str) -> plan.Plan:
    flags = settings(device=device, ip="10.77.0.2/24", workers="2")
    return plan.make(flags, topology, ALL)


@pytest.mark.parametrize("device", ["tap:tap0", "vde:/run/sw.ctl", "pcap:./x.pcap"])
def test_some_devices_need_no_interface(device: str) -> None:
    made = planned(machine(interface=None), device)
    assert (str(made.device), made.ifindex, len(made.shards)) == (device, 0, 2)


def test_a_capture_needs_an_interface_unless_it_is_a_file() -> None:
    with pytest.raises(DeviceUnavailableError, match="no interface nosuch0"):
        planned(machine(interface=None), "pcap:nosuch0")


def test_the_host_s_side_of_a_tap_gets_its_command() -> None:
    (note,) = planned(machine(interface=None), "tap:tap0").notes
    assert note.endswith("ip addr add 10.77.0.1/24 dev tap0")
    known = machine(interface=None, host_addresses=(0x0A4D0009,))  # 10.77.0.9 is the host's
    assert planned(known, "tap:tap0").notes == ()


def test_a_tap_has_as_many_queues_as_workers_whatever_it_had() -> None:
    made = plan.make(settings(device="tap:eth0", ip="10.0.0.5/24"), machine(cpus=8, queues=1), ALL)
    assert len(made.shards) == 8
    assert not any("queues for" in note for note in made.notes)


def netmap(
    topology: Topology, available: tuple[str, ...] = (*AVAILABLE, "netmap"), **flags: object
):
    return plan.make(settings(**flags), topology, available)


def test_auto_takes_netmap_where_its_module_is_loaded() -> None:
    with_module = netmap(machine(netmap=True), iface="eth0", ip="10.0.0.2/24")
    assert with_module.device.backend == "netmap"
    without = netmap(machine(), iface="eth0", ip="10.0.0.2/24")
    assert without.device.backend == "packet"
    assert without.ladder[0] == "netmap: no /dev/netmap: its module is not loaded"


def test_netmap_has_a_worker_for_each_ring_even_beyond_the_cpus() -> None:
    made = netmap(machine(cpus=2, queues=4), device="netmap:eth0", ip="10.0.0.2/24")
    assert [shard.ring for shard in made.shards] == [f"netmap:eth0-{n}" for n in range(4)]


def test_a_name_that_picks_a_ring_has_one_worker_near_that_rings_irq() -> None:
    port = topology.NetmapPort("eth0", ring=2)
    made = netmap(machine(netmap_port=port), device="netmap:eth0-2", ip="10.0.0.2/24")
    assert made.shards == (plan.ShardPlan(0, "netmap:eth0-2", 2, 0),)


def test_host_rings_have_a_worker_of_their_own() -> None:
    both = topology.NetmapPort("eth0", host=True)
    made = netmap(machine(netmap_port=both), device="netmap:eth0*", ip="10.0.0.2/24")
    assert len(made.shards) == 4 + 1
    host = topology.NetmapPort("eth0", nic=False, host=True)
    made = netmap(machine(netmap_port=host), device="netmap:eth0^", ip="10.0.0.2/24")
    assert len(made.shards) == 1


def test_pipes_and_vale_ports_need_no_interface() -> None:
    port = topology.NetmapPort("")
    for device in ("netmap:x{1", "vale0:1"):
        made = netmap(machine(interface=None, netmap_port=port), device=device, ip="10.0.0.2/24")
        assert made.device.backend == "netmap"
        assert len(made.shards) == 1


def test_a_netmap_port_on_no_such_interface_names_the_interface() -> None:
    port = topology.NetmapPort("eth9", ring=0)
    with pytest.raises(DeviceUnavailableError, match="no interface eth9"):
        netmap(machine(interface=None, netmap_port=port), device="netmap:eth9-0", ip="10.0.0.2/24")
