"""Every message between the processes, and its form on the wire (JSON). Pure.

Three conversations: a client with `control` (Request, Reply, Event), the orchestrator with
`control` and with its workers over socket pairs (the tagged unions below), and `control` with
the workers over ZeroMQ (WorkerQuery, WorkerReport). What does not decode raises ProtocolError.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from shardserver.errors import ProtocolError, ShardserverError, from_word

SCHEMA = 1
MESSAGE_MAX = 65536  # but for replies, which list every shard
REPLY_MAX = 4 * 1024 * 1024
Message = TypeVar("Message")


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it travels and as `--json` prints it."""

    code: str
    message: str
    hint: str = ""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client's command; `id` comes back in the reply."""

    id: str
    command: str
    properties: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: `status` is "ok" with a result, or "error"."""

    id: str
    status: str
    time: float
    result: Any = None
    error: ErrorBody | None = None


class Event(msgspec.Struct, frozen=True):
    """Something happened; published under the topic `event`."""

    event: str
    time: float
    shard: int = -1
    fields: dict[str, Any] = {}


class ShardInfo(msgspec.Struct, frozen=True):
    """What the orchestrator knows of a shard. `pid` is 0 while no worker runs it."""

    id: int
    state: str
    pid: int
    cpu: int
    node: int
    ring: str
    restarts: int
    reason: str = ""


class ShardTable(msgspec.Struct, frozen=True, tag=True):
    """Orchestrator to control: the shards as they are now."""

    shards: list[ShardInfo]
    stopping: bool = False
    confirm_by_s: float = 0.0  # of the monotonic clock; 0: no confirmation is awaited


class Notice(msgspec.Struct, frozen=True, tag=True):
    """Orchestrator to control: publish this event."""

    event: Event


class StopOrder(msgspec.Struct, frozen=True, tag=True):
    """Control to orchestrator: stop; `mode` is drain, quick or now."""

    mode: str


class RestartOrder(msgspec.Struct, frozen=True, tag=True):
    """Control to orchestrator: replace the workers of these shards."""

    shards: list[int]


class ConfirmOrder(msgspec.Struct, frozen=True, tag=True):
    """Control to orchestrator: somebody reaches the server; it may stay."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker to orchestrator: it serves, since `at_s` of the monotonic clock."""

    adopted: int
    dropped: int
    undone_lines: int
    generation: int
    took_us: int
    at_s: float
    warnings: list[str] = []


class Drained(msgspec.Struct, frozen=True, tag=True):
    """Worker to orchestrator: no connection is left."""


class Aborted(msgspec.Struct, frozen=True, tag=True):
    """Worker to orchestrator: this many connections were reset."""

    connections: int


class WorkerOrder(msgspec.Struct, frozen=True, tag=True):
    """Orchestrator to worker: drain, abort (reset all, then exit) or exit."""

    action: str


class Take(msgspec.Struct, frozen=True, tag=True):
    """Orchestrator to a waiting worker: run this shard."""

    shard: int


class WorkerQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Control to worker: ping, drain, resume or abort."""

    id: str
    command: str


class WorkerReport(msgspec.Struct, frozen=True):
    """Worker to control: the answer to a query, with its own view of the shard."""

    id: str
    shard: int
    pid: int
    ok: bool
    heartbeat: int
    connections: int
    draining: bool
    message: str = ""


FromOrchestrator = ShardTable | Notice
FromControl = StopOrder | RestartOrder | ConfirmOrder
ToWorker = WorkerOrder | Take
FromWorker = Ready | Drained | Aborted


def encode(message: object) -> bytes:
    """A message's bytes."""
    return msgspec.json.encode(message)


def decode(data: bytes, kind: Any, limit: int = MESSAGE_MAX) -> Any:
    """The message of type `kind`; ProtocolError says what is wrong with it."""
    if len(data) > limit:
        raise ProtocolError(f"a message of {len(data)} bytes: at most {limit}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"message not understood: {error}") from None


def error_body(error: ShardserverError) -> ErrorBody:
    """The error as data."""
    return ErrorBody(error.word, error.message, error.hint)


def raise_error(body: ErrorBody) -> None:
    """Raises the error that came as data."""
    raise from_word(body.code, body.message, body.hint)


def pretty(document: object) -> str:
    """JSON for people and for `--json`."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def error_document(error: ShardserverError) -> dict[str, Any]:
    """What `--json` prints for an error."""
    return {"schema": SCHEMA, "error": error_body(error)}
