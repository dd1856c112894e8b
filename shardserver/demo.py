"""What the demos set up: a server process of their own, and for --real a little network.

Everything made here is gone when its context ends, also after an interrupt; namespaces go with
the last process in them, and the folder of a demo that was killed with the next demo. Start reading
at `server`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shardserver import client, errors, native, scratch
from shardserver.errors import (
    DeviceUnavailableError,
    InterruptedByUserError,
    NoPermissionError,
    NotRunningError,
    ShardserverError,
)

SERVICE_IP = "10.77.0.1"
CLIENT_IP = "10.77.0.10"
SERVER_IF = "srv0"
CLIENT_IF = "cli0"
READY_S = 30.0
FOLDER_PREFIX = "shardserver-demo-"
INSIDE = "SHARDSERVER_DEMO_INSIDE"


@dataclass(frozen=True)
class RunningServer:
    """A server that answers: its instance name; its files lie in RUNTIME_DIRECTORY."""

    name: str
    device: str
    engine: str  # with its version


def _is_ready(name: str) -> bool:
    try:
        with client.Client(client.paths_of(name, os.environ), 1.0) as server:
            return bool(server.request("status")["state"] == "running")
    except ShardserverError:
        return False


def _engine_of(name: str) -> str:
    with client.Client(client.paths_of(name, os.environ), 5.0) as server:
        return str(server.request("status")["engine_version"])


def _wait_ready(process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < end:
        if _is_ready(name):
            return
        time.sleep(0.02)
    raise why_not_started(process.poll(), log.read_text(errors="replace").splitlines())


def why_not_started(exit_code: int | None, lines: Sequence[str]) -> ShardserverError:
    """The error with which a server ended, by its exit code and the lines of its log."""
    errors_at = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    if not exit_code or not errors_at:
        words = " | ".join(lines[-8:])
        return NotRunningError("the demo's server did not start", f"its last words: {words}")
    message, *hint = lines[errors_at[-1] :]
    return errors.from_exit_code(
        exit_code,
        f"the demo's server did not start: {message.removeprefix('error: ')}",
        " ".join(line.strip() for line in hint[:1]),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks twice, then kills."""
    for number, patience in ((signal.SIGINT, 5.0), (signal.SIGINT, 3.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def server(
    device: str, workers: int, services: Sequence[str], engine: str = "native"
) -> Iterator[RunningServer]:
    """A server of our own on a device, ready to be asked; ended with the context."""
    name = f"demo-{os.getpid()}"
    with scratch.folder(FOLDER_PREFIX) as folder:
        os.environ["RUNTIME_DIRECTORY"] = str(folder)
        log = folder / "server.log"
        command = [sys.executable, "-m", "shardserver", "start", "--device", device, "-n", name]
        command += ["--workers", str(workers), "--ip", f"{SERVICE_IP}/16", "--engine", engine]
        for service in services:
            command += ["--service", service]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the demo's, which has yet to ask it
                preexec_fn=native.die_with_parent,
            )
        try:
            _wait_ready(process, name, log)
            yield RunningServer(name, device, _engine_of(name))
        finally:
            _end(process)
            os.environ.pop("RUNTIME_DIRECTORY", None)


def _need(*commands: str) -> None:
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        raise DeviceUnavailableError(
            f"demo --real needs {', '.join(missing)}", "apt-get install -y iproute2 util-linux"
        )


def _why_no_namespaces() -> str:
    """The usual causes, looked up."""
    for path, bad, text in (
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns is 1",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0",
        ),
    ):
        try:
            if Path(path).read_text().strip() == bad:
                return text
        except OSError:
            continue
    return "the kernel refuses them here (a container's rule, perhaps)"


def enter_namespaces(arguments: Sequence[str]) -> int | None:
    """Runs the demo again inside namespaces of its own; its exit code. None: we are inside."""
    outer = os.environ.get(INSIDE)
    if outer:
        native.die_with_parent()  # said here: the way into a user namespace may take it back
        if str(os.getppid()) != outer:
            raise InterruptedByUserError("the demo that began this one has ended")
        return None
    _need("ip", "unshare", "nsenter")
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        raise NoPermissionError(
            f"demo --real cannot make a user and network namespace: {_why_no_namespaces()}",
            "run it as root, or allow unprivileged user namespaces; shardserver demo needs none",
        )
    command = [*unshare, "--", sys.executable, "-m", "shardserver", "demo", *arguments]
    environment = {**os.environ, INSIDE: str(os.getpid())}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # the demo within sums up and ends by itself


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeviceUnavailableError(f"{' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Network:
    """A veth pair; the client's end lies in the network namespace of `pid`."""

    pid: int

    def inside(self, *words: str) -> list[str]:
        """A command line that runs in the client's namespace."""
        return ["nsenter", "-t", str(self.pid), "-n", "--", *words]


@contextmanager
def network(queues: int) -> Iterator[Network]:
    """Our namespace holds srv0, whose address the kernel does not know; the other one is a host."""
    keeper = subprocess.Popen(
        ["unshare", "--net", "sleep", "infinity"], preexec_fn=native.die_with_parent
    )
    try:
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{keeper.pid}/ns/net").readlink() == own:
            time.sleep(0.005)
        made = Network(keeper.pid)
        sizes = ("numrxqueues", str(queues), "numtxqueues", str(queues))
        _run("ip", "link", "add", SERVER_IF, *sizes, "type", "veth", "peer", "name", CLIENT_IF,
             *sizes, "netns", str(keeper.pid))  # fmt: skip
        _run("ip", "link", "set", SERVER_IF, "up")
        _run(*made.inside("ip", "addr", "add", f"{CLIENT_IP}/16", "dev", CLIENT_IF))
        _run(*made.inside("ip", "link", "set", CLIENT_IF, "up"))
        _run(*made.inside("ip", "link", "set", "lo", "up"))
        yield made
    finally:
        keeper.kill()
        keeper.wait()
