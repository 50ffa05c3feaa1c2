"""What a header claims against what its file holds, checked before any memory is taken.

A header of a hundred bytes can claim a terabyte, or name another file as its data. NRRD and MetaImage headers are
text; the few fields that matter are read here, the rest is SimpleITK's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from covsev.errors import ScanError
from covsev.scan.volume import require_volume

_MAX_HEADER_BYTES = 2**20
_MAX_DEFLATE_RATIO = 1032
"""No deflate stream grows by more (zlib's technical details); the other codecs in use do not come near with CT."""

_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NRRD_TYPES = {
    name: kind
    for kind, names in {
        "i1": ("signed char", "int8", "int8_t"),
        "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
        "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
        "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        "i4": ("int", "signed int", "int32", "int32_t"),
        "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
        "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
        "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
        "f4": ("float",),
        "f8": ("double",),
    }.items()
    for name in names
}
_NRRD_ENCODINGS = {"raw": False, "gzip": True, "gz": True}


def require_backed(path: Path, claimed_bytes: int, stored_bytes: int, *, compressed: bool) -> None:
    """Check that a file can hold the voxels that its header claims.

    Raises:
        ScanError: if ``claimed_bytes`` cannot come out of ``stored_bytes``.
    """
    most = stored_bytes * _MAX_DEFLATE_RATIO if compressed else stored_bytes
    if claimed_bytes > most:
        raise ScanError(
            f"{path}: cannot be read (its header claims {claimed_bytes} bytes of voxels, the file has "
            f"{stored_bytes}); it is cut short or its header is wrong"
        )


def require_honest_header(path: Path) -> None:
    """Check size, type and data file of a NRRD or MetaImage header.

    Raises:
        ScanError: if the header is broken, is not that of a volume, claims more than its file holds, or names data
            outside of its folder.
    """
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        _require_honest_nrrd(path)
    else:
        _require_honest_meta(path)


def _require_honest_nrrd(path: Path) -> None:
    fields = _fields(path, ":", until="")
    detached = fields.get("data file", fields.get("datafile"))
    encoding = fields.get("encoding", "").lower()
    if encoding not in _NRRD_ENCODINGS:
        raise ScanError(f"{path}: cannot be read (encoding {encoding!r} is not raw or gzip)")
    dtype = _dtype(path, fields.get("type", "").lower(), _NRRD_TYPES)
    shape = _shape(path, fields.get("sizes", ""))
    kinds = fields.get("kinds", "").lower().split()
    if len(kinds) == len(shape) and kinds and kinds[0] in _COLOUR_KINDS:
        _refuse_components(path, shape[0])
    _require(path, detached, shape, dtype, compressed=_NRRD_ENCODINGS[encoding])


_COLOUR_KINDS = {"vector", "3-vector", "rgb-color", "rgba-color", "hsv-color", "list", "2-vector", "4-vector"}


def _require_honest_meta(path: Path) -> None:
    fields = _fields(path, "=", until="elementdatafile")
    data = fields.get("elementdatafile", "")
    detached = None if data.upper() == "LOCAL" else data
    if fields.get("binarydata", "true").lower() != "true":
        raise ScanError(f"{path}: cannot be read (its voxels are written as text)")
    components = _integers(path, fields.get("elementnumberofchannels", "1"))
    if components != (1,):
        _refuse_components(path, math.prod(components))
    dtype = _dtype(path, fields.get("elementtype", "").upper(), _META_TYPES)
    compressed = fields.get("compresseddata", "false").lower() == "true"
    _require(path, detached, _shape(path, fields.get("dimsize", "")), dtype, compressed=compressed)


def _refuse_components(path: Path, components: int) -> None:
    raise ScanError(f"{path}: voxels have {components} components, not one", code="not_a_volume")


def _fields(path: Path, separator: str, *, until: str) -> Mapping[str, str]:
    """``name separator value`` lines up to a blank line, or up to and including the field ``until``."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        head = stream.read(_MAX_HEADER_BYTES)
    for raw in head.split(b"\n"):
        line = raw.decode("latin-1").strip()
        if not line and not until and fields:
            break
        name, found, value = line.partition(separator)
        if found and not name.startswith("#"):
            fields[name.strip().lower()] = value.strip("= \t")
        if until and name.strip().lower() == until:
            break
    return fields


def _integers(path: Path, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split())
    except ValueError as error:
        raise ScanError(f"{path}: cannot be read (sizes {text[:80]!r} are not whole numbers)") from error


def _shape(path: Path, text: str) -> tuple[int, ...]:
    shape = _integers(path, text)
    if not shape or min(shape) < 1:
        raise ScanError(f"{path}: cannot be read (its header has no usable sizes: {text[:80]!r})")
    return shape


def _dtype(path: Path, name: str, types: Mapping[str, str]) -> np.dtype[np.generic]:
    if name not in types:
        raise ScanError(f"{path}: cannot be read (voxel type {name[:80]!r} is not a number type)")
    return np.dtype(types[name])


def _require(
    path: Path, detached: str | None, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, compressed: bool
) -> None:
    require_volume(shape, dtype, path)
    data = path
    if detached is not None:
        data = path.with_name(detached) if detached and Path(detached).name == detached else path.parent
        if not data.is_file() or data.is_symlink():
            raise ScanError(f"{path}: its data file {detached[:200]!r} is not a file in the same folder")
    require_backed(path, math.prod(shape) * dtype.itemsize, data.stat().st_size, compressed=compressed)
