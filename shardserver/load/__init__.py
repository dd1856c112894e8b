"""The bundled load client: many connections, every byte verified. Start reading at `runner.run`."""

from shardserver.load.options import LoadRequest, add_arguments, from_arguments
from shardserver.load.report import build, render
from shardserver.load.runner import Outcome, run

__all__ = ["LoadRequest", "Outcome", "add_arguments", "build", "from_arguments", "render", "run"]
