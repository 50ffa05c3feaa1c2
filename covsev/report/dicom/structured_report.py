"""Measurements and scores as a DICOM structured report, template TID 1500 of PS3.16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from covsev import __version__
from covsev.labels import LESIONS, LOBES, LUNGS, Label
from covsev.quality.result import Flag, worst_level
from covsev.report.dicom.segmentation import MANUFACTURER, code, segment_number
from covsev.report.dicom.terms import (
    ABNORMAL,
    ANATOMY,
    BOTH,
    DENSITY,
    FINDINGS,
    HOUNSFIELD,
    LUNG,
    MEAN,
    MILLILITRE,
    NO_UNIT,
    PERCENT,
    SD,
    SITES,
    VOLUME,
    Site,
    Term,
    private,
)
from covsev.severity import SCORES, RegionMeasures, SeverityReport

_SERIES_NUMBER = 9002
"""The second of three series; see also :mod:`covsev.report.dicom.objects`."""
_MEASURES: tuple[tuple[str, Term, Term, Term | None], ...] = (
    ("volume_ml", VOLUME, MILLILITRE, None),
    ("lesion_ml", private("lesion_ml", "Volume of lesion in the region"), MILLILITRE, None),
    ("lesion_pct", private("lesion_pct", "Lesion, share of the region's volume"), PERCENT, None),
    ("ggo_ml", private("ggo_ml", "Volume of ground-glass opacity in the region"), MILLILITRE, None),
    ("consolidation_ml", private("consolidation_ml", "Volume of consolidation in the region"), MILLILITRE, None),
    ("high_opacity_ml", private("high_opacity_ml", "Volume of lesion above -200 HU in the region"), MILLILITRE, None),
    ("high_opacity_pct", private("high_opacity_pct", "Lesion above -200 HU, share of the region"), PERCENT, None),
    ("mean_hu", DENSITY, HOUNSFIELD, MEAN),
    ("sd_hu", DENSITY, HOUNSFIELD, SD),
)
"""Field of RegionMeasures, name, unit and derivation of what is reported of each region."""
_ROI = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
_Group = hd.sr.MeasurementsAndQualitativeEvaluations | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations


def make_report(
    segmentation: hd.seg.Segmentation, source: Sequence[Dataset], report: SeverityReport, flags: Sequence[Flag]
) -> hd.sr.ComprehensiveSR:
    """A report on a scan: each region with its segment, then both lungs with the scores and the quality.

    What could not be measured has no number: its group says so, with the reason.

    Args:
        segmentation: of :func:`covsev.report.dicom.segmentation.make_segmentation`.
        source: headers of the source images.
        report: what was measured.
        flags: quality findings.
    """
    # Only single lungs and lobes have a segment to refer to; both lungs together are a group without one.
    regions = [_region(label, report.regions[label.name], segmentation, source) for label in (*LUNGS, *LOBES)]
    lesions = [_lesion(label, report.regions["both_lungs"], segmentation, source) for label in LESIONS]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=_observer()),
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=[_lungs(report, flags), *regions, *lesions],
        title=codes.cid7021.ImagingMeasurementReport,
    )
    return hd.sr.ComprehensiveSR(
        # All that the report refers to must be named as its evidence.
        evidence=[segmentation, *source],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_verified=False,  # no person has looked at it
        series_description="covsev measurements, research use only",
    )


def _observer() -> hd.sr.ObserverContext:
    # The UID is made from the version: the same software is the same observer in every report.
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(generate_uid(entropy_srcs=["covsev", __version__])),
        name="covsev",
        manufacturer_name=MANUFACTURER,
        model_name=f"covsev {__version__}",
    )
    return hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)


def _lungs(measured: SeverityReport, flags: Sequence[Flag]) -> _Group:
    """Both lungs: measures, scores, finding, quality."""
    measures = measured.regions["both_lungs"]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("both lungs"),
        algorithm_id=_algorithm(),
        finding_type=code(LUNG),
        finding_category=code(ANATOMY),
        finding_sites=[_site(Site(LUNG, BOTH))],
        measurements=[*_measurements(measures), *_scores(measured)],
        qualitative_evaluations=[*_not_measured(measures), *_verdicts(measured, flags)],
    )


def _region(
    label: Label, measures: RegionMeasures, segmentation: hd.seg.Segmentation, source: Sequence[Dataset]
) -> _Group:
    site = SITES[label.name]
    return _ROI(
        tracking_identifier=_tracking(label.text),
        referenced_segment=_segment(label, segmentation, source),
        algorithm_id=_algorithm(),
        finding_type=code(site.term),
        finding_category=code(ANATOMY),
        finding_sites=[_site(site)],
        measurements=list(_measurements(measures)),
        qualitative_evaluations=list(_not_measured(measures)),
    )


def _lesion(
    label: Label, lungs: RegionMeasures, segmentation: hd.seg.Segmentation, source: Sequence[Dataset]
) -> _Group:
    # The measures say "ggo" where the label says "ground_glass".
    measure = label.name.replace("ground_glass", "ggo")
    volume_ml = getattr(lungs, f"{measure}_ml")
    return _ROI(
        tracking_identifier=_tracking(label.text),
        referenced_segment=_segment(label, segmentation, source),
        algorithm_id=_algorithm(),
        finding_type=code(FINDINGS[label.name]),
        finding_category=code(ABNORMAL),
        finding_sites=[_site(Site(LUNG, BOTH))],
        measurements=[] if volume_ml is None else [_measurement(VOLUME, volume_ml, MILLILITRE)],
        qualitative_evaluations=list(_not_measured(lungs)),
    )


def _measurements(measures: RegionMeasures) -> Iterator[hd.sr.Measurement]:
    for field, name, unit, derivation in _MEASURES:
        value = getattr(measures, field)
        # DICOM has no null: what was not measured is left out, and _not_measured gives the reason.
        if value is not None:
            yield _measurement(name, value, unit, derivation)


def _scores(measured: SeverityReport) -> Iterator[hd.sr.Measurement]:
    for score in SCORES:
        value = measured.scores[score.id].value
        if value is not None:
            unit = PERCENT if score.unit == "%" else NO_UNIT
            yield _measurement(private(score.id, score.title), value, unit)


def _measurement(name: Term, value: float, unit: Term, derivation: Term | None = None) -> hd.sr.Measurement:
    return hd.sr.Measurement(
        name=code(name), value=float(value), unit=code(unit), derivation=code(derivation) if derivation else None
    )


def _not_measured(measures: RegionMeasures) -> Iterator[hd.sr.QualitativeEvaluation]:
    if measures.reason is not None:
        yield _statement(private("measured", "Measured"), private("not_measured", f"No: {measures.reason}"))


def _verdicts(measured: SeverityReport, flags: Sequence[Flag]) -> Iterator[hd.sr.QualitativeEvaluation]:
    """Finding, quality, the reasons of missing scores and each flag."""
    finding, level = measured.finding.state, worst_level(tuple(flags))
    yield _statement(private("finding", "Opacities of infection"), private(finding, finding))
    yield _statement(private("quality", "Quality of scan and masks"), private(level, level))
    results = ((score, measured.scores[score.id]) for score in SCORES)
    missing = ((score, result.reason) for score, result in results if result.value is None)
    without = (_statement(private(s.id, s.title), private("no_score", f"No score: {why}")) for s, why in missing)
    found = (_statement(private("quality_flag", f"Quality: {f.level}"), private(f.code, f.text)) for f in flags)
    yield from chain(without, found)


def _statement(name: Term, value: Term) -> hd.sr.QualitativeEvaluation:
    return hd.sr.QualitativeEvaluation(name=code(name), value=code(value))


def _tracking(text: str) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=text)


def _algorithm() -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(name="covsev", version=__version__)


def _site(site: Site) -> hd.sr.FindingSite:
    return hd.sr.FindingSite(anatomic_location=code(site.term), laterality=code(site.side) if site.side else None)


def _segment(label: Label, segmentation: hd.seg.Segmentation, source: Sequence[Dataset]) -> hd.sr.ReferencedSegment:
    return hd.sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=segment_number(label),
        source_series=hd.sr.SourceSeriesForSegmentation(source[0].SeriesInstanceUID),
    )
