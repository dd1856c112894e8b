"""Runs a server in a runtime directory of its own, and looks at what it left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_server.py")


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Polls until the condition holds; the value it had then."""
    end_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


def seconds_of(call: Callable[[], Any]) -> float:
    """How long it takes on this machine, as busy as it is."""
    begun_s = time.monotonic()
    call()
    return time.monotonic() - begun_s


def children(pid: int) -> dict[str, list[int]]:
    """Children of a process: name → pids."""
    found: dict[str, list[int]] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            name, _, rest = (path / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid and state != "Z":
            found.setdefault(name, []).append(int(path.name))
    return found


class Serving:
    """A server as a subprocess; `fake` has made-up rings."""

    def __init__(self, *options: str, fake: bool = True) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ss"))
        self.tell_directory = self.directory / "tell"
        self.tell_directory.mkdir()
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.directory),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self.environment.pop("RUNTIME_DIRECTORY", None)
        self.log_path = self.directory / "log"
        self._options = options
        self._fake = fake
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def run_directory(self) -> Path:
        """Where the instance keeps its files."""
        return self.directory / "shardserver"

    def tell(self, name: str, text: str = "1") -> None:
        """Tells the fake core something; an empty text takes it back."""
        path = self.tell_directory / name
        if text:
            path.write_text(text)
        else:
            path.unlink(missing_ok=True)

    def start(self, *, ready: bool = True) -> Serving:
        """Starts the server."""
        head = (
            [str(FAKE), str(self.tell_directory)] if self._fake else ["-m", "shardserver", "start"]
        )
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *head, *self._options],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if ready:
            wait_for(lambda: "ready in" in self.log or self.process.poll() is not None, "ready")
            assert "ready in" in self.log, self.log
        return self

    @property
    def pid(self) -> int:
        """Of the orchestrator."""
        assert self.process
        return self.process.pid

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text()

    def cli(self, *argv: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Runs a command line against it."""
        return subprocess.run(
            [sys.executable, "-m", "shardserver", *argv],
            env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def json(self, command: str) -> dict[str, Any]:
        """What a command says with --json."""
        done = self.cli(command, "--json")
        return json.loads(done.stdout)

    def worker(self, shard: int) -> int:
        """Pid of a shard's worker, once it has one."""
        name = f"shard-{shard}"
        return wait_for(lambda: children(self.pid).get(name, [0])[0], name)

    def signal(self, number: int) -> None:
        """Sends a signal to the orchestrator."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 20.0) -> int:
        """Waits for its end."""
        assert self.process
        return self.process.wait(timeout_s)

    def files(self) -> list[str]:
        """Files of the instance that are there, but for logs."""
        return [path.name for path in self.run_directory.glob("*") if path.suffix != ".log"]

    def processes(self) -> list[str]:
        """Processes of the server's session: a line each, as ps has them."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                head, _, rest = stat.read_text().rpartition(")")
            except OSError:
                continue  # gone meanwhile
            if int(rest.split()[3]) == self.pid:
                pid, _, name = head.partition(" (")
                found.append(f"{pid} {name}")
        return found

    def left(self) -> list[str]:
        """What is still there."""
        return self.files() + self.processes()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            for pids in children(self.pid).values():
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
