"""Break small scans in thousands of ways and read them: each must give a valid scan or a ScanError.

    python tests/fuzz_readers.py CASES [FORMAT ...]

reads CASES damaged files of every format, or of those named, under a limit of 4 GB of address space, and prints what
became of them as
JSON. The damage follows from the case's number, so that a case can be repeated.
"""

from __future__ import annotations

import gzip
import json
import resource
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from covsev.errors import ScanError
from covsev.scan import ScanSource, find_scans, load_scan, save_labels

LIMIT_BYTES = 4 * 2**30
SHAPE = (16, 17, 4)
WORDS = (b"-1", b"0", b"1e400", b"nan", b"99999999999", b"4294967295", b"2147483647", b"", b"../../etc/passwd", b"\xff")
NUMBERS = (0, 1, -1, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31))


def write_samples(folder: Path) -> dict[str, list[Path]]:
    """One small scan in every format: the files of each."""
    hu = np.random.default_rng(0).integers(-1000, 500, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(hu, np.diag([2.0, 2.0, 5.0, 1.0])), folder / "a.nii")
    (folder / "a.nii.gz").write_bytes(gzip.compress((folder / "a.nii").read_bytes(), mtime=0))
    nib.save(nib.Nifti2Image(hu, np.diag([2.0, 2.0, 5.0, 1.0])), folder / "two.nii")
    image = sitk.GetImageFromArray(hu.transpose())
    image.SetSpacing((2.0, 2.0, 5.0))
    files = {name: [folder / name] for name in ("a.nii", "a.nii.gz", "two.nii")}
    for name in ("raw.nrrd", "gzip.nrrd", "raw.mha", "zlib.mha"):
        sitk.WriteImage(image, str(folder / name), name.startswith(("gzip", "zlib")))
        files[name] = [folder / name]
    for name in ("a.nhdr", "a.mhd"):
        sitk.WriteImage(image, str(folder / name))
        files[name] = sorted(folder.glob(f"{Path(name).stem}.*raw*"), reverse=True)
        files[name] = [folder / name, *(p for p in files[name] if p.suffix == (".gz" if ".nhdr" in name else ".raw"))]
    files["dicom"] = _write_series(folder / "dicom", hu)
    return files


def _write_series(folder: Path, hu: np.ndarray) -> list[Path]:
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    paths = []
    for k in range(SHAPE[2]):
        image = sitk.GetImageFromArray(hu[:, :, k : k + 1].transpose())
        image.SetSpacing((2.0, 2.0, 5.0))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3.4", "0020|0032": f"0\\0\\{5 * k}", "0008|0008": "ORIGINAL"}
        tags |= {"0020|0037": "1\\0\\0\\0\\1\\0", "0028|1052": "0", "0028|1053": "1", "0008|0018": f"1.2.3.5.{k}"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        paths.append(folder / f"{k}.dcm")
        writer.SetFileName(str(paths[-1]))
        writer.Execute(image)
    return paths


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bits anywhere, most often in the header."""
    changed = bytearray(content)
    reach = len(changed) if rng.random() < 0.3 else min(len(changed), 700)
    for position in rng.integers(reach, size=rng.integers(1, 9)):
        changed[position] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def renumbered(content: bytes, rng: np.random.Generator) -> bytes:
    """A binary number of the header replaced by an extreme one."""
    changed = bytearray(content)
    number, form = NUMBERS[rng.integers(len(NUMBERS))], ("<h", "<i", "<f")[rng.integers(3)]
    size = struct.calcsize(form)
    value = max(min(number, 2**15 - 1), -(2**15)) if form == "<h" else number
    position = int(rng.integers(min(len(changed), 700) // 2 - size)) * 2
    changed[position : position + size] = struct.pack(form, value)
    return bytes(changed)


def reworded(content: bytes, rng: np.random.Generator) -> bytes:
    """A word of a text header, or bytes of a binary one, replaced by an awkward one of another length."""
    head = content[:700]
    starts = [0, *(at + 1 for at in range(len(head) - 1) if head[at : at + 1] in (b" ", b"\n", b":", b"=", b"\\"))]
    start = starts[rng.integers(len(starts))]
    end = min((at for at in (head.find(mark, start + 1) for mark in (b" ", b"\n", b"\\")) if at > 0), default=start + 4)
    return content[:start] + WORDS[rng.integers(len(WORDS))] + content[end:]


def swapped_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """A line of the header left out or written twice."""
    lines = content.split(b"\n")
    at = int(rng.integers(min(len(lines), 14)))
    lines[at : at + 1] = [lines[at]] * 2 if rng.random() < 0.5 else []
    return b"\n".join(lines)


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    truncated,
    flipped,
    renumbered,
    reworded,
    swapped_lines,
)


def damaged(content: bytes, damage: Callable[..., bytes], rng: np.random.Generator, *, packed: bool) -> bytes:
    """Damaged bytes; what is packed is, half of the time, unpacked first, so that its header is hit."""
    if packed and rng.random() < 0.5:
        return gzip.compress(damage(gzip.decompress(content), rng), mtime=0)
    return damage(content, rng)


def outcome(source: ScanSource, folder: Path) -> str:
    """Name of what came of reading: a code, or ``valid`` for a scan on whose grid labels can be written."""
    try:
        scan = load_scan(source)
    except ScanError as error:
        return error.code
    assert scan.hu.dtype in (np.int16, np.float32), scan.hu.dtype
    assert np.isfinite(scan.hu).all()
    assert scan.voxel_ml > 0
    save_labels(np.zeros(scan.hu.shape, np.uint8), scan, folder / "labels.nii.gz")
    return "valid"


def fuzz(name: str, files: list[Path], cases: int, folder: Path) -> Counter[str]:
    """Outcomes of ``cases`` damaged copies of one sample."""
    contents = [path.read_bytes() for path in files]
    outcomes: Counter[str] = Counter()
    for case in range(cases):
        rng = np.random.default_rng([case, len(name), sum(name.encode())])
        hit = int(rng.integers(len(files))) if name == "dicom" or rng.random() < 0.1 else 0
        damage = DAMAGES[case % len(DAMAGES)]
        print(f"{name} {case} {damage.__name__}", file=sys.stderr, flush=True)
        files[hit].write_bytes(damaged(contents[hit], damage, rng, packed=files[hit].suffix == ".gz"))
        root = files[0].parent if name == "dicom" else files[0]
        for source in find_scans(root):
            outcomes[outcome(source, folder)] += 1
        files[hit].write_bytes(contents[hit])
    return outcomes


def peak_mb() -> int:
    """Peak memory of this process alone: that of getrusage starts at the parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) // 1024


def main(cases: int, names: list[str]) -> None:
    """Fuzz the formats, all if none is named, and print the outcomes."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = write_samples(folder)
        outcomes = {sample: dict(fuzz(sample, samples[sample], cases, folder)) for sample in names or samples}
    print(json.dumps({"outcomes": outcomes, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
