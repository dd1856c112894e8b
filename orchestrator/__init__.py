"""The parent of the workers. `run` is all that it exports; start reading at main.py."""

from orchestrator.main import run

__all__ = ["run"]
