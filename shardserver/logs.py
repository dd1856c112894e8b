"""Log lines, as text or as JSON, on standard error. A line that cannot be written is dropped."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class TextFormatter(logging.Formatter):
    """`[2026-11-21 05:58:12.123] [4127] [INFO] message`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows if there is one."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = (
            f"[{when}.{int(record.msecs):03d}] [{record.process}] [{record.levelname}] "
            f"{record.getMessage()}"
        )
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class JsonFormatter(logging.Formatter):
    """One object a line; `event` and `fields` come from `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        line: dict[str, Any] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
        }
        if hasattr(record, "event"):
            line["event"] = record.event
            line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def setup(form: str, level: str) -> None:
    """Sends the log of this process, and of those that it forks, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.raiseExceptions = False
    root = logging.getLogger("shardserver")
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    root.propagate = False


def get() -> logging.Logger:
    """The one logger."""
    return logging.getLogger("shardserver")


def event(level: int, name: str, message: str, **fields: Any) -> None:
    """A line about something that has a stable name."""
    get().log(level, message, extra={"event": name, "fields": fields})
