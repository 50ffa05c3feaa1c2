"""Dice of the lobes against traced lobe maps, the lungs being the traced ones.

    python benchmarks/lobes.py LOBE_MAPS

``LOBE_MAPS`` holds the ``*.nrrd`` of Tang et al. 2019 (arXiv 1903.09879), read at every third voxel in the plane and
every second slice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from covsev.anatomy.lobes import segment_lobes
from covsev.labels import LEFT_LOBES, LEFT_LUNG, LOBES, RIGHT_LUNG
from covsev.scan import from_sitk, make_scan

TRACED_IDS = {4: 3, 5: 4, 6: 5, 7: 1, 8: 2}
STEP = (3, 3, 2)


def lobe_dice(path: Path) -> list[float]:
    array, affine = from_sitk(sitk.ReadImage(str(path)))
    ids = np.array([TRACED_IDS.get(number, 0) for number in range(256)], dtype=np.uint8)
    traced = ids[array[:: STEP[0], :: STEP[1], :: STEP[2]] & 255]
    left = [lobe.id for lobe in LEFT_LOBES]
    lungs = np.where(np.isin(traced, left), LEFT_LUNG.id, np.where(traced > 0, RIGHT_LUNG.id, 0)).astype(np.uint8)
    scan = make_scan(np.zeros(traced.shape, np.int16), affine @ np.diag([*STEP, 1.0]), case=path.stem)
    found = segment_lobes(scan, lungs).labels
    pairs = ((found == lobe.id, traced == lobe.id) for lobe in LOBES)
    return [2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)) for a, b in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    dice = np.array([lobe_dice(path) for path in sorted(parser.parse_args().folder.glob("*.nrrd"))])
    print(f"{len(dice)} maps, mean Dice {dice.mean():.3f}")
    for lobe, column in zip(LOBES, dice.T, strict=True):
        print(f"{lobe.text}: mean {column.mean():.3f}, lowest {column.min():.3f}")


if __name__ == "__main__":
    main()
