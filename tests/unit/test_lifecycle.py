"""The table of a shard's life, and what a death leads to."""

import time

import pytest

from orchestrator import lifecycle, watch
from orchestrator.lifecycle import Action, Death, Event, Goal, Life, State


def died(at_s: float, signal: int = 11, code: int = 0, served: bool = True) -> Death:
    return Death(at_s, code, signal, served)


RUNNING = Life(State.RUNNING, ever_served=True)


def test_a_worker_that_reports_ready_runs() -> None:
    assert lifecycle.step(Life(), Event.READY) == (RUNNING, ())


@pytest.mark.parametrize(
    ("state", "event", "becomes", "actions"),
    [
        (State.STARTING, Event.BOOT_TIMEOUT, State.HUNG, (Action.KILL,)),
        (State.RUNNING, Event.HANG, State.HUNG, (Action.KILL,)),
        (State.RUNNING, Event.DRAIN, State.DRAINING, (Action.ORDER_DRAIN,)),
        (State.RUNNING, Event.STOP, State.DRAINING, (Action.ORDER_ABORT,)),
        (State.RUNNING, Event.NOW, State.DRAINING, (Action.KILL,)),
        (State.RUNNING, Event.RESTART, State.STARTING, (Action.ORDER_EXIT,)),
        (State.BACKOFF, Event.BACKOFF_OVER, State.STARTING, (Action.SPAWN,)),
        (State.BACKOFF, Event.STOP, State.STOPPED, ()),
        (State.FATAL, Event.DRAIN, State.STOPPED, ()),
        (State.DRAINING, Event.DRAINED, State.DRAINING, (Action.ORDER_EXIT,)),
        (State.DRAINING, Event.READY, State.DRAINING, (Action.ORDER_DRAIN,)),
        (State.DRAINING, Event.STOP, State.DRAINING, (Action.ORDER_ABORT,)),
        (State.STOPPED, Event.DRAIN, State.STOPPED, ()),
        (State.RUNNING, Event.BACKOFF_OVER, State.RUNNING, ()),
    ],
)
def test_the_table(state: State, event: Event, becomes: State, actions: tuple[Action, ...]) -> None:
    life, done = lifecycle.step(Life(state, ever_served=True), event)
    assert (life.state, done) == (becomes, actions)


def test_every_state_has_a_way_to_be_stopped_at_once() -> None:
    for state in set(State) - {State.STOPPED}:
        life, _ = lifecycle.step(Life(state), Event.NOW)
        assert life.state is State.STOPPED or life.goal is Goal.QUIT
        assert lifecycle.after_death(life, died(0.0))[0].state is State.STOPPED


def test_a_worker_that_is_killed_is_replaced_at_once_however_often() -> None:
    life = RUNNING
    for kill in range(100):
        life, actions = lifecycle.after_death(life, died(kill * 0.1, signal=9))
        assert (life.state, actions) == (State.STARTING, (Action.SPAWN,))
        life, _ = lifecycle.step(life, Event.READY)
    assert life.restarts == 100


def test_crashes_back_off_and_end() -> None:
    life = RUNNING
    seen = []
    for crash in range(lifecycle.FATAL_DEATHS):
        life, actions = lifecycle.after_death(life, died(crash * 0.5))
        seen.append((life.state, life.backoff_s, actions))
        if life.state is State.BACKOFF:
            life, _ = lifecycle.step(life, Event.BACKOFF_OVER)
        life, _ = lifecycle.step(life, Event.READY)
    assert seen[:2] == [(State.STARTING, 0.0, (Action.SPAWN,))] * 2
    assert [wait for _, wait, _ in seen[2:7]] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert seen[7][0] is State.FATAL
    assert life.state is State.FATAL


def test_crashes_far_apart_are_replaced_at_once() -> None:
    life = RUNNING
    for crash in range(20):
        life, actions = lifecycle.after_death(life, died(crash * 6.0))
        assert actions == (Action.SPAWN,)
        life, _ = lifecycle.step(life, Event.READY)


def test_a_shard_that_never_served_is_given_up_at_its_third_failure() -> None:
    life = Life()
    for failure in range(lifecycle.BOOT_FAILURES_MAX - 1):
        life, actions = lifecycle.after_death(life, died(failure, code=3, signal=0, served=False))
        assert actions == (Action.SPAWN,)
    life, actions = lifecycle.after_death(life, died(2.0, code=3, signal=0, served=False))
    assert (life.state, actions) == (State.FATAL, ())


def test_a_kill_before_it_serves_counts() -> None:
    life, _ = lifecycle.after_death(Life(), died(0.0, signal=9, served=False))
    assert len(life.counted) == 1


