"""Talks to a running server. Liveness comes first, so a server that is not there is one clear
line at once: the lock file, then a plain connect, and only then ZeroMQ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import zmq

from shardserver import instance, protocol
from shardserver.errors import NotRunningError, TimedOutError
from shardserver.instance import Paths

_START_HINT = "start one: shardserver start --iface eth0, or a demo: shardserver demo"
_POLL_S = 0.02


def paths_of(name: str, environment: Mapping[str, str]) -> Paths:
    """Where the instance of that name keeps its files."""
    return Paths(instance.runtime_dir(environment, os.geteuid()), name)


def not_running(paths: Paths) -> NotRunningError:
    """The one line that a missing server is."""
    return NotRunningError(
        f'no server named "{paths.name}" is running (looked at {paths.lock})', _START_HINT
    )


class Client:
    """A conversation with `control` of one instance."""

    def __init__(self, paths: Paths, timeout_s: float = 5.0) -> None:
        self._paths = paths
        self._timeout_s = timeout_s
        self.pid = instance.holder(paths)
        if not self.pid:
            raise not_running(paths)
        self._wait_for_socket()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, protocol.REPLY_MAX)
        self._socket.connect(f"ipc://{paths.control}")

    def _wait_for_socket(self) -> None:
        """A server that is just starting has its lock before its socket."""
        end_s = time.monotonic() + self._timeout_s
        while not instance.answers(self._paths.control):
            if not instance.holder(self._paths):
                raise not_running(self._paths)
            if time.monotonic() >= end_s:
                raise self._timed_out()
            time.sleep(_POLL_S)

    def _timed_out(self) -> TimedOutError:
        return TimedOutError(
            f'the server "{self._paths.name}" (pid {self.pid}) did not answer within '
            f"{self._timeout_s:g} s",
            "its log tells why; kill -QUIT ends it quickly",
        )

    def request(self, command: str, **properties: Any) -> Any:
        """The result of a command; raises the error that came back."""
        request = protocol.Request(uuid4().hex, command, properties)
        self._socket.send(protocol.encode(request))
        end_s = time.monotonic() + self._timeout_s
        while True:
            wait_s = end_s - time.monotonic()
            if wait_s <= 0 or not self._socket.poll(int(min(wait_s, 0.2) * 1000) + 1):
                self._check_alive(wait_s)
                continue
            reply: protocol.Reply = protocol.decode(
                self._socket.recv(), protocol.Reply, protocol.REPLY_MAX
            )
            if reply.id != request.id:
                continue  # the late answer to a question that was given up
            if reply.error:
                protocol.raise_error(reply.error)
            return reply.result

    def _check_alive(self, left_s: float) -> None:
        if not instance.holder(self._paths):
            raise not_running(self._paths)
        if left_s <= 0:
            raise self._timed_out()

    def close(self) -> None:
        """Ends the conversation."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
