"""Whether a worker hangs (DESIGN 2.6). Pure, but for `slowness`.

Wall time alone would kill healthy workers on a crowded machine: a worker hangs when it makes no
progress while it consumes CPU time, or while it is stopped. Progress is a turn, or a step of one.

CPU time alone would do so where a CPU is emulated or shared by a hypervisor: what the guest counts
as its own includes the time in which the CPU stood still. So the limit is HANG_CPU_S on a machine
of ordinary speed, more on a slower one, and GRACE times the longest halt that ended by itself; and
one look counts LOOK_MAX_S at most, for a machine that stood still has missed the looks between.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

HANG_CPU_S = 0.1
HANG_CPU_MAX_S = 5.0
GRACE = 4
LOOK_MAX_S = 0.2

_STEPS = 20_000
_ORDINARY_S = 0.001  # for so many steps; a CPU of 2020 takes 0.0006, an emulated one 0.02


@dataclass(frozen=True)
class Pulse:
    """A worker's last progress seen, its CPU time at the last look, and what it has spent since."""

    heartbeat: int = -1
    phase: str = ""
    cpu_s: float = 0.0
    spent_s: float = 0.0


class Watch:
    """What all workers are measured by; `limit_s` is what one may consume in a halt."""

    def __init__(self, slow: float = 1.0) -> None:
        self.limit_s = min(HANG_CPU_S * max(slow, 1.0), HANG_CPU_MAX_S)

    def look(
        self, pulse: Pulse, beat: tuple[int, str], cpu_s: float, stopped: bool
    ) -> tuple[Pulse, str]:
        """The pulse from now on, and why the worker hangs; "" when it does not. `beat` is the
        number of its turns and the step it is at."""
        if beat != (pulse.heartbeat, pulse.phase):
            self.limit_s = min(max(self.limit_s, GRACE * pulse.spent_s), HANG_CPU_MAX_S)
            return Pulse(*beat, cpu_s), ""
        if stopped:
            return pulse, "it is stopped (state T)"
        spent_s = pulse.spent_s + min(cpu_s - pulse.cpu_s, LOOK_MAX_S)
        pulse = replace(pulse, cpu_s=cpu_s, spent_s=spent_s)
        if spent_s >= self.limit_s:
            return pulse, f"no turn in {spent_s * 1000:.0f} ms of CPU time"
        return pulse, ""


def slowness() -> float:
    """How many times slower than ordinary this machine's CPU is now: the best of three trials."""
    return min(_trial() for _ in range(3)) / _ORDINARY_S


def _trial() -> float:
    began = time.thread_time()
    total = 0
    for step in range(_STEPS):
        total += step & 7
    return time.thread_time() - began
