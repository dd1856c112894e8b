"""`python -m shardserver`, and the installed script."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Any


def _stream(fd: int, mode: str) -> Any:
    return os.fdopen(fd, mode, closefd=False)


def open_missing_streams() -> None:
    """A standard stream that was closed is /dev/null: else a socket would get its number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number free
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(errors="replace")


def main() -> None:
    """Ends the process with the command's exit code."""
    try:
        open_missing_streams()
        from shardserver import cli
    except KeyboardInterrupt:  # before there is anything to end
        sys.exit(130)
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
