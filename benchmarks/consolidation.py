"""How much of a dense region at the pleura the lung mask keeps, and how much it grows elsewhere.

    python benchmarks/consolidation.py normal_N002_crop.nii.gz covid_P001.nii.gz --json consolidation.json

In each scan a part of one lung is replaced by soft tissue of 0 to 60 HU, and the lungs are segmented again, as
`covsev severity` does it, disease at their border included. The parts are the 1, 5, 10, 20 and 40 % of the lung that
lie furthest

- to the back (``posterior``) or to the side (``lateral``), with a flat inner edge,
- below a level (``base``), on the diaphragm,
- within a ball about a point of the pleura at the back and the side (``ball``).

``kept`` is the share of the part that is in the mask of that lung. ``grown`` is what is lung now and was not in the
unchanged scan, in percent of the lung. Voxels at the border of the part, lung and tissue mixed, are made denser
in the share that is lung; fat cannot be told from such a mixture. With ``--tissue-hu`` -30 a rim of some -25 to 0 HU
stays, which may give the border away; with 40 it becomes as dense as the part, and so does fat in it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covsev.anatomy.lungs.model import LungModel
from covsev.assessment import lung_model_for
from covsev.labels import LEFT_LUNG, LUNGS, RIGHT_LUNG
from covsev.lesions.model import LesionModel, load_model
from covsev.options import INFECTION_BUNDLE, LUNG_ROADS, Options
from covsev.scan import Scan, canonical_spacing_mm, load_scan, make_scan, to_canonical
from covsev.training.evaluation.lungs import lungs_as_assessed

SHAPES = ("posterior", "lateral", "base", "ball")
SHARES_PCT = (1, 5, 10, 20, 40)
LUNG_HU, TISSUE_HU = -850, -30
"""HU of a border voxel that is lung throughout, and of one without any lung."""


def part_of_lung(lung: NDArray[np.bool_], spacing_mm: tuple[float, ...], shape: str, share: float) -> NDArray[np.bool_]:
    """The ``share`` of ``lung`` (axes left, back, head) that lies furthest in the sense of ``shape``."""
    index = np.argwhere(lung)
    mm = index * np.array(spacing_mm)
    outward = -1.0 if mm[:, 0].mean() < lung.shape[0] * spacing_mm[0] / 2 else 1.0
    if shape == "ball":
        middle = mm.mean(axis=0)
        point = mm[((mm - middle) @ np.array([0.5 * outward, 0.75, -0.3])).argmax()]
        far = -np.linalg.norm(mm - point, axis=1)
    else:
        far = mm @ np.array({"posterior": (0, 1, 0), "lateral": (outward, 0, 0), "base": (0, 0, -1)}[shape], float)
    count = max(1, round(share * len(index)))
    part = np.zeros(lung.shape, dtype=bool)
    part[tuple(index[np.argpartition(-far, count - 1)[:count]].T)] = True
    return part


def consolidated(
    hu: NDArray[Any],
    lungs: NDArray[np.uint8],
    part: NDArray[np.bool_],
    mean_hu: float,
    tissue_hu: float = TISSUE_HU,
    seed: int = 0,
) -> NDArray[np.int16]:
    """``hu`` with ``part`` replaced by mottled soft tissue within 0 to 60 HU."""
    box = tuple(slice(max(0, side.start - 3), side.stop + 3) for side in ndimage.find_objects(part.view(np.uint8))[0])
    before, inside = hu[box], part[box]
    noise = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(noise.standard_normal(before.shape, dtype=np.float32), 2)
    dense = np.clip(mean_hu + 15 * grain / grain.std() + noise.normal(0, 12, before.shape), 0, 60)
    changed = np.where(inside, dense, before)
    rim = ndimage.binary_dilation(inside, iterations=2) & (lungs[box] == 0) & (before < tissue_hu)
    lung_share = np.clip((tissue_hu - changed) / (tissue_hu - LUNG_HU), 0, 1)
    result = np.rint(hu).astype(np.int16)
    result[box] = np.rint(np.where(rim, changed + lung_share * (dense - LUNG_HU), changed))
    return result


def rows_of(
    scan: Scan,
    side: int,
    shapes: tuple[str, ...],
    shares_pct: tuple[int, ...],
    mean_hu: float,
    tissue_hu: float,
    model: LungModel | None,
    infection: LesionModel | None,
) -> list[dict[str, Any]]:
    """One row for every shape and share."""
    before = lungs_as_assessed(scan, model, infection)
    hu, lungs = to_canonical(scan.hu, scan.affine), to_canonical(before.labels, scan.affine)
    spacing_mm, lung = canonical_spacing_mm(scan), lungs == side
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    rows = [{"part": "none", "share_pct": 0, "recovered_ml": before.recovered_ml, "grown_pct": 0.0}]
    for shape in shapes:
        for share_pct in shares_pct:
            part = part_of_lung(lung, spacing_mm, shape, share_pct / 100)
            dense = consolidated(hu, lungs, part, mean_hu, tissue_hu)
            after = lungs_as_assessed(make_scan(dense, affine, case=scan.case), model, infection)
            grown = np.count_nonzero((after.labels > 0) & (lungs == 0)) / np.count_nonzero(lung)
            row = {
                "part": shape,
                "share_pct": share_pct,
                "kept_pct": 100 * float((after.labels[part] == side).mean()),
                "grown_pct": 100 * grown,
                "recovered_ml": after.recovered_ml,
                "leak_suspected_ml": after.leak_suspected_ml,
                "possible_effusion_ml": after.possible_effusion_ml,
                "flags": list(after.flags),
            }
            print(
                f"  {shape:10s} {share_pct:3d} %   kept {row['kept_pct']:5.1f} %   grown {row['grown_pct']:5.2f} %",
                flush=True,
            )
            rows.append(row)
    return rows


def mean_of(rows: list[dict[str, Any]]) -> str:
    """Mean of what was kept and grown over the rows with a part, in words."""
    kept, grown = ([row[name] for row in rows if row["share_pct"]] for name in ("kept_pct", "grown_pct"))
    return f"kept {np.mean(kept):5.1f} %   grown {np.mean(grown):5.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--side", choices=("right", "left", "both"), default="both")
    parser.add_argument("--mean-hu", type=float, default=30.0, help="of the pasted tissue")
    parser.add_argument("--tissue-hu", type=float, default=TISSUE_HU, help="darker border voxels are made denser")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--shares", nargs="+", type=int, default=SHARES_PCT, help="percent of the lung")
    parser.add_argument("--lungs", choices=LUNG_ROADS, default="network", help="how the lungs are found")
    parser.add_argument("--json", type=Path, help="write the table here too")
    options = parser.parse_args()
    sides = {"right": (RIGHT_LUNG,), "left": (LEFT_LUNG,), "both": LUNGS}[options.side]
    pasted = {"mean_hu": options.mean_hu, "tissue_hu": options.tissue_hu}
    models = {"model": lung_model_for(Options(lungs=options.lungs)), "infection": load_model(INFECTION_BUNDLE)}
    table = []
    for path in options.scans:
        scan = load_scan(path)
        for side in sides:
            print(f"{scan.case}, {side.text}")
            rows = rows_of(scan, side.id, tuple(options.shapes), tuple(options.shares), **pasted, **models)
            print(f"  mean               {mean_of(rows)}", flush=True)
            table += [{"case": scan.case, "side": side.name, **pasted, **row} for row in rows]
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
