"""What a header claims against what its file holds, checked before any memory is taken.

A header of a hundred bytes can claim a terabyte, or name another file as its data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from covsev.errors import ScanError
from covsev.scan.volume import require_volume

_MAX_HEADER_BYTES = 2**20
"""The fields are looked for in the first MiB only, so that a file whose header has no end is not read whole."""
_MAX_DEFLATE_RATIO = 1032
"""No deflate stream grows by more (zlib's technical details). The other codecs in use do not come near with CT."""

# numpy's type by every spelling in the format's definition, but for "block", which is no number.
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
"""Whether the voxels are compressed. The format's other encodings (text, hex, bzip2) are refused."""
# Kinds of a first axis that counts the components of a voxel, not places in the body.
_NRRD_COLOUR_KINDS = ("vector", "2-vector", "3-vector", "4-vector", "rgb-color", "rgba-color", "hsv-color", "list")


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


def require_honest_nrrd(path: Path) -> None:
    """Check size, type and data file of a NRRD header.

    Raises:
        ScanError: if the header is broken, is not that of a volume, claims more than its file holds, or names data
            outside of its folder.
    """
    fields = header_fields(path, ":", until="")
    encoding = fields.get("encoding", "").lower()
    if encoding not in _NRRD_ENCODINGS:
        raise ScanError(f"{path}: cannot be read (encoding {encoding[:80]!r} is not raw or gzip)")
    shape = shape_of(path, fields.get("sizes", ""))
    kinds = fields.get("kinds", "").lower().split()
    if kinds and kinds[0] in _NRRD_COLOUR_KINDS:
        raise components_error(path, shape[0])
    dtype = dtype_of(path, fields.get("type", "").lower(), _NRRD_TYPES)
    require_volume(shape, dtype, path)
    # The format knows both spellings of the field.
    data = data_file(path, fields.get("data file", fields.get("datafile")))
    claimed_bytes = math.prod(shape) * dtype.itemsize
    require_backed(path, claimed_bytes, data.stat().st_size, compressed=_NRRD_ENCODINGS[encoding])


def header_fields(path: Path, separator: str, *, until: str) -> Mapping[str, str]:
    """Fields of a text header, a line each: ``name separator value``. Names become lower case.

    Args:
        path: the file.
        separator: ``:`` or ``=``.
        until: the last field's name, or ``""`` where a blank line ends the header.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        head = stream.read(_MAX_HEADER_BYTES)
    for raw in head.split(b"\n"):
        # Voxels may follow the header, and latin-1 is the encoding in which every byte is a character.
        line = raw.decode("latin-1").strip()
        name, found, value = line.partition(separator)
        blank_line_ends = not line and not until
        if blank_line_ends or until in fields:
            break
        if found and not name.startswith("#"):
            # NRRD writes "key:=value" for what is no field of its own.
            fields[name.strip().lower()] = value.strip("= \t")
    return fields


def components_error(path: Path, components: int) -> ScanError:
    """The error of an image in colour."""
    return ScanError(f"{path}: voxels have {components} components, not one", code="not_a_volume")


def shape_of(path: Path, text: str) -> tuple[int, ...]:
    """Whole numbers above 0 from a header's field.

    Raises:
        ScanError: if it holds something else, or nothing.
    """
    try:
        shape = tuple(int(part) for part in text.split())
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ScanError(f"{path}: cannot be read (sizes {text[:80]!r} are not whole numbers above 0)")
    return shape


def dtype_of(path: Path, name: str, types: Mapping[str, str]) -> np.dtype[np.generic]:
    """The number type that a header calls ``name``.

    Raises:
        ScanError: if it is none of ``types``.
    """
    if name not in types:
        raise ScanError(f"{path}: cannot be read (voxel type {name[:80]!r} is not a number type)")
    return np.dtype(types[name])


def data_file(path: Path, detached: str | None) -> Path:
    """The file with the voxels: ``path`` itself, or ``detached`` beside it.

    Raises:
        ScanError: if ``detached`` lies elsewhere or is no regular file: a header must not reach into other folders.
    """
    if detached is None:
        return path
    # The file system's own functions raise other errors on an empty name and on NUL.
    possible = bool(detached) and "\0" not in detached
    plain = possible and Path(detached).name == detached
    data = path.with_name(detached) if plain else None
    if data is None or not _is_plain_file(data):
        raise ScanError(f"{path}: its data file {detached[:200]!r} is not a file in the same folder")
    return data


def _is_plain_file(path: Path) -> bool:
    """Whether ``path`` is a file and no link, which could lead out of the folder."""
    return not path.is_symlink() and path.is_file()
