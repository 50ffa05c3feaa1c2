"""MetaImage (.mha, .mhd), read with numpy: ITK's reader ends the whole process on some damaged files.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covsev.errors import ScanError
from covsev.scan.claims import components_error, data_file, dtype_of, header_fields, require_backed, shape_of
from covsev.scan.volume import LPS_TO_RAS, require_volume

# numpy's type by the format's name. A long has 4 bytes here, whatever it has in a C compiler.
_TYPES = {
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
_DATA = "elementdatafile"
"""The header's last field: the name of the file with the voxels, or LOCAL if they follow in the same file."""


def read_metaimage(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read a MetaImage file.

    Returns:
        (X, Y, Z, ...) array, and the RAS+ affine of its first three axes. The format's world is LPS+.

    Raises:
        ScanError: if the header is broken, is not that of a volume, claims more than its file holds, or names data
            outside of its folder; if voxels are text, or fewer than claimed.
    """
    fields = header_fields(path, "=", until=_DATA)
    shape = shape_of(path, fields.get("dimsize", ""))
    components = shape_of(path, fields.get("elementnumberofchannels", "1"))
    if components != (1,):
        raise components_error(path, math.prod(components))
    dtype = dtype_of(path, fields.get("elementtype", "").upper(), _TYPES)
    require_volume(shape, dtype, path)
    if not _flag(fields, "binarydata", default=True):
        raise ScanError(f"{path}: cannot be read (its voxels are written as text)")
    # The format has two names for the byte order.
    msb = _flag(fields, "binarydatabyteordermsb") or _flag(fields, "elementbyteordermsb")
    voxels = _voxels(path, fields, math.prod(shape) * dtype.itemsize)
    stored_dtype = dtype.newbyteorder(">" if msb else "<")
    array = np.frombuffer(voxels, stored_dtype).reshape(shape, order="F")  # x changes fastest in the file
    return array.astype(dtype, copy=False), _affine(path, fields, len(shape))


def _flag(fields: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    return fields.get(name, str(default)).lower() in ("true", "1")


def _voxels(path: Path, fields: Mapping[str, str], wanted_bytes: int) -> bytes:
    name = fields.get(_DATA, "")
    local = name.upper() == "LOCAL"
    data = data_file(path, None if local else name)
    compressed = _flag(fields, "compresseddata")
    require_backed(path, wanted_bytes, data.stat().st_size, compressed=compressed)
    content = data.read_bytes()
    if local:  # the voxels begin behind the line of the last field
        line = content.lower().index(_DATA.encode())
        content = content[content.index(b"\n", line) + 1 :]
    skipped = int(fields.get("headersize", "0"))
    # HeaderSize -1 means that the voxels are the last bytes of the file.
    start = skipped if skipped >= 0 else -wanted_bytes
    content = content[start:]
    # No more than claimed is unpacked: what is stored may be far larger.
    voxels = zlib.decompressobj().decompress(content, wanted_bytes) if compressed else content[:wanted_bytes]
    if len(voxels) != wanted_bytes:
        raise ScanError(f"{path}: cannot be read (it has {len(voxels)} bytes of voxels, not {wanted_bytes})")
    return voxels


def _affine(path: Path, fields: Mapping[str, str], axes: int) -> NDArray[np.float64]:
    spacing_mm = _numbers(path, fields, ("elementspacing", "elementsize"), np.ones(axes))
    origin_mm = _numbers(path, fields, ("offset", "position", "origin"), np.zeros(axes))
    directions = _numbers(path, fields, ("transformmatrix", "rotation", "orientation"), np.eye(axes).ravel())
    affine = np.eye(4)
    columns = directions.reshape(axes, axes)[:3, :3].T  # a row of the file is an axis
    affine[:3, :3] = columns * spacing_mm[:3]
    affine[:3, 3] = origin_mm[:3]
    return LPS_TO_RAS @ affine


def _numbers(
    path: Path, fields: Mapping[str, str], names: tuple[str, ...], default: NDArray[np.float64]
) -> NDArray[np.float64]:
    # The format has several names for the same numbers: the first one that is there counts.
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return default
    values = np.array([float(part) for part in text.split()])
    if values.size != default.size:
        raise ScanError(f"{path}: cannot be read ({names[0]} has {values.size} numbers, not {default.size})")
    return values
