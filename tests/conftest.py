"""What every test may take for granted."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A script's background job ignores SIGINT, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
