"""The orchestrator's loop: one thread, one selector, no ZeroMQ. Start reading at `Supervisor.run`.

It waits for: a worker's end (pidfd), a worker's words (channel, output), `control`'s end and
orders, the device's event, signals, and a tick every TICK_S for what has a time. Decisions come
from `lifecycle` and `watch`. When a worker dies its successor is forked before anything is told.
"""

from __future__ import annotations

import logging
import selectors
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from orchestrator import lifecycle, shards, watch
from orchestrator.announce import Announcer
from orchestrator.lifecycle import Action, Death, Event, State
from orchestrator.link import ControlLink
from orchestrator.shards import MakeJob, Running, Shard
from orchestrator.signals import Inbox
from shardserver import logs, process, worker
from shardserver.errors import BootFailedError, ProtocolError, ShardserverError
from shardserver.native import ShardWord
from shardserver.protocol import (
    Aborted,
    ConfirmOrder,
    Drained,
    Ready,
    RestartOrder,
    StopOrder,
)

TICK_S = 0.1
QUICK_S = 2.0  # how long an abort may take before SIGKILL
STOP_EVENTS = {"drain": Event.DRAIN, "quick": Event.STOP, "now": Event.NOW}
_FORCE = ("", "drain", "quick", "now")
# A signal that is repeated asks for the next harder way.
_SIGNAL_MODES = {signal.SIGTERM: 1, signal.SIGINT: 2, signal.SIGQUIT: 2}


@dataclass(frozen=True)
class Timings:
    """What the configuration says about time, in seconds."""

    boot_s: float
    graceful_s: float
    confirm_s: float = 0.0  # how long a server stays without a confirmation; 0: for good


@dataclass(frozen=True)
class Hooks:
    """What the supervisor is given from outside."""

    make_job: MakeJob
    on_ready: Callable[[], None]
    device_fd: int
    device_event: Callable[[], None]
    reopen_logs: Callable[[], None]
    link_fd: int = -1  # readable when something happened to the interface
    link_event: Callable[[], None] = lambda: None


