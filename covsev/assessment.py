"""One scan, from file to report: the data flow of the whole package as one short function."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from covsev import __version__, labels, quality
from covsev.anatomy.lobes import LobeSegmentation, segment_lobes
from covsev.anatomy.lungs import LungSegmentation, segment_lungs
from covsev.lesion_model import LesionModel, load_model
from covsev.lesions import LesionSegmentation, segment_lesions
from covsev.options import DEFAULT_BUNDLE, Options
from covsev.quality import Flag
from covsev.report.html import write_report
from covsev.report.niivue import require_viewer
from covsev.report.overlay import write_overlay
from covsev.report.tables import severity_json, write_json
from covsev.scan import Scan, load_scan, save_labels, save_probability
from covsev.scoring import measure_masks, stopped_by
from covsev.severity import SeverityReport
from covsev.uncertainty import Uncertainty, estimate_uncertainty, with_interval


@dataclass(frozen=True, eq=False)
class Assessment:
    """Everything that covsev knows of one scan.

    Attributes:
        scan: the scan.
        lungs, lobes, lesions: labels on the scan's grid, with how they were made.
        report: volumes and scores.
        flags: quality findings.
        weights: SHA-256 of the lesion network's checkpoint.
        seconds: time of each stage.
        uncertainty: intervals, where they were asked for.
    """

    scan: Scan
    lungs: LungSegmentation
    lobes: LobeSegmentation
    lesions: LesionSegmentation
    report: SeverityReport
    flags: tuple[Flag, ...]
    weights: str
    seconds: Mapping[str, float]
    uncertainty: Uncertainty | None = None


@dataclass
class _Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


shipped_model = cache(partial(load_model, DEFAULT_BUNDLE))
"""The lesion model that covsev ships, loaded once for each device, runtime and precision."""


def assess(scan: Scan | Path | str, model: LesionModel | None = None, options: Options | None = None) -> Assessment:
    """Lungs, lobes, lesions and severity of one scan.

    Args:
        scan: see :func:`covsev.scan.load_scan`; or the path of a file or of a DICOM folder, which is read.
        model: see :func:`covsev.lesion_model.load_model`; the shipped one if not given, on
            the device, runtime and precision of the options, which a given model has of its own.
        options: see :class:`covsev.options.Options`.

    Raises:
        CovsevError: if the scan cannot be assessed; the message says why.
    """
    scan = scan if isinstance(scan, Scan) else load_scan(scan)
    options = options or Options()
    model = model or shipped_model(**options.model_settings)
    if options.report and options.viewer:
        require_viewer()
    if options.dicom:
        from covsev.report.dicom_out import require_dicom_source

        require_dicom_source(scan)
    watch = _Stopwatch()
    with watch.stage("lungs"):
        lungs = segment_lungs(scan)
    with watch.stage("lesions"):
        lesions = segment_lesions(
            scan,
            lungs.labels,
            model,
            restrict_to_lungs=options.restrict_to_lungs,
            keep_probability=options.save_probability,
        )
    with watch.stage("lobes"):
        lobes = segment_lobes(scan, lungs.labels, lesions=lesions.labels)
    lobe_labels = None if lobes.method == "none" else lobes.labels
    with watch.stage("severity"):
        report = measure_masks(
            scan,
            lungs.labels,
            lobe_labels,
            lesions.labels,
            lobes_reason=lobes.reason,
            noise_floor_ml=options.noise_floor_ml,
        )
        flags = quality.check(scan, lungs, lobes, lesions.labels, report.regions)
    intervals = None
    if options.uncertainty and quality.failure(flags) is None:
        with watch.stage("uncertainty"):
            intervals = estimate_uncertainty(
                scan, lungs.labels, lobe_labels, model, report, restrict_to_lungs=options.restrict_to_lungs
            )
            report = with_interval(report, intervals)
    report = stopped_by(report, flags)
    return Assessment(scan, lungs, lobes, lesions, report, flags, model.weights, watch.seconds, intervals)


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
    everything = _provenance(assessment) | {"outputs": {}} | dict(provenance or {})
    content = severity_json(assessment.report, assessment.flags, everything, assessment.uncertainty)
    with ThreadPoolExecutor(1, "maps") as beside:  # compression leaves the interpreter to the drawing
        maps = beside.submit(_write_maps, assessment, base, options)
        shown = _write_shown(assessment, content, base, options)
    content["outputs"] = {path.name: path.stat().st_size for path in (*maps.result(), *shown)}
    write_json(content, _suffixed(base, labels.SEVERITY_SUFFIX))
    return content


def _write_maps(assessment: Assessment, base: Path, options: Options) -> list[Path]:
    """The label maps, and the probability where it is asked for; their paths."""
    scan, weights = assessment.scan, assessment.weights
    maps = {
        labels.LUNGS_SUFFIX: (assessment.lungs.labels, "none"),
        labels.LOBES_SUFFIX: (assessment.lobes.labels, "none"),
        labels.LESIONS_SUFFIX: (assessment.lesions.labels, weights),
    }
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
    written = [_suffixed(base, labels.OVERLAY_SUFFIX)]
    write_overlay(scan, *maps, written[0], caption=_caption(assessment))
    if options.dicom:
        written += _write_dicom(assessment, base.parent)
    if options.report:
        written.append(_suffixed(base, labels.REPORT_SUFFIX))
        write_report(content, scan, *maps, written[-1], viewer=options.viewer)
    return written


def _write_dicom(assessment: Assessment, folder: Path) -> list[Path]:
    from covsev.report.dicom_out import write_dicom

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
    return base.with_name(base.name + suffix)


def _caption(assessment: Assessment) -> str:
    scores = assessment.report.scores
    opacity, severity = scores["po_chaganti2020"].value, scores["ctss25_pan2020"].value
    opacity_text = "unknown" if opacity is None else f"{opacity:.1f} %"
    severity_text = "unknown" if severity is None else f"{severity:.0f} of 25"
    return f"{assessment.scan.case}   opacity {opacity_text}   CT severity score {severity_text}"


def _provenance(assessment: Assessment) -> dict[str, Any]:
    return {
        "source": str(assessment.scan.source),
        "weights": assessment.weights,
        "networks": dict(assessment.lesions.networks),
        "method": {
            "lungs": "thresholds and morphology at about 2 mm (SimpleITK); dense disease closed back in",
            "lobes": f"{assessment.lobes.method}: {assessment.lobes.reason}",
            "lesions": assessment.lesions.method,
        },
        "recovered_ml": assessment.lungs.recovered_ml,
        "po_without_recovery_pct": _opacity_without_recovery_pct(assessment),
        "airways_ml": assessment.lungs.airways_ml,
        "fissure_support": dict(assessment.lobes.fissure_support),
        "seconds": dict(assessment.seconds),
    }


def _opacity_without_recovery_pct(assessment: Assessment) -> float | None:
    """Percentage of opacity in the lungs as the threshold alone sees them; ``None`` without any."""
    lungs, voxels, infected = assessment.lungs, 0, 0
    planes = zip(lungs.labels.T, lungs.recovered_mask.T, assessment.lesions.labels.T, strict=True)
    for sides, recovered, lesions in planes:  # by slice: masks of the whole scan would be the peak of its memory
        aerated = (sides > 0) & ~recovered
        voxels += int(np.count_nonzero(aerated))
        infected += int(np.count_nonzero(aerated & (lesions > 0)))
    return 100 * infected / voxels if voxels else None
