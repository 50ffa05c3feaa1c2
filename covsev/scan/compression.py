"""gzip files, by ISA-L where its package ``isal`` is installed, else by Python.

ISA-L reads CT about twice as fast. Both read all gzip files, and both write the same voxels.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_LEVEL = 1
"""The fastest level: label maps shrink a hundredfold at any level."""


def has_isal() -> bool:
    """Whether ISA-L does the work."""
    return find_spec("isal") is not None


@contextmanager
def open_gzip(path: Path, mode: str) -> Iterator[io.IOBase]:
    """A gzip file to read (``rb``) or to write (``wb``). Equal content gives equal files, whatever their names."""
    made: Any = gzip.GzipFile
    if has_isal():  # optional, so it is imported only where it is installed
        from isal import igzip

        made = igzip.IGzipFile
    # gzip keeps a name and a time in the file; both are left out, so that they make no difference.
    with path.open(mode) as raw, made(filename="", mode=mode, compresslevel=_LEVEL, fileobj=raw, mtime=0) as stream:
        yield stream
