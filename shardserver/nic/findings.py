"""One line of `shardserver doctor`, and what all of them amount to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shardserver.errors import DeviceUnavailableError, NoPermissionError, ShardserverError
from shardserver.nic.changes import Change

OK, WARN, FAIL = "ok", "warn", "fail"
# The exit code of a failure by its word; the first that occurs decides.
_KINDS = (NoPermissionError, DeviceUnavailableError, ShardserverError)


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was looked at and found. `fix` is the one command for it; `change` is the same as data
    where `nic restore` could undo it; `kind` is the word of the error that it would lead to."""

    status: str
    topic: str
    text: str
    fix: str = ""
    change: Change | None = None
    kind: str = ""


def ok(topic: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(OK, topic, text)


def warn(topic: str, text: str, fix: str, change: Change | None = None) -> Finding:
    """It serves, but not as well as it could."""
    return Finding(WARN, topic, text, fix, change)


def fail(
    topic: str,
    text: str,
    fix: str,
    change: Change | None = None,
    kind: type[ShardserverError] = ShardserverError,
) -> Finding:
    """It does not serve, or not rightly."""
    return Finding(FAIL, topic, text, fix, change, kind.word)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 when nothing failed, else the code of the gravest failure."""
    words = {finding.kind for finding in findings if finding.status == FAIL}
    return next((kind.exit_code for kind in _KINDS if kind.word in words), 0)


def count(findings: Sequence[Finding]) -> dict[str, int]:
    """How many of each."""
    statuses = [finding.status for finding in findings]
    return {
        "passed": statuses.count(OK),
        "warnings": statuses.count(WARN),
        "failed": statuses.count(FAIL),
    }
