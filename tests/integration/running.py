"""A server of the tests' own, started and asked through the command line as a person would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-m", "shardserver"]
PATIENCE_S = 60
SETTLE_S = 20


@dataclass(frozen=True)
class Server:
    """An instance; `prefix` is what a command needs to run where the server runs."""

    name: str
    runtime: str
    prefix: tuple[str, ...] = ()
    client_prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """A command on the server's side; its output is captured."""
        return _run([*self.prefix, *COMMAND, *words], self.environment, timeout)

    def stats(self) -> dict[str, Any]:
        """The document of `stats --json`."""
        done = self.run("stats", "--json", "-n", self.name)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def settled(self) -> dict[str, Any]:
        """The same, once no worker has frames in hand any more; as it is if that takes too long."""
        end_s = time.monotonic() + SETTLE_S
        while not books_agree(document := self.stats()) and time.monotonic() < end_s:
            time.sleep(0.05)
        return document

    def pids(self) -> list[int]:
        """Of the workers, by shard."""
        return [shard["pid"] for shard in self.stats()["shards"]]

    def load(self, *words: str, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """A load from the client's side; its document."""
        command = [*self.client_prefix, *COMMAND, "load", *words, "--json", "-n", self.name]
        done = _run(command, self.environment, timeout)
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def load_in_background(self, *words: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        command = [*self.client_prefix, *COMMAND, "load", *words, "--json", "-n", self.name]
        return subprocess.Popen(
            command,
            env={**os.environ, **self.environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def _run(
    command: Sequence[str], environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def no_errors(document: dict[str, Any]) -> bool:
    """Every byte right, nothing lost."""
    return not any(document["errors"].values())


@contextmanager
def server(
    *words: str, prefix: Sequence[str] = (), client_prefix: Sequence[str] = ()
) -> Iterator[Server]:
    """`start -D` with these options; at the end `stop`, and nothing may be left."""
    with tempfile.TemporaryDirectory(prefix="ss-") as runtime:
        made = Server(
            f"t{os.getpid()}",
            runtime,
            tuple(prefix),
            tuple(client_prefix),
            {"RUNTIME_DIRECTORY": runtime},
        )
        done = made.run("start", "-D", "-n", made.name, *words)
        assert done.returncode == 0, done.stderr
        try:
            yield made
        except BaseException:
            print(Path(runtime, f"{made.name}.log").read_text())
            raise
        finally:
            ended = made.run("stop", "-n", made.name)
        assert ended.returncode == 0, ended.stderr
        left = [path.name for path in Path(runtime).iterdir() if path.suffix != ".log"]
        assert not left, f"left behind: {left}"


def books_agree(document: dict[str, Any]) -> bool:
    """Frames at the ring and from other shards equal the verdicts, on every shard."""
    return all(
        shard["rx"]["frames"] + shard["steered"]["in"] == sum(shard["verdicts"].values())
        for shard in document["shards"]
    )
