"""The road of one scan, as code: lungs, lesions, lobes, severity and checks. Nothing here writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from covsev.anatomy.lobes.segment import LobeSegmentation, segment_lobes
from covsev.anatomy.lungs.model import LungModel, load_lung_model
from covsev.anatomy.lungs.segment import LungSegmentation, segment_lungs
from covsev.lesions.model import LesionModel, load_model
from covsev.lesions.uncertainty import estimate_uncertainty, with_interval
from covsev.lesions.volume import LesionSegmentation, segment_lesions
from covsev.options import DEFAULT_BUNDLE, LUNG_BUNDLE, Options
from covsev.quality.result import Flag, check, failure, stopped_by
from covsev.report.page.niivue import require_viewer
from covsev.scan import Scan, load_scan
from covsev.severity import SeverityReport, measure_masks
from covsev.severity.intervals import Uncertainty


@dataclass(frozen=True, eq=False)
class Assessment:
    """Everything that covsev knows of one scan.

    Attributes:
        scan: the scan.
        lungs, lobes, lesions: labels on the scan's grid, with how they were made.
        report: volumes and scores.
        flags: what the quality checks found.
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
"""The lesion model that covsev ships, loaded once for each device, runtime and precision.

Loading takes seconds, so a notebook that assesses one scan after the other must not pay for it each time.
"""
shipped_lung_model = cache(partial(load_lung_model, LUNG_BUNDLE))
"""The lung model that covsev ships, loaded once for each device, runtime and precision."""


def lung_model_for(options: Options) -> LungModel | None:
    """The shipped lung model on the options' device; ``None`` where they choose the threshold, or it has no weights."""
    if options.lungs == "threshold" or not (LUNG_BUNDLE / "models" / "model.pt").is_file():
        return None
    return shipped_lung_model(**options.model_settings)


def assess(scan: Scan | Path | str, model: LesionModel | None = None, options: Options | None = None) -> Assessment:
    """Lungs, lobes, lesions and severity of one scan.

    Args:
        scan: see :func:`covsev.scan.load_scan`; or the path of a file or of a DICOM folder, which is read.
        model: see :func:`covsev.lesions.model.load_model`. Without one, the shipped model runs with the device,
            runtime and precision of the options. A given model has its own.
        options: see :class:`covsev.options.Options`; they choose the lung network, too.

    Raises:
        CovsevError: if the scan cannot be assessed; the message says why.
    """
    scan = scan if isinstance(scan, Scan) else load_scan(scan)
    options = options or Options()
    model = model or shipped_model(**options.model_settings)
    # What would fail in writing fails now, before all the computing.
    if options.report and options.viewer:
        require_viewer()
    if options.dicom:  # imported only here: highdicom is an extra
        from covsev.report.dicom.objects import require_dicom_source

        require_dicom_source(scan)
    watch = _Stopwatch()
    with watch.stage("lungs"):
        lungs = segment_lungs(scan, lung_model_for(options))
    with watch.stage("lesions"):
        lesions = segment_lesions(
            scan,
            lungs.labels,
            model,
            restrict_to_lungs=options.restrict_to_lungs,
            keep_probability=options.save_probability,
            possible=lungs.possible,
        )
        # Disease beyond the mask that is one with disease inside it is lung that the mask has lost.
        lungs = lungs.with_disease(lesions.lungs, scan.voxel_ml)
    # Lobes come after the lesions: no fissure is sought in diseased lung.
    with watch.stage("lobes"):
        lobes = segment_lobes(scan, lungs.labels, lesions=lesions.labels)
    # Lobes that could not be placed must be null, with the reason, not measured as empty.
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
        flags = check(scan, lungs, lobes, lesions.labels, report.regions)
    # No intervals for scores that a failed check withholds: the network would run five times for nothing.
    intervals = None
    if options.uncertainty and failure(flags) is None:
        with watch.stage("uncertainty"):
            intervals = estimate_uncertainty(
                scan, lungs.labels, lobe_labels, model, report, restrict_to_lungs=options.restrict_to_lungs
            )
            report = with_interval(report, intervals)
    report = stopped_by(report, flags)  # last, since it withholds the finding that the intervals have drawn anew
    return Assessment(scan, lungs, lobes, lesions, report, flags, model.weights, watch.seconds, intervals)