def test_a_worker_that_dies_while_draining_gets_a_successor_that_drains_on() -> None:
    life, _ = lifecycle.step(RUNNING, Event.DRAIN)
    life, actions = lifecycle.after_death(life, died(0.0, signal=9))
    assert (life.state, actions) == (State.DRAINING, (Action.SPAWN,))
    life, actions = lifecycle.step(life, Event.READY)
    assert actions == (Action.ORDER_DRAIN,)
    life, _ = lifecycle.step(life, Event.DRAINED)
    life, actions = lifecycle.after_death(life, died(1.0, signal=0))
    assert (life.state, actions) == (State.STOPPED, ())


def test_a_restart_that_was_asked_for_does_not_count() -> None:
    life = RUNNING
    for round_ in range(20):
        life, _ = lifecycle.step(life, Event.RESTART)
        life, actions = lifecycle.after_death(life, died(round_ * 0.1, signal=0))
        assert actions == (Action.SPAWN,)
        life, _ = lifecycle.step(life, Event.READY)
    assert life.counted == ()


def test_a_worker_that_beats_does_not_hang_whatever_it_consumes() -> None:
    guard, pulse = watch.Watch(), watch.Pulse()
    for beat in range(5):
        pulse, why = guard.look(pulse, (beat, "input"), cpu_s=beat * 10.0, stopped=False)
        assert why == ""


def test_a_worker_hangs_by_cpu_time_not_by_wall_time() -> None:
    guard = watch.Watch()
    pulse, _ = guard.look(watch.Pulse(), (7, "input"), cpu_s=1.0, stopped=False)
    for _ in range(1000):  # it does not run: a crowded machine
        pulse, why = guard.look(pulse, (7, "input"), cpu_s=1.05, stopped=False)
        assert why == ""
    _, why = guard.look(pulse, (7, "input"), cpu_s=1.1, stopped=False)
    assert why == "no turn in 100 ms of CPU time"


def test_a_stopped_worker_hangs() -> None:
    guard = watch.Watch()
    pulse, _ = guard.look(watch.Pulse(), (7, "input"), cpu_s=1.0, stopped=False)
    assert "state T" in guard.look(pulse, (7, "input"), cpu_s=1.0, stopped=True)[1]


def test_a_step_within_a_turn_is_progress() -> None:
    guard = watch.Watch()
    pulse, _ = guard.look(watch.Pulse(), (7, "input"), cpu_s=1.0, stopped=False)
    pulse, why = guard.look(pulse, (7, "tx"), cpu_s=1.3, stopped=False)
    assert why == ""
    assert "130 ms" in guard.look(pulse, (7, "tx"), cpu_s=1.43, stopped=False)[1]


def test_a_slow_cpu_may_consume_more_before_a_worker_is_taken_as_hung() -> None:
    guard = watch.Watch(slow=12.0)
    pulse, _ = guard.look(watch.Pulse(), (7, "tx"), cpu_s=1.0, stopped=False)
    for look in range(1, 12):
        pulse, why = guard.look(pulse, (7, "tx"), cpu_s=1.0 + 0.1 * look, stopped=False)
        assert why == ""
    assert (
        guard.look(pulse, (7, "tx"), cpu_s=2.21, stopped=False)[1]
        == "no turn in 1210 ms of CPU time"
    )
    assert watch.Watch(slow=1000.0).limit_s == watch.HANG_CPU_MAX_S
    assert watch.Watch(slow=0.2).limit_s == watch.HANG_CPU_S


def test_a_halt_that_ended_by_itself_is_granted_again_and_more() -> None:
    guard = watch.Watch()
    pulse, _ = guard.look(watch.Pulse(), (7, "tx"), cpu_s=1.0, stopped=False)
    pulse, _ = guard.look(pulse, (7, "tx"), cpu_s=1.08, stopped=False)  # the CPU stood still
    pulse, _ = guard.look(pulse, (8, "tx"), cpu_s=1.09, stopped=False)
    assert guard.limit_s == pytest.approx(0.32)
    pulse, why = guard.look(pulse, (8, "tx"), cpu_s=1.25, stopped=False)
    assert why == ""
    pulse, why = guard.look(pulse, (8, "tx"), cpu_s=1.40, stopped=False)
    assert why == ""
    assert guard.look(pulse, (8, "tx"), cpu_s=1.42, stopped=False)[1] != ""


def test_a_machine_that_stood_still_is_no_hang() -> None:
    guard = watch.Watch(slow=4.0)
    pulse, _ = guard.look(watch.Pulse(), (7, "tx"), cpu_s=1.0, stopped=False)
    pulse, why = guard.look(pulse, (7, "tx"), cpu_s=6.8, stopped=False)  # one look, 5.8 s later
    assert why == ""
    assert (
        guard.look(pulse, (7, "tx"), cpu_s=7.0, stopped=False)[1] == "no turn in 400 ms of CPU time"
    )


def test_this_machine_is_measured_in_a_few_milliseconds() -> None:
    began_s = time.thread_time()
    assert 0.05 < watch.slowness() < 100
    assert time.thread_time() - began_s < 0.5
