"""Which scans a folder holds, and what each is called."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from covsev.errors import ScanError
from covsev.labels import OUTPUT_SUFFIXES, SLICE_MASK_SUFFIXES, SLICE_SUFFIXES
from covsev.scan.suffixes import VOLUME_SUFFIXES, is_dicom, suffix_of

_MAX_CASE_BYTES = 160
"""File names may have 255 bytes, and covsev adds prefixes and suffixes to a case."""


@dataclass(frozen=True)
class ScanSource:
    """A scan that was found but not yet read.

    Attributes:
        case: name, unique among the scans found with it.
        path: file, or folder of a DICOM series.
        series_uid: which series of that folder; ``""`` for DICOM files that do not say to which series they belong.
    """

    case: str
    path: Path
    series_uid: str | None = None


def find_scans(root: Path) -> list[ScanSource]:
    """All scans at or below ``root``: NIfTI, NRRD, MetaImage, and DICOM series.

    What looks like a scan but cannot be one (a broken file, a series of another modality) is found too: reading
    it says why not. covsev's own outputs and hidden files are left out. Case names come from the paths relative
    to ``root`` and are unique. Symbolic links to folders are not followed, so links in a circle do no harm.

    Raises:
        ScanError: if ``root`` does not exist.
    """
    root = Path(root)
    if not root.exists():
        raise ScanError(f"{root}: no such file or folder", code="missing")
    found = _find_file(root) if root.is_file() else _find_below(root)
    return with_unique_cases(list(found), root)


def require_scans(found: Sequence[ScanSource], root: object) -> None:
    """Refuse to go on if nothing was ``found`` at or below ``root``.

    Raises:
        ScanError: naming ``root``, and how to get masks of pictures if that is what it holds.
    """
    if found:
        return
    message = f"{root}: no scans in it (NIfTI, NRRD, MetaImage or DICOM)"
    # Pictures cannot be scored, but a bundle can segment them: who has some is told how.
    if isinstance(root, Path) and find_slices(root):
        message += (
            "; PNG and JPG slices have no volume to measure: `python -m monai.bundle run` with inference.yaml of "
            "covid_lesion_ct_segmentation makes masks of them"
        )
    raise ScanError(message, code="missing")


def find_slices(root: Path) -> list[ScanSource]:
    """PNG and JPG files below the folder ``root``. covsev's own pictures and masks and hidden files are left out."""
    pictures = (path for path in root.rglob("*") if path.suffix.lower() in SLICE_SUFFIXES)
    own_suffixes = (*OUTPUT_SUFFIXES, *SLICE_MASK_SUFFIXES)
    others = [path for path in pictures if not path.name.endswith(own_suffixes)]
    visible = sorted(path for path in others if not _is_hidden(path, root))
    return with_unique_cases([ScanSource("", path) for path in visible], root, SLICE_SUFFIXES)


def _is_hidden(path: Path, root: Path) -> bool:
    """Whether a name on the way from ``root`` to ``path`` begins with a dot; ``root``'s own names do not count."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _find_file(path: Path) -> Iterator[ScanSource]:
    if not is_dicom(path):
        yield ScanSource("", path)
        return
    # pydicom and SimpleITK are loaded only where there is DICOM.
    from covsev.scan.dicom import series as dicom

    yield ScanSource("", path, dicom.series_uid(path))


def _find_below(root: Path) -> Iterator[ScanSource]:
    # A folder that cannot be listed counts as a scan: reading it fails and says why.
    closed: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=lambda error: closed.append(Path(str(error.filename)))):
        subfolders[:] = _visible(subfolders)  # in place: os.walk goes on with what is left in the list, in its order
        paths = [Path(folder, name) for name in _visible(names)]
        paths = [path for path in paths if not path.name.endswith(OUTPUT_SUFFIXES)]
        for path in paths:
            if suffix_of(path):
                yield ScanSource("", path)
        # DICOM files often bear a UID for a name, whose last number looks like a suffix: the content decides.
        dicom_paths = [path for path in paths if is_dicom(path)]
        if dicom_paths:
            from covsev.scan.dicom import series as dicom

            for uid in dicom.series_in(dicom_paths):
                yield ScanSource("", Path(folder), uid)
    yield from (ScanSource("", path) for path in closed)


def _visible(names: Sequence[str]) -> list[str]:
    """The names that are not hidden, sorted, so that scans come in the same order on every file system."""
    return sorted(name for name in names if not name.startswith("."))


def files_of(source: ScanSource) -> list[Path]:
    """The files that a scan consists of: one file, a header with its data file, or the DICOM files of a folder."""
    path = source.path
    if source.series_uid is not None:
        folder = path if path.is_dir() else path.parent
        return [p for p in sorted(folder.iterdir()) if is_dicom(p)]
    if path.suffix.lower() in (".nhdr", ".mhd"):
        # The data file is taken to have the header's name with another suffix, such as .raw or .raw.gz.
        start = f"{path.stem}."
        return sorted(p for p in path.parent.iterdir() if p.name.startswith(start))
    return [path]


def with_unique_cases(
    found: list[ScanSource], root: Path, suffixes: tuple[str, ...] = VOLUME_SUFFIXES
) -> list[ScanSource]:
    """Name each source by its path relative to ``root``. Where names collide, add the suffix, then a number.

    Names that differ only in upper and lower case collide, since some file systems do not tell them apart.
    """
    several_series = Counter(source.path for source in found)
    short = [_case_name(source, root, suffixes, several_series[source.path] > 1) for source in found]
    collisions = Counter(name.casefold() for name in short)
    cases: list[str] = []
    used: set[str] = set()
    for source, name in zip(found, short, strict=True):
        suffix = suffix_of(source.path, suffixes)
        if collisions[name.casefold()] > 1 and suffix:
            name += suffix.replace(".", "_")
        unique, number = name, 2
        # A numbered name can be the own name of another scan, so each is tried.
        while unique.casefold() in used:
            unique, number = f"{name}_{number}", number + 1
        used.add(unique.casefold())
        cases.append(unique)
    return [ScanSource(case, s.path, s.series_uid) for case, s in zip(cases, found, strict=True)]


def _case_name(source: ScanSource, root: Path, suffixes: tuple[str, ...], one_of_several: bool) -> str:
    path = source.path
    relative = Path(path.name) if path == root else path.relative_to(root)
    # One form of accented letters, since file systems differ in which one they return.
    text = unicodedata.normalize("NFC", relative.as_posix())
    suffix = suffix_of(path, suffixes)
    if suffix and not path.is_dir():  # a folder's name is kept whole
        text = text[: -len(suffix)]
    if one_of_several and source.series_uid:
        # The last number is short and mostly tells series apart; what it does not is numbered afterwards.
        text += "_" + source.series_uid.rsplit(".", 1)[-1]
    # Letters of any script stay. Slashes, blanks and what a shell would understand become underscores.
    safe = re.sub(r"[^\w.-]+", "_", text.replace("/", "_")).strip("._-") or "scan"
    if len(safe.encode()) <= _MAX_CASE_BYTES:
        return safe
    # Long names may differ only in what is cut off: a digest of the whole keeps them apart.
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
    start = safe.encode()[:_MAX_CASE_BYTES].decode(errors="ignore")  # the cut may go through a character
    return f"{start}_{digest}"
