"""Writes the cffi out-of-line ABI module from native/shardserver.h: make_ffi.py HEADER OUTPUT."""

import re
import sys
from pathlib import Path

import cffi


def declarations(header: str) -> str:
    """The header as cffi reads it: without comments and preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def main() -> None:
    header, output = map(Path, sys.argv[1:3])
    builder = cffi.FFI()
    builder.cdef(declarations(header.read_text()))
    builder.set_source("shardserver._ffi", None)
    builder.emit_python_code(str(output))


if __name__ == "__main__":
    main()
