"""What is written for one scan, and how it was made: masks, picture, page, DICOM objects, and the JSON file last."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covsev import __version__, labels
from covsev.options import Options
from covsev.report.overlay import write_overlay
from covsev.report.page.page import write_report
from covsev.report.tables import Provenance, severity_json
from covsev.scan import save_labels, save_probability
from covsev.scan.writing import write_json

if TYPE_CHECKING:  # the road itself lies above
    from covsev.assessment import Assessment


def write(
    assessment: Assessment,
    folder: Path,
    options: Options | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the masks, the overlay, the page and, last, the JSON file of one scan; returns the JSON content.

    The JSON file lists the others with their sizes. ``provenance`` is what else it should say, such as a fingerprint.
    """
    options = options or Options()
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / assessment.scan.case
    # The outputs are not known yet. Their key is set now, so that it keeps its place in the file.
    made = _provenance(assessment).as_json() | {"outputs": {}}
    everything = made | dict(provenance or {})
    content = severity_json(assessment.report, assessment.flags, everything, assessment.uncertainty)
    with ThreadPoolExecutor(1, "maps") as beside:  # compression leaves the interpreter to the drawing
        maps = beside.submit(_write_maps, assessment, base, options)
        shown = _write_shown(assessment, content, base, options)
    # The JSON file comes last, and a resumed run looks for it: a scan with one is whole.
    content["outputs"] = {path.name: path.stat().st_size for path in (*maps.result(), *shown)}
    write_json(content, _suffixed(base, labels.SEVERITY_SUFFIX))
    return content


def _write_maps(assessment: Assessment, base: Path, options: Options) -> list[Path]:
    """The label maps, and the probability where it is asked for; their paths."""
    scan, weights = assessment.scan, assessment.weights
    maps = {
        labels.LUNGS_SUFFIX: (assessment.lungs.labels, next(iter(assessment.lungs.networks.values()), "none")),
        labels.LOBES_SUFFIX: (assessment.lobes.labels, "none"),
        labels.LESIONS_SUFFIX: (assessment.lesions.labels, weights),
    }
    # "none" for maps that no network made.
    for suffix, (label_map, made_by) in maps.items():
        save_labels(label_map, scan, _suffixed(base, suffix), weights=made_by)
    suffixes = [*maps]
    if options.save_probability:
        suffixes.append(labels.PROBABILITY_SUFFIX)
        save_probability(assessment.lesions.probability, scan, _suffixed(base, suffixes[-1]), weights=weights)
    return [_suffixed(base, suffix) for suffix in suffixes]


def _write_shown(assessment: Assessment, content: Mapping[str, Any], base: Path, options: Options) -> list[Path]:
    """What is made to be looked at: the overlay, DICOM objects and the page, as far as asked for; their paths."""
    scan, maps = assessment.scan, (assessment.lungs.labels, assessment.lobes.labels, assessment.lesions.labels)
    # The overlay first: the DICOM picture is made from its file.
    written = [_suffixed(base, labels.OVERLAY_SUFFIX)]
    write_overlay(scan, *maps, written[0], caption=_caption(assessment))
    if options.dicom:
        written += _write_dicom(assessment, base.parent)
    if options.report:
        written.append(_suffixed(base, labels.REPORT_SUFFIX))
        write_report(content, scan, *maps, written[-1], viewer=options.viewer)
    return written


def _write_dicom(assessment: Assessment, folder: Path) -> list[Path]:
    # Only here: few runs write DICOM, and what it needs is an extra.
    from covsev.report.dicom.objects import write_dicom

    return write_dicom(
        assessment.scan,
        {
            "lungs": assessment.lungs.labels,
            "lobes": assessment.lobes.labels,
            "lesions": assessment.lesions.labels,
        },
        assessment.report,
        assessment.flags,
        folder,
        versions={"lungs": __version__, "lobes": __version__, "lesions": assessment.weights[:12]},
        overlay=_suffixed(folder / assessment.scan.case, labels.OVERLAY_SUFFIX),
    )


def _suffixed(base: Path, suffix: str) -> Path:
    # Not with_suffix, which would cut a case's name at its last dot.
    return base.with_name(base.name + suffix)


def _caption(assessment: Assessment) -> str:
    scores = assessment.report.scores
    opacity, severity = scores["po_chaganti2020"].value, scores["ctss25_pan2020"].value
    opacity_text = "unknown" if opacity is None else f"{opacity:.1f} %"
    severity_text = "unknown" if severity is None else f"{severity:.0f} of 25"
    return f"{assessment.scan.case}   opacity {opacity_text}   CT severity score {severity_text}"


def _provenance(assessment: Assessment) -> Provenance:
    return Provenance(
        source=str(assessment.scan.source),
        weights=assessment.weights,
        networks={**assessment.lungs.networks, **assessment.lesions.networks},
        method={
            "lungs": assessment.lungs.method,
            "lobes": f"{assessment.lobes.method}: {assessment.lobes.reason}",
            "lesions": assessment.lesions.method,
        },
        recovered_ml=assessment.lungs.recovered_ml,
        po_without_recovery_pct=_opacity_without_recovery_pct(assessment),
        airways_ml=assessment.lungs.airways_ml,
        fissure_support=dict(assessment.lobes.fissure_support),
        seconds=dict(assessment.seconds),
    )


def _opacity_without_recovery_pct(assessment: Assessment) -> float | None:
    """Percentage of opacity in the lungs as the threshold alone sees them; ``None`` without such lung.

    Compared with the score, it shows what the recovery of dense disease added.
    """
    lungs, voxels, infected = assessment.lungs, 0, 0
    planes = zip(lungs.labels.T, lungs.recovered_mask.T, assessment.lesions.labels.T, strict=True)
    for sides, recovered, lesions in planes:  # by slice: masks of the whole scan would be the peak of its memory
        aerated = (sides > 0) & ~recovered
        voxels += int(np.count_nonzero(aerated))
        infected += int(np.count_nonzero(aerated & (lesions > 0)))
    return 100 * infected / voxels if voxels else None