class Supervisor:
    """Runs the shards until all have stopped."""

    def __init__(
        self,
        shards: list[Shard],
        core: worker.Core,
        link: ControlLink,
        timings: Timings,
        hooks: Hooks,
    ) -> None:
        self._shards = shards
        self._core = core
        self._link = link
        self._timings = timings
        self._hooks = hooks
        self._guard = watch.Watch(watch.slowness())
        self._tell = Announcer(link, shards)
        self._selector = selectors.DefaultSelector()
        self._standby: Running | None = None
        self._ready = False
        self._stopping = ""
        self._stop_due_s = 0.0
        self._error: ShardserverError | None = None
        self.aborted = 0  # connections that the stop has reset
        self.unconfirmed = False  # stopped because nobody confirmed in time

    def run(self, inbox: Inbox) -> None:
        """Forks everything, supervises, and returns when every shard has stopped."""
        self._watch(inbox.fileno(), lambda: self._signals(inbox))
        if self._hooks.device_fd >= 0:
            self._watch(self._hooks.device_fd, self._hooks.device_event)
        if self._hooks.link_fd >= 0:
            self._watch(self._hooks.link_fd, self._hooks.link_event)
        for shard in self._shards:
            self._spawn(shard)
        self._start_control()
        tick_s = time.monotonic() + TICK_S
        while not all(shard.life.state is State.STOPPED for shard in self._shards):
            self._turn(max(0.0, tick_s - time.monotonic()))
            if time.monotonic() >= tick_s:
                self._tick(time.monotonic())
                tick_s = time.monotonic() + TICK_S
        if self._error:
            raise self._error

    def _turn(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            if self._selector.get_map().get(key.fd) is key:  # not gone by an earlier callback
                key.data()
        if not self._ready and all(s.life.state is State.RUNNING for s in self._shards):
            self._ready = True
            self._hooks.on_ready()
            self._await_confirmation()
            self._keep_standby()

    def _watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def _unwatch(self, *fds: int) -> None:
        for fd in fds:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)

    def close(self) -> None:
        """Ends what is left, on whatever way the loop was left. Idempotent."""
        for running in [self._standby, *(shard.running for shard in self._shards)]:
            if running:
                running.child.kill()
                shards.bury(running)
        self._standby = None
        self._link.close()
        self._selector.close()

    def close_in_child(self) -> None:
        """In a forked process: closes what is the orchestrator's or a sibling's."""
        self._selector.close()
        self._link.close_in_child()
        for running in [self._standby, *(shard.running for shard in self._shards)]:
            shards.close_in_child(running)

    # Shards: events in, actions out

    def _feed(self, shard: Shard, event: Event) -> None:
        shard.life, actions = lifecycle.step(shard.life, event)
        self._carry_out(shard, actions)

    def _carry_out(self, shard: Shard, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Action.SPAWN:
                    self._spawn(shard)
                case Action.KILL:
                    shard.kill()
                case Action.ORDER_DRAIN:
                    shard.order("drain")
                case Action.ORDER_ABORT:
                    shard.order("abort")
                case Action.ORDER_EXIT:
                    shard.due_s = time.monotonic() + self._timings.boot_s
                    shard.order("exit")
                case Action.WAIT:
                    shard.due_s = time.monotonic() + shard.life.backoff_s

    def _spawn(self, shard: Shard) -> None:
        now_s = time.monotonic()
        shard.due_s = now_s + self._timings.boot_s
        try:
            running = self._standby or shards.fork_worker(self._hooks.make_job)
        except OSError as error:
            shard.reason = f"fork failed: {error.strerror}"
            death = Death(now_s, code=1, signal=0, served=False)
            shard.life, actions = lifecycle.after_death(shard.life, death)
            self._carry_out(shard, actions)
            return
        if running is self._standby:
            self._unwatch(running.child.pidfd)
            self._standby = None
        shard.take(running)
        self._watch(running.child.pidfd, lambda: self._died(shard, running))
        self._watch(running.channel.fileno(), lambda: self._hear(shard, running))
        self._watch(running.output.fd, lambda: self._relay(shard, running))

    def _keep_standby(self) -> None:
        """A worker that waits for the next death; without one, a successor is forked then."""
        if self._standby or self._stopping:
            return
        try:
            standby = shards.fork_worker(self._hooks.make_job)
        except OSError as error:
            logs.get().warning("no standby worker: fork failed: %s", error.strerror)
            return
        self._standby = standby
        self._watch(standby.child.pidfd, lambda: self._standby_died(standby))

    def _standby_died(self, standby: Running) -> None:
        self._unwatch(standby.child.pidfd)
        self._standby = None
        logs.get().warning("the standby worker ended (%s)", shards.bury(standby))

    def _died(self, shard: Shard, running: Running) -> None:
        """A worker has ended: first its successor, then the words about it."""
        for message in self._messages(running) or []:
            self._take(shard, running, message)
        self._unwatch(running.child.pidfd, running.channel.fileno(), running.output.fd)
        _, phase = self._core.pulse(shard.id)
        hung = shard.reason if shard.life.state is State.HUNG else ""
        status = shard.bury(running)
        self._core.set_state(shard.id, ShardWord.DOWN)
        death = Death(shard.died_s, status.code, status.signal, served=running.served)
        shard.life, actions = lifecycle.after_death(shard.life, death)
        self._carry_out(shard, actions)
        shard.reason = f"worker {running.child.pid} ended ({status}) in phase {phase}" + (
            f" because it hung: {hung}" if hung else ""
        )
        self._tell.output(shard, running.rest)
        self._tell.death(shard)
        self._tell.table()
        if shard.life.state is State.FATAL:
            self._gave_up(shard, running.output.last_line)

    def _gave_up(self, shard: Shard, last_line: str) -> None:
        """A shard is down for good: the start has failed, or the server is degraded or lost."""
        lost = all(s.life.state in (State.FATAL, State.STOPPED) for s in self._shards)
        if self._ready and not lost:
            return
        said = f"; its last words: {last_line}" if last_line else ""
        self._error = self._error or BootFailedError(f"{shard.plan.ring}: {shard.reason}{said}")
        self.stop("now")

    def give_up(self, error: ShardserverError) -> None:
        """Nothing can go on: stops, and `run` raises the error."""
        if not self._stopping:
            self._error = self._error or error
            self._tell.event(logging.ERROR, error.word, error.message)
            self.stop("now")

    def _messages(self, running: Running) -> list[object] | None:
        """What a worker has said; None: it says nothing any more."""
        try:
            return running.channel.receive()
        except ProtocolError as error:
            logs.get().error("a worker's message was not understood: %s", error)
            return []

    def _hear(self, shard: Shard, running: Running) -> None:
        messages = self._messages(running)
        if messages is None:
            self._unwatch(running.channel.fileno())  # its end is near: the pidfd will tell
        for message in messages or []:
            self._take(shard, running, message)

    def _take(self, shard: Shard, running: Running, message: object) -> None:
        match message:
            case Ready():
                running.served = True
                self._feed(shard, Event.READY)
                self._tell.serves(shard, running.child.pid, message)
                self._tell.table()
            case Drained():
                self._feed(shard, Event.DRAINED)
            case Aborted(connections=count):
                self.aborted += count

    def _relay(self, shard: Shard, running: Running) -> None:
        lines = running.output.read()
        if not lines and running.output.closed:
            self._unwatch(running.output.fd)
        self._tell.output(shard, lines)

    # Control, signals, time

    def _start_control(self) -> None:
        self._link.start()
        if self._link.child and self._link.channel:
            self._watch(self._link.child.pidfd, self._control_died)
            self._watch(self._link.channel.fileno(), self._control_spoke)
            self._tell.table()

    def _control_died(self) -> None:
        if self._link.child and self._link.channel:
            self._unwatch(self._link.child.pidfd, self._link.channel.fileno())
        self._link.bury()

    def _control_spoke(self) -> None:
        orders = self._link.receive()
        if orders is None and self._link.channel:
            self._unwatch(self._link.channel.fileno())
        for order in orders or []:
            match order:
                case StopOrder(mode=mode) if mode in STOP_EVENTS:
                    self.stop(mode)
                case RestartOrder(shards=numbers):
                    self._restart(numbers)
                case ConfirmOrder():
                    self._confirmed()

    def _await_confirmation(self) -> None:
        """Who has cut himself off cannot say so: without a word in time, all goes back."""
        if not self._timings.confirm_s:
            return
        self._tell.confirm_by_s = time.monotonic() + self._timings.confirm_s
        self._tell.event(
            logging.WARNING,
            "confirmation_awaited",
            f"stops and undoes every change in {self._timings.confirm_s:g} s, unless confirmed: "
            "shardserver confirm",
        )
        self._tell.table()

    def _confirmed(self) -> None:
        if self._tell.confirm_by_s and not self._stopping:
            self._tell.confirm_by_s = 0.0
            self._tell.event(logging.INFO, "confirmed", "confirmed: the server stays")
            self._tell.table()

    def _roll_back(self) -> None:
        """Nobody has confirmed."""
        self.unconfirmed = True
        self._tell.event(logging.ERROR, "unconfirmed", "nobody confirmed: rolling back")
        self.stop("quick")

    def _restart(self, numbers: Collection[int]) -> None:
        for shard in self._shards:
            if shard.id in numbers:
                self._feed(shard, Event.RESTART)

    def _signals(self, inbox: Inbox) -> None:
        for number in inbox.take():
            if number in _SIGNAL_MODES:
                first = _SIGNAL_MODES[signal.Signals(number)]
                again = min(_FORCE.index(self._stopping) + 1, 3) if self._stopping else 0
                self.stop(_FORCE[max(first, again)])
            elif number == signal.SIGUSR1:
                self._hooks.reopen_logs()
            elif number == signal.SIGHUP:
                logs.get().info("SIGHUP: settings are read at the start; nothing to reload")

    def stop(self, mode: str) -> None:
        """Begins to stop, or stops harder: drain, quick, now. A softer way changes nothing."""
        if _FORCE.index(mode) <= _FORCE.index(self._stopping):
            return
        self._stopping = mode
        self._tell.stopping = True
        limit_s = self._timings.graceful_s if mode == "drain" else QUICK_S
        self._stop_due_s = time.monotonic() + limit_s
        self._tell.event(logging.INFO, "stopping", f"stopping: {mode}", mode=mode)
        for shard in self._shards:
            self._feed(shard, STOP_EVENTS[mode])
        self._tell.table()

    def _tick(self, now_s: float) -> None:
        for shard in self._shards:
            self._tick_shard(shard, now_s)
        if self._stopping and now_s >= self._stop_due_s:
            self.stop(_FORCE[min(_FORCE.index(self._stopping) + 1, 3)])
        if self._ready:
            self._keep_standby()
        if 0 < self._tell.confirm_by_s <= now_s and not self._stopping:
            self._roll_back()
        if self._link.due_s and now_s >= self._link.due_s and not self._link.child:
            self._start_control()

    def _tick_shard(self, shard: Shard, now_s: float) -> None:
        running = shard.running
        if running and running.served:
            self._look_at_pulse(shard, running)
        elif now_s < shard.due_s:
            return
        elif shard.life.state is State.BACKOFF:
            self._feed(shard, Event.BACKOFF_OVER)
            self._tell.table()
        elif running:
            shard.reason = f"not ready within {self._timings.boot_s:g} s"
            self._feed(shard, Event.BOOT_TIMEOUT)

    def _look_at_pulse(self, shard: Shard, running: Running) -> None:
        heartbeat, phase = self._core.pulse(shard.id)
        still = heartbeat == running.pulse.heartbeat
        pid = running.child.pid
        running.pulse, why = self._guard.look(
            running.pulse,
            (heartbeat, phase),
            process.cpu_seconds(pid),
            stopped=still and process.is_stopped(pid),
        )
        if why and shard.life.state is not State.HUNG:
            shard.reason = why
            self._tell.event(
                logging.WARNING,
                "worker_hung",
                f"shard {shard.id}: worker {pid} hangs in phase {phase}: {why}",
                shard.id,
                phase=phase,
            )
            self._feed(shard, Event.HANG)
