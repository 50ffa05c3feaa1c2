"""The five lobes of a scan.

A model of the fissures of 100 people is shaped to these lungs. Where the scan shows fissures, the model's are drawn to
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covsev.anatomy.lobes.coarse_chest import CoarseChest, CoarseGrid
from covsev.anatomy.lobes.division import divide_lungs
from covsev.anatomy.lobes.fissure_finding import find_fissures
from covsev.anatomy.lobes.fissure_fit import expected_surfaces
from covsev.anatomy.lobes.fissure_model import FISSURES, FISSURES_OF, LungFrame, load_fissure_model
from covsev.labels import LEFT_LUNG, RIGHT_LUNG
from covsev.scan import Scan, canonical_spacing_mm, from_canonical, require_same_grid, to_canonical

# Largest lung area in the scan's first or last slice, as a share of the largest in any slice. An apex or a
# costophrenic angle that is cut off has less, half a lung has more. The fissures lie in a frame taken from the whole
# lung's mass: in half a lung that frame, and every lobe with it, would be wrong.
_MAX_CUT_SHARE = 0.35
# In thicker slices fissures, about 1 mm thick, are blurred away, and the search would follow noise.
_MAX_SPACING_MM = 3.5
_AVERAGE = "the fissures lie where 100 people with lungs of this size and shape have them on average"
_Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LobeSegmentation:
    """Result of :func:`segment_lobes`.

    Attributes:
        labels: (X, Y, Z) uint8 on the scan's grid, ids of :data:`covsev.labels.LOBES`.
        method: how the fissures were placed. ``fissures``: drawn to what the scan shows in at least one lung.
            ``prior``: where lungs of this size and shape have them on average. ``none``: there are no lobes, since
            the scan's end cuts off so much lung that its shape says nothing of its lobes, or there is no lung.
        fissure_support: share, 0 to 1, of each surface on which the scan shows a sheet; keys as in
            :data:`covsev.anatomy.lobes.fissure_model.FISSURES`. Surfaces in mere noise reach about 0.1.
        reason: why this method, in plain words.
    """

    labels: NDArray[np.uint8]
    method: str
    fissure_support: Mapping[str, float]
    reason: str


def segment_lobes(
    scan: Scan, lungs: _Labels, *, lesions: _Labels | None = None, use_fissures: bool = True
) -> LobeSegmentation:
    """Divide the lungs into five lobes.

    Args:
        scan: the scan; without ``use_fissures`` only its grid is used.
        lungs: (X, Y, Z) labels of :func:`covsev.anatomy.lungs.segment.segment_lungs`.
        lesions: (X, Y, Z) lesion labels; where they are not 0, no fissure is sought.
        use_fissures: look for the fissures in the scan; otherwise the model alone places them.

    Raises:
        GridMismatchError: if ``lungs`` or ``lesions`` has another shape than the scan.
    """
    require_same_grid(scan, lungs.shape, scan.affine, name="the lung label map")
    if lesions is not None:
        require_same_grid(scan, lesions.shape, scan.affine, name="the lesion label map")
    sides, spacing_mm = to_canonical(lungs, scan.affine), canonical_spacing_mm(scan)
    nothing: Mapping[str, float] = dict.fromkeys(FISSURES, 0.0)
    if hopeless := _why_no_lobes(sides):
        return LobeSegmentation(np.zeros_like(lungs), "none", nothing, hopeless)
    # Frames and fissures are found on a coarse grid, in which there is less noise. The cut is made on the scan's own.
    grid = CoarseGrid.around(sides > 0, spacing_mm)
    coarse = grid.middle(sides)
    frames = {side: LungFrame.around(coarse == side, grid.spacing_mm) for side in FISSURES_OF if (coarse == side).any()}
    surfaces = expected_surfaces(load_fissure_model(), frames)
    # What is known without the scan's grey values; a search that finds nothing falls back on it, too.
    hindrance = _hindrance(spacing_mm) if use_fissures else "the scan's grey values were not used"
    method, shares, reason = "prior", nothing, f"{hindrance}: {_AVERAGE}"
    if not hindrance:
        disease = None if lesions is None else to_canonical(lesions, scan.affine)
        chest = CoarseChest.on(grid, to_canonical(scan.hu, scan.affine), coarse, disease)
        surfaces, shares, found = find_fissures(chest, surfaces)
        method, reason = "fissures" if found else "prior", _reason(frames, found, shares)
    # The coarse grid counts millimetres from its own first block, the scan's grid from the scan's first voxel.
    labels = divide_lungs(sides, spacing_mm, surfaces.moved(grid.origin_mm))
    return LobeSegmentation(from_canonical(labels, scan.affine), method, shares, reason)


def _why_no_lobes(sides: _Labels) -> str:
    """Why lungs in canonical axes cannot be divided, empty if they can."""
    if not sides.any():
        return "there is no lung"
    cut = _cut_share(sides)
    if cut > _MAX_CUT_SHARE:
        return f"the scan's end cuts the lungs where they have {100 * cut:.0f} % of their largest area"
    return ""


def _hindrance(spacing_mm: tuple[float, ...]) -> str:
    """Why fissures cannot be seen on such a grid, empty if they can."""
    # Along any axis: a thick voxel blurs the fissures that cross it, whichever way the scan was cut.
    thick = max(spacing_mm)
    return f"voxels of {thick:.1f} mm are too thick to see fissures" if thick > _MAX_SPACING_MM else ""


def _reason(frames: Mapping[int, LungFrame], found: set[int], shares: Mapping[str, float]) -> str:
    names = [name for side in sorted(found) for name in FISSURES_OF[side]]
    seen = [f"{name.replace('_', ' ')} on {100 * shares[name]:.0f} %" for name in names]
    parts = [f"sheets in the scan support the {', the '.join(seen)} of its surface"] if seen else []
    missed = [lung.text for lung in (RIGHT_LUNG, LEFT_LUNG) if lung.id in frames and lung.id not in found]
    parts += [f"no fissure could be made out in the {text}: there {_AVERAGE}" for text in missed]
    return "; ".join(parts)


def _cut_share(sides: _Labels) -> float:
    """Lung area in the lowest or highest slice of the scan, as a share of the largest slice's; 0 if uncut."""
    areas = np.count_nonzero(sides, axis=(0, 1))
    at_ends = max(areas[0], areas[-1])
    return float(at_ends / max(1, areas.max()))
