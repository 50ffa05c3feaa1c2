"""What a user may choose for an assessment. Light to import, so that a command line can build it at once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from covsev.errors import SettingError
from covsev.severity.scores import DEFAULT_NOISE_FLOOR_ML

# Found as package data, so that an installed covsev brings its networks along.
BUNDLES = Path(str(resources.files("covsev.bundles")))
INFECTION_BUNDLE = BUNDLES / "covid_infection_ct_segmentation"
LUNG_BUNDLE = BUNDLES / "covid_lung_ct_segmentation"
LESION_BUNDLE = BUNDLES / "covid_lesion_ct_segmentation"
DEFAULT_BUNDLE = LESION_BUNDLE
LUNG_ROADS = ("network", "threshold")
"""How the lungs are found: by the shipped network, or by a threshold, which loses dense lung at the chest wall."""


# Keyword-only: with so many yes-or-no values in a row, a position says nothing and is easily wrong.
@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose; all by keyword.

    Attributes:
        lungs: ``network`` or ``threshold``, see :data:`LUNG_ROADS`. Without weights it is the threshold, too.
        restrict_to_lungs: drop lesion outside the lung labels.
        noise_floor_ml: lesion below this in a region counts as none in the scores' bands.
        save_probability: keep the infection probability of each voxel, and write it, too.
        keep_identifiers: write what DICOM headers say of the patient (name, id, dates, UIDs) into the JSON file.
        uncertainty: compute an interval of every lesion volume and score; the network then runs five times, not once.
        dicom: also write a DICOM segmentation, structured report and picture; the scan must be a DICOM series.
        report: write a page of the scan, ``<case>_report.html``.
        viewer: put an interactive viewer into the page; needs ipyniivue.
        device: where the networks run: ``cpu``, ``cuda`` or ``cuda:1``.
        runtime: what runs them, see :func:`covsev.inference.runtime.with_runtime`; ``None``: as the bundle says.
        precision: ``f32`` or ``bf16``, see there; ``None``: as the bundle says.
    """

    lungs: str = "network"
    restrict_to_lungs: bool = True
    noise_floor_ml: float = DEFAULT_NOISE_FLOOR_ML
    save_probability: bool = False
    keep_identifiers: bool = False
    uncertainty: bool = False
    dicom: bool = False
    report: bool = True
    viewer: bool = False
    device: str = "cpu"
    runtime: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no choice.

        Raises:
            SettingError: naming the choices.
        """
        if self.lungs not in LUNG_ROADS:
            raise SettingError(f"lungs must be one of {', '.join(LUNG_ROADS)}; got {self.lungs!r}")

    @property
    def model_settings(self) -> dict[str, str]:
        """What of the options :func:`covsev.lesions.model.load_model` takes."""
        # What was not chosen is left out, so that the bundle's own configuration decides it.
        chosen = {"device": self.device, "runtime": self.runtime, "precision": self.precision}
        return {name: value for name, value in chosen.items() if value is not None}
