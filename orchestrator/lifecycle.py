"""The life of a shard: states, events, and what to do on each. A table, pure; start at TABLE.

The orchestrator feeds events in and carries the actions out. Two things end differently:

* A worker that somebody killed (SIGKILL, SIGTERM from outside) after it served is replaced at
  once, however often: its successor adopts every connection, and nothing points at the code.
* A worker that ended by itself (crash, dead ring, no boot, hang) counts. The first two deaths
  counted within WINDOW_S are replaced at once; from the third on the shard waits in BACKOFF,
  0.1 s doubling to 2 s; the FATAL_DEATHS-th stops it. A shard that has never served is stopped
  at its third failure: the start has failed, and repeating it would only hide why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum

WINDOW_S = 10.0
QUICK_DEATHS = 2
BOOT_FAILURES_MAX = 3
FATAL_DEATHS = 8
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0


class State(StrEnum):
    """Where a shard is."""

    STARTING = "starting"
    RUNNING = "running"
    HUNG = "hung"
    BACKOFF = "backoff"
    FATAL = "fatal"
    DRAINING = "draining"
    STOPPED = "stopped"


class Event(Enum):
    """What happened to a shard."""

    READY = "its worker serves"
    BOOT_TIMEOUT = "its worker does not come up"
    HANG = "its worker stands still"
    BACKOFF_OVER = "the wait is over"
    DRAIN = "finish, then stop"
    DRAINED = "no connection is left"
    STOP = "reset what is left, then stop"
    NOW = "stop at once"
    RESTART = "replace the worker"


class Action(Enum):
    """What the orchestrator has to do."""

    SPAWN = "fork a worker"
    KILL = "SIGKILL the worker"
    ORDER_DRAIN = "tell the worker to drain"
    ORDER_ABORT = "tell the worker to reset its connections and to exit"
    ORDER_EXIT = "tell the worker to exit"
    WAIT = "come back with BACKOFF_OVER after backoff_s"


class Goal(Enum):
    """What a shard's next death leads to."""

    SERVE = "a successor"
    DRAIN = "a successor that drains on, unless it was told to exit"
    QUIT = "the end"


@dataclass(frozen=True)
class Death:
    """How a worker ended."""

    at_s: float
    code: int
    signal: int
    served: bool

    @property
    def from_outside(self) -> bool:
        """Killed by somebody after it had served: not its own fault."""
        return self.served and self.signal in (9, 15)

    @property
    def clean(self) -> bool:
        """It was told to exit and did."""
        return self.code == 0 and self.signal == 0


@dataclass(frozen=True)
class Life:
    """A shard's state, with what its table needs to remember."""

    state: State = State.STARTING
    goal: Goal = Goal.SERVE
    ever_served: bool = False
    counted: tuple[float, ...] = ()
    restarts: int = 0
    backoff_s: float = 0.0


Step = tuple[State, Goal | None, tuple[Action, ...]]
_S, _E, _A = State, Event, Action
_STOPPED: Step = (_S.STOPPED, Goal.QUIT, ())
_DRAIN: Step = (_S.DRAINING, Goal.DRAIN, (_A.ORDER_DRAIN,))
_ABORT: Step = (_S.DRAINING, Goal.QUIT, (_A.ORDER_ABORT,))
_KILL_LAST: Step = (_S.DRAINING, Goal.QUIT, (_A.KILL,))

# (state, event) → (next state, next goal or None to keep it, actions). A pair that is not here
# changes nothing: the event came too late.
TABLE: dict[tuple[State, Event], Step] = {
    (_S.STARTING, _E.READY): (_S.RUNNING, None, ()),
    (_S.STARTING, _E.BOOT_TIMEOUT): (_S.HUNG, None, (_A.KILL,)),
    (_S.STARTING, _E.HANG): (_S.HUNG, None, (_A.KILL,)),
    (_S.STARTING, _E.DRAIN): _DRAIN,
    (_S.STARTING, _E.STOP): _ABORT,
    (_S.STARTING, _E.NOW): _KILL_LAST,
    (_S.RUNNING, _E.HANG): (_S.HUNG, None, (_A.KILL,)),
    (_S.RUNNING, _E.DRAIN): _DRAIN,
    (_S.RUNNING, _E.STOP): _ABORT,
    (_S.RUNNING, _E.NOW): _KILL_LAST,
    (_S.RUNNING, _E.RESTART): (_S.STARTING, None, (_A.ORDER_EXIT,)),
    (_S.HUNG, _E.DRAIN): (_S.DRAINING, Goal.DRAIN, ()),
    (_S.HUNG, _E.STOP): _KILL_LAST,
    (_S.HUNG, _E.NOW): _KILL_LAST,
    (_S.BACKOFF, _E.BACKOFF_OVER): (_S.STARTING, None, (_A.SPAWN,)),
    (_S.BACKOFF, _E.DRAIN): _STOPPED,
    (_S.BACKOFF, _E.STOP): _STOPPED,
    (_S.BACKOFF, _E.NOW): _STOPPED,
    (_S.FATAL, _E.DRAIN): _STOPPED,
    (_S.FATAL, _E.STOP): _STOPPED,
    (_S.FATAL, _E.NOW): _STOPPED,
    (_S.DRAINING, _E.READY): (_S.DRAINING, None, (_A.ORDER_DRAIN,)),
    (_S.DRAINING, _E.BOOT_TIMEOUT): (_S.DRAINING, None, (_A.KILL,)),
    (_S.DRAINING, _E.HANG): (_S.DRAINING, None, (_A.KILL,)),
    (_S.DRAINING, _E.DRAINED): (_S.DRAINING, Goal.QUIT, (_A.ORDER_EXIT,)),
    (_S.DRAINING, _E.STOP): _ABORT,
    (_S.DRAINING, _E.NOW): _KILL_LAST,
}


def step(life: Life, event: Event) -> tuple[Life, tuple[Action, ...]]:
    """The life after an event, and what to do."""
    found = TABLE.get((life.state, event))
    if found is None:
        return life, ()
    state, goal, actions = found
    served = life.ever_served or event is Event.READY
    return replace(life, state=state, goal=goal or life.goal, ever_served=served), actions


def _recent(counted: tuple[float, ...], now_s: float) -> tuple[float, ...]:
    return tuple(at for at in counted if now_s - at < WINDOW_S)


def after_death(life: Life, death: Death) -> tuple[Life, tuple[Action, ...]]:
    """The life after its worker has ended, and what to do."""
    if life.state in (State.STOPPED, State.FATAL) or life.goal is Goal.QUIT:
        return replace(life, state=State.STOPPED), ()
    asked = death.clean and life.state is State.STARTING and life.ever_served
    counted = _recent(life.counted, death.at_s)
    if not death.from_outside and not asked:
        counted = (*counted, death.at_s)
    life = replace(life, counted=counted, restarts=life.restarts + 1)
    limit = FATAL_DEATHS if life.ever_served else BOOT_FAILURES_MAX
    if len(counted) >= limit:
        ended = State.STOPPED if life.goal is Goal.DRAIN else State.FATAL
        return replace(life, state=ended), ()
    if life.goal is Goal.DRAIN:
        return replace(life, state=State.DRAINING), (Action.SPAWN,)
    if len(counted) > QUICK_DEATHS and counted[-1] == death.at_s:
        wait_s = min(BACKOFF_FIRST_S * 2 ** (len(counted) - QUICK_DEATHS - 1), BACKOFF_MAX_S)
        return replace(life, state=State.BACKOFF, backoff_s=wait_s), (Action.WAIT,)
    return replace(life, state=State.STARTING), (Action.SPAWN,)
