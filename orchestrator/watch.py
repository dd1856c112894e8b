"""Whether a worker hangs (DESIGN 2.6). Pure.

Wall time alone would kill healthy workers on a crowded machine: a worker hangs when its
heartbeat stands still while it consumed HANG_CPU_S of CPU time, or while it is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

HANG_CPU_S = 0.1


@dataclass(frozen=True)
class Pulse:
    """The last beat seen, and the CPU time consumed by then."""

    heartbeat: int = -1
    cpu_s: float = 0.0


def look(pulse: Pulse, heartbeat: int, cpu_s: float, stopped: bool) -> tuple[Pulse, str]:
    """The pulse from now on, and why the worker hangs; "" when it does not."""
    if heartbeat != pulse.heartbeat:
        return Pulse(heartbeat, cpu_s), ""
    if stopped:
        return pulse, "it is stopped (state T)"
    consumed = cpu_s - pulse.cpu_s
    if consumed >= HANG_CPU_S:
        return pulse, f"no turn in {consumed * 1000:.0f} ms of CPU time"
    return pulse, ""
