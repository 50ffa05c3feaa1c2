"""How fast many scans go, with one worker and with two, and what a batch costs beside its scans.

    python benchmarks/batch.py -o runs/batch [--scans 40] [--bundle BUNDLE]

Writes phantoms of mixed size, assesses them one by one in this process's child and then as batches, and prints scans
per minute, peak memory of all processes together, and the batch's overhead: its time over the sum of its scans' times
when each is read, assessed and written alone with the network loaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import nibabel as nib
import psutil

from covsev.batch import assess_directory
from covsev.options import DEFAULT_BUNDLE
from covsev.phantom import make_phantom

SPACINGS_MM = ((1.5, 1.5, 5.0), (2.0, 2.0, 5.0), (3.0, 3.0, 3.0), (2.0, 2.0, 8.0), (4.0, 4.0, 5.0))
ALONE = """
import sys, time
from pathlib import Path
from covsev import find_scans
from covsev.assessment import assess, write
from covsev.lesion_model import load_model
from covsev.scan import load_scan
model, seconds = load_model(Path(sys.argv[3])), 0.0
for source in find_scans(Path(sys.argv[1])):
    start = time.perf_counter()
    write(assess(load_scan(source), model), Path(sys.argv[2]))
    seconds += time.perf_counter() - start
print(seconds)
"""


def write_phantoms(folder: Path, scans: int) -> None:
    """Phantoms whose sizes go round."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(scans):
        scan = make_phantom(SPACINGS_MM[number % len(SPACINGS_MM)], seed=number).scan
        nib.save(nib.Nifti1Image(scan.hu, scan.affine), folder / f"phantom_{number:03d}.nii.gz")


def seconds_alone(scans: Path, out: Path, bundle: Path) -> float:
    """Sum over the scans of reading, assessing and writing, one after the other."""
    command = [sys.executable, "-c", ALONE, str(scans), str(out), str(bundle)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


class PeakMemory:
    """Largest resident memory of this process's children together, looked at ten times a second."""

    def __enter__(self) -> PeakMemory:
        self.peak_mb, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)


def measure(scans: Path, out: Path, bundle: Path, workers: int) -> tuple[float, float, int]:
    """Seconds, peak megabytes and number of scans of a batch."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        result = assess_directory(scans, out, bundle=bundle, workers=workers, overwrite=True)
        seconds = time.perf_counter() - start
    assert result.failed == 0
    return seconds, memory.peak_mb, len(result.rows)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    arguments = parser.parse_args()
    scans = arguments.output / "scans"
    shutil.rmtree(arguments.output, ignore_errors=True)
    write_phantoms(scans, arguments.scans)
    alone = seconds_alone(scans, arguments.output / "alone", arguments.bundle)
    print(f"{arguments.scans} scans, each alone: {alone:.1f} s together")
    for workers in (1, 2):
        seconds, peak_mb, number = measure(scans, arguments.output / f"workers_{workers}", arguments.bundle, workers)
        overhead = f", overhead {100 * (seconds / alone - 1):+.1f} %" if workers == 1 else ""
        print(
            f"{workers} worker{'s' * (workers > 1)}: {seconds:.1f} s, {60 * number / seconds:.1f} scans per minute, "
            f"peak {peak_mb:.0f} MB in all workers{overhead}"
        )


if __name__ == "__main__":
    main()
