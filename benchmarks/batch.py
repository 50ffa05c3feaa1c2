"""How fast many scans go, with one worker and with two, and what a batch costs beside its scans.

    python benchmarks/batch.py -o runs/batch [--scans 40] [--bundle BUNDLE]

Writes phantoms of mixed size and assesses them three times: alone, in one process that loads the network once and then
reads, assesses and writes one scan after the other by `covsev.assess`; as a batch of one worker; as a batch of two.
Prints and writes as `batch.json`:

- seconds and scans per minute. Those of the scans alone are the sum over the scans, without start-up. Those of a
  batch are all that a user waits for: start of the workers, all scans, the tables and the page.
- overhead: the batch's seconds over those of the scans alone, in percent. Below 0 where reading the next scan and
  writing the last while one is computed saves more than start-up costs, or two workers share the scans.
- start-up: seconds from starting a worker until its network is loaded, which a batch's seconds hold once.
- peak memory of all worker processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import nibabel as nib
import psutil

from covsev.batch import assess_directory
from covsev.batch.processes import LocalProcesses
from covsev.options import DEFAULT_BUNDLE
from covsev.phantom import make_phantom

SPACINGS_MM = ((2.0, 2.0, 8.0), (3.0, 3.0, 5.0), (4.0, 4.0, 5.0), (2.5, 2.5, 10.0), (4.0, 4.0, 8.0))
ALONE = """
import sys, time
from pathlib import Path
from covsev import assess, find_scans
from covsev.report.outputs import write
from covsev.lesions.model import load_model
from covsev.scan import load_scan
model, seconds = load_model(Path(sys.argv[3])), 0.0
for source in find_scans(Path(sys.argv[1])):
    start = time.perf_counter()
    write(assess(load_scan(source), model), Path(sys.argv[2]))
    seconds += time.perf_counter() - start
print(seconds)
"""


@dataclass(frozen=True)
class Run:
    """One way through all scans; ``overhead_pct`` is ``None`` for that which the others are compared with."""

    name: str
    seconds: float
    scans_per_minute: float
    peak_mb: float
    overhead_pct: float | None


class PeakMemory:
    """Largest resident memory of this process's children together, looked at five times a second."""

    def __enter__(self) -> PeakMemory:
        self.peak_mb, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)


def write_phantoms(folder: Path, scans: int) -> None:
    """Phantoms whose sizes go round."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(scans):
        scan = make_phantom(SPACINGS_MM[number % len(SPACINGS_MM)], seed=number).scan
        nib.save(nib.Nifti1Image(scan.hu, scan.affine), folder / f"phantom_{number:03d}.nii.gz")


def startup_seconds(bundle: Path) -> float:
    """From the start of one worker until its network is loaded; its files are in the system's memory by then."""
    start = time.perf_counter()
    with LocalProcesses(bundle, 1):
        return time.perf_counter() - start


def run_alone(scans: Path, out: Path, bundle: Path) -> tuple[float, float]:
    """Sum of the scans' seconds, and peak megabytes."""
    command = [sys.executable, "-P", "-c", ALONE, str(scans), str(out), str(bundle)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with PeakMemory() as memory:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(done.stdout), memory.peak_mb


def run_batch(scans: Path, out: Path, bundle: Path, workers: int) -> tuple[float, float]:
    """Seconds and peak megabytes of a batch."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        result = assess_directory(scans, out, bundle=bundle, workers=workers, overwrite=True)
        seconds = time.perf_counter() - start
    assert result.failed == 0
    return seconds, memory.peak_mb


def measure(folder: Path, scans: int, bundle: Path) -> tuple[Run, ...]:
    """The scans alone, and as batches of one and of two workers."""
    write_phantoms(folder / "scans", scans)
    alone_s, alone_mb = run_alone(folder / "scans", folder / "alone", bundle)
    runs = [Run("each alone", round(alone_s, 1), round(60 * scans / alone_s, 1), round(alone_mb), None)]
    for workers in (1, 2):
        seconds, peak_mb = run_batch(folder / "scans", folder / f"workers_{workers}", bundle, workers)
        overhead_pct = round(100 * (seconds / alone_s - 1), 1)
        name = f"{workers} worker{'s' * (workers > 1)}"
        runs.append(Run(name, round(seconds, 1), round(60 * scans / seconds, 1), round(peak_mb), overhead_pct))
    return tuple(runs)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.output / "scans", ignore_errors=True)  # those of a run with more of them
    runs = measure(arguments.output, arguments.scans, arguments.bundle)
    startup_s = round(startup_seconds(arguments.bundle), 1)
    print(f"{arguments.scans} phantoms   start-up of a worker {startup_s} s")
    print(f"{'run':12}{'seconds':>9}{'scans/min':>11}{'peak MB':>9}{'overhead %':>12}")
    for run in runs:
        overhead = "" if run.overhead_pct is None else f"{run.overhead_pct:+.1f}"
        print(f"{run.name:12}{run.seconds:9.1f}{run.scans_per_minute:11.1f}{run.peak_mb:9.0f}{overhead:>12}")
    content = {"scans": arguments.scans, "startup_seconds": startup_s, "runs": [asdict(run) for run in runs]}
    (arguments.output / "batch.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
