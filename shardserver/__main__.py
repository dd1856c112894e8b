"""`python -m shardserver`, and the installed script."""

from __future__ import annotations

import sys

from shardserver import cli


def main() -> None:
    """Ends the process with the command's exit code."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
