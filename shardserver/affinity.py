"""Where a worker runs: its CPU and its memory's NUMA node.

None of it is fatal: a cpuset that was narrowed after the start must not stop a shard.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from shardserver import values


def allowed_cpus() -> tuple[int, ...]:
    """CPUs that this process may use, as cpusets and affinity leave them."""
    return tuple(sorted(os.sched_getaffinity(0)))


def pin(cpu: int) -> str:
    """Pins this process to a CPU. Returns what went wrong, or nothing."""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:
        return f"cannot run on CPU {cpu} only: {error.strerror}; the scheduler places it"
    return ""


def online_nodes(sysfs: Path = Path("/sys")) -> tuple[int, ...]:
    """NUMA nodes as sysfs lists them; (0,) where the kernel has no NUMA."""
    try:
        text = (sysfs / "devices/system/node/online").read_text(encoding="ascii").strip()
        return values.parse_cpus(text)
    except (OSError, ValueError):
        return (0,)


def preload(node: int, mode: str) -> Any:
    """py-libnuma's memory module, or None where it is not installed or not wanted.

    Called before the fork: a worker imports nothing. The node is checked against sysfs first,
    because the package crashes on numbers out of range.
    """
    if mode == "off" or node < 0 or node not in online_nodes():
        return None
    try:
        numa = importlib.import_module("numa")
        memory = importlib.import_module("numa.memory")
        available = getattr(importlib.import_module("numa.info"), "numa_available", None)
        if not hasattr(numa, "LIBNUMA") or (available and not available()):
            return None
        return memory
    except (ImportError, AttributeError, OSError):
        return None


def bind_memory(memory: Any, node: int, mode: str) -> str:
    """Takes this process's new memory from `node`. Returns what went wrong, or nothing.

    `strict` binds; `prefer` leaves the kernel's first-touch policy, which is the node of the CPU
    that the worker is pinned to.
    """
    if memory is None or mode != "strict":
        return ""
    if node not in online_nodes():
        return f"NUMA node {node} is not online"
    try:
        memory.set_membind_nodes(node)
    except Exception as error:  # the package raises plain Exception
        return f"cannot bind memory to NUMA node {node}: {error}"
    return ""
