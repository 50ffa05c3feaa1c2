"""What `covsev score` takes for masks of a scan of 512 x 512 x 300 voxels: seconds and memory.

    python benchmarks/score.py -o runs/score [--repeats 3]

Makes the lung, lobe and lesion masks of a phantom, and its CT, as a writer would store them that covsev does not know:
neither name nor description says whose labels they are. Runs `covsev score` on them in processes of their own, without
the CT and with it, and prints the least seconds (wall, CPU) of the repeats, start of Python included, and the largest
memory of a process. The folder gets the same as `score.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from covsev.phantom import make_phantom

SHAPE = (512, 512, 300)
SIZE_MM = (360.0, 270.0, 300.0)
FINER = 2  # the phantom is drawn on half the grid, which takes seconds, and its voxels are divided
RUN = """
import json, resource, sys
from covsev.commands.main import app
app(sys.argv[1:], standalone_mode=False)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


@dataclass(frozen=True)
class Cost:
    """The least time and the largest memory of some runs of one command."""

    files: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def write_files(folder: Path) -> dict[str, Path]:
    """CT and masks as compressed NIfTI, by the option of `covsev score` that takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    x_mm, y_mm, z_mm = (FINER * size / side for size, side in zip(SIZE_MM, SHAPE, strict=True))
    drawn = make_phantom((x_mm, y_mm, z_mm))
    affine = drawn.scan.affine @ np.diag([1 / FINER, 1 / FINER, 1 / FINER, 1])
    arrays = {"lungs": drawn.lungs, "lobes": drawn.lobes, "lesions": drawn.lesions, "scan": drawn.scan.hu}
    for name, array in arrays.items():
        for axis in range(3):
            array = array.repeat(FINER, axis)
        assert array.shape == SHAPE
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    return {name: folder / f"{name}.nii.gz" for name in arrays}


def measure(files: dict[str, Path], out: Path, repeats: int) -> Cost:
    """Score ``files`` in a new process, several times."""
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        command = [sys.executable, "-P", "-c", RUN, "score", *options, "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append((time.perf_counter() - start, *json.loads(done.stdout.splitlines()[-1])))
    wall_s, cpu_s, peak_mb = zip(*runs, strict=True)
    return Cost(", ".join(files), round(min(wall_s), 2), round(min(cpu_s), 2), round(max(peak_mb)))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    files = write_files(arguments.output / "files")
    masks = {name: path for name, path in files.items() if name != "scan"}
    costs = [measure(given, arguments.output / "scored", arguments.repeats) for given in (masks, files)]
    print(f"{'files':32}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
    for cost in costs:
        print(f"{cost.files:32}{cost.wall_s:8.2f}{cost.cpu_s:8.2f}{cost.peak_mb:9.0f}")
    (arguments.output / "score.json").write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
