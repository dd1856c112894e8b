"""The one place that forks, and the one reaper.

A process with threads is never forked: the child would inherit locks that nobody releases.
`Child` holds a pidfd; whoever sees it readable calls `reap`, and nobody else waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import multiprocess

from shardserver import native

_CONTEXT = multiprocess.get_context("fork")
# The parent handles these; a terminal sends them to the whole group.
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


@dataclass(frozen=True)
class ExitStatus:
    """How a child ended: a code, or the signal that ended it."""

    code: int
    signal: int

    def __str__(self) -> str:
        if not self.signal:
            return f"exit code {self.code}"
        try:
            return f"killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"killed by signal {self.signal}"


class Child:
    """A forked process."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal; to a dead child it is a no-op."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> ExitStatus:
        """Waits for the end, closes the pidfd and tells how it ended."""
        self._process.join()
        code: int = self._process.exitcode
        self._process.close()
        os.close(self.pidfd)
        return ExitStatus(max(code, 0), max(-code, 0))


def wait(child: Child, timeout_s: float) -> bool:
    """Waits for a child's end without reaping it; False when it takes longer."""
    poller = select.poll()
    poller.register(child.pidfd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def thread_count() -> int:
    """Threads of this process, C threads included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def in_child() -> None:
    """Signals are the parent's business: a child ends when its parent says so, or is gone."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


@contextmanager
def _signals_held() -> Iterator[None]:
    """No signal reaches the child while it still has its parent's handlers and wake-up fd."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork(target: Callable[[], int], name: str) -> Child:
    """Runs `target` in a forked process; what it returns is the exit code."""
    if thread_count() != 1:
        raise RuntimeError("a process with threads must not fork")
    with _signals_held():
        process = _CONTEXT.Process(target=_run, args=(target,), name=name)
        process.start()
    return Child(process)


def _run(target: Callable[[], int]) -> None:
    in_child()
    code = target()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has consumed, with its threads; 0 when it is gone."""
    # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's posix-timers.h
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def is_stopped(pid: int) -> bool:
    """Whether a process is in state T; under a debugger (t) it is not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


class Title:
    """The name that ps and top show, 15 characters; may be set again under confinement."""

    def __init__(self, title: str) -> None:
        try:
            self._fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
        self.set(title)

    def set(self, title: str) -> None:
        """A wrong title harms nobody."""
        with contextlib.suppress(OSError):
            os.write(self._fd, title[:15].encode())


def die_with(parent: int) -> None:
    """SIGKILL for this process when its parent is gone, even if it is stopped or hangs.

    A change of uid takes it back, so it comes after that.
    """
    native.die_with_parent()
    if os.getppid() != parent:  # gone before the call
        os._exit(1)


def daemonize() -> int:
    """Forks; returns in the child 0, in the parent the child's pid."""
    if thread_count() != 1:
        raise RuntimeError("a process with threads must not fork")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.setsid()
    return pid
