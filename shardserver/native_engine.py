"""Engines that are libraries of their own: where one is, and what it calls itself.

Beside native.py, which loads the library.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from shardserver import native

_ERROR_MAX = 256


@dataclass(frozen=True)
class EngineLibrary:
    """What was found: `path` is empty where there is none, `version` where it cannot be loaded."""

    path: str = ""
    version: str = ""
    why: str = ""  # it is of no use, in words


def find(engine: str) -> EngineLibrary:
    """Looks for an engine's library and loads it for a moment, in this process."""
    ffi, lib = native.load()
    info = ffi.new("struct ss_engine_info *")
    error = ffi.new("char[]", _ERROR_MAX)
    code = lib.ss_engine_find(info, engine.encode(), error)
    if code == -errno.EINVAL:
        raise ValueError(ffi.string(error).decode())
    path = ffi.string(info.path).decode(errors="replace")
    return EngineLibrary(
        os.path.normpath(path) if path else "",
        ffi.string(info.version).decode(errors="replace"),
        ffi.string(error).decode(errors="replace").removeprefix(f"engine {engine}: "),
    )
