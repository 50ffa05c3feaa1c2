"""Time and memory of single scans through the whole pipeline, stage by stage, and of the start.

    python benchmarks/pipeline.py [SCAN ...] [--slices 100 300 600 1000] [--peer 60] [--neighbours N] [--json FILE]

``--slices`` makes synthetic chests of 512x512xN voxels, whose lungs go through nearly all slices; thinner slices make
more of them. Every scan is read, assessed and written by a process of its own, with the shipped networks. Printed for
each stage: seconds by the clock, seconds of processor time, all threads together, and the largest resident memory so
far; and the time of ``covsev --help``, of ``covsev score`` on the first scan's masks, and from the start of Python to
the mask of one slice, once with nothing kept from an earlier start (cold) and once as always afterwards (warm).
``--peer`` runs Inf-Net's network alone (Res2Net-50, torch) on so many slices in the same run, so that a busy computer
does not matter: what counts is the ratio. ``--neighbours`` runs so many processes beside it that never rest, as on a
computer that is used for other work too. Masks are compressed while picture and page are made, so "writing" is all of
them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()  # of a child: all but Python's own start
SIDE_VOXELS, SIZE_MM = 512, (360.0, 270.0, 300.0)
DRAWN, NOISE_HU = (256, 256, 60), 12.0
STAGES = ("imports", "networks", "reading", "lungs", "lesions", "lobes", "severity", "writing")
KINDS = (
    ("wall_s", "seconds by the clock", 2),
    ("cpu_s", "seconds of processor time", 2),
    ("peak_mb", "largest memory up to the end of each stage, MB", 0),
)
STARTS = (
    ("help", "covsev --help"),
    ("first_slice_cold", "first slice, nothing kept"),
    ("first_slice", "first slice"),
    ("score", "covsev score"),
    ("peer", "Inf-Net's network alone"),
)
BUSY = "while True: pass"
PEER_SIDE = 352
"""Pixels: that of the published Inf-Net."""


# ---- in a process of its own ---------------------------------------------------------------------------------------


def draw(slices: int, path: Path) -> None:
    """Write a phantom whose drawn voxels are repeated, each with noise of its own, so that it compresses as a CT."""
    import nibabel as nib
    import numpy as np

    from covsev.phantom import make_phantom
    from covsev.scan.compression import open_gzip

    x_mm, y_mm, z_mm = (size / number for size, number in zip(SIZE_MM, DRAWN, strict=True))
    drawn = make_phantom((x_mm, y_mm, z_mm)).scan
    hu = np.empty((SIDE_VOXELS, SIDE_VOXELS, slices), dtype=np.int16, order="F")
    noise = np.random.default_rng(0)
    for z in range(slices):
        plane = drawn.hu[..., z * DRAWN[2] // slices].repeat(SIDE_VOXELS // DRAWN[0], 0)
        hu[..., z] = plane.repeat(SIDE_VOXELS // DRAWN[1], 1) + noise.normal(0, NOISE_HU, hu.shape[:2])
    scale = np.divide(DRAWN, hu.shape)
    with open_gzip(path, "wb") as stream:
        nib.Nifti1Image(hu, drawn.affine @ np.diag([*scale, 1])).to_stream(stream)


class Stopwatch:
    """Wall and processor seconds by stage, added up where it comes again, and the process's peak memory at its end."""

    def __init__(self) -> None:
        self.wall_s, self.cpu_s, self.peak_mb = (dict.fromkeys(STAGES, 0.0) for _ in range(3))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall_s[name] += time.perf_counter() - wall
        self.cpu_s[name] += time.process_time() - cpu
        self.peak_mb[name] = peak_mb()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its calls counted as a stage."""

        def call(*args: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*args, **options)

        return call


def assess_one(path: Path, output: Path) -> dict[str, Any]:
    """Read, assess and write one scan; where the time went."""
    watch = Stopwatch()
    with watch.stage("imports"):
        from covsev import assessment
        from covsev.options import Options
        from covsev.report.outputs import write
        from covsev.scan import load_scan
    with watch.stage("networks"):
        model = assessment.shipped_model()
        assessment.lung_model_for(Options())  # kept, as the shipped lesion model is
    with watch.stage("reading"):
        scan = load_scan(path)
    functions = (
        (assessment, "segment_lungs", "lungs"),
        (assessment, "segment_lesions", "lesions"),
        (assessment, "segment_lobes", "lobes"),
        (assessment, "measure_masks", "severity"),
        (assessment, "check", "severity"),
    )
    for module, name, stage in functions:
        setattr(module, name, watch.timed(stage, getattr(module, name)))
    found = assessment.assess(scan, model)
    with watch.stage("writing"):
        write(found, output)
    return {
        "scan": path.name.removesuffix(".gz").removesuffix(".nii"),
        "shape": scan.hu.shape,
        "wall_s": watch.wall_s,
        "cpu_s": watch.cpu_s,
        "total_wall_s": time.perf_counter() - STARTED,
        "total_cpu_s": time.process_time(),
        "peak_mb": watch.peak_mb,
        "total_peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Largest resident memory of this process so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def first_slice() -> dict[str, float]:
    """From nothing loaded to the mask of one 8-bit slice."""
    import numpy as np

    from covsev.lesions.model import load_model
    from covsev.lesions.picture import segment_slice
    from covsev.options import DEFAULT_BUNDLE

    segment_slice(np.zeros((300, 400), dtype=np.uint8), load_model(DEFAULT_BUNDLE))
    return {"wall_s": time.perf_counter() - STARTED, "cpu_s": time.process_time()}


def peer(slices: int) -> dict[str, float]:
    """Inf-Net's network alone on so many slices, in batches of 4; its import and its making are not counted."""
    import torch

    from covsev.networks import InfNet

    network = InfNet("res2net50").eval()
    batch = torch.rand(4, 1, PEER_SIDE, PEER_SIDE)
    with torch.inference_mode():
        network(batch)  # the first call also plans
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, slices, len(batch)):
            network(batch[: slices - start])
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


# ---- the parent ----------------------------------------------------------------------------------------------------


def child(*arguments: str | Path, cache: Path | None = None) -> Any:
    """What another process of this script answers; ``cache`` in place of the usual folder of what is kept."""
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as the workers of `covsev severity` have it
    environment |= {} if cache is None else {"COVSEV_CACHE": str(cache)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def command_times(*arguments: str | Path) -> dict[str, float]:
    """Seconds of one command of covsev."""
    before, start = os.times(), time.perf_counter()
    command = [sys.executable, "-P", "-m", "covsev", *map(str, arguments)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": time.perf_counter() - start, "cpu_s": cpu_s}


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """So many processes that never rest."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def machine(busy: int) -> dict[str, Any]:
    """What the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": date.today().isoformat(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load_before": round(os.getloadavg()[0], 1),
        "neighbours": busy,
    }


def measure(scans: Sequence[Path], slices: Sequence[int], folder: Path, busy: int, peer_slices: int) -> dict[str, Any]:
    """All results; each scan is run by its own process."""
    phantoms = [folder / f"phantom_{number}.nii.gz" for number in slices]
    for number, path in zip(slices, phantoms, strict=True):
        child("--draw", number, path)
    content = {"machine": machine(busy)}
    out = folder / "out"
    with neighbours(busy):
        content["first_slice_cold"] = child("--first-slice", cache=folder / "cold")
    command_times("warm-up")  # done once for a computer, so not counted
    with neighbours(busy):
        content["help"], content["first_slice"] = command_times("--help"), child("--first-slice")
        if peer_slices:
            content["peer"] = child("--run-peer", peer_slices) | {"slices": peer_slices}
        content["scans"] = [child("--one", path, out) for path in (*phantoms, *scans)]
        if content["scans"]:
            content["score"] = command_times(*score_arguments(out, content["scans"][0]["scan"]), "-o", folder / "score")
    return content


def score_arguments(out: Path, case: str) -> list[str | Path]:
    """``covsev score`` of the masks of one scan."""
    masks = {kind: out / f"{case}_{kind}.nii.gz" for kind in ("lungs", "lobes", "lesions")}
    named = [(f"--{kind}", path) for kind, path in masks.items()]
    return ["score", *(part for pair in named for part in pair)]


def print_tables(content: dict[str, Any]) -> None:
    """Plain text tables."""
    print("  ".join(f"{name}: {value}" for name, value in content["machine"].items()))
    for name, title in STARTS:
        if name in content:
            print(f"{title}: {content[name]['wall_s']:.2f} s, processor {content[name]['cpu_s']:.2f} s")
    for kind, title, digits in KINDS:
        print(f"\n{title}\n{'scan':24}{'slices':>8}" + "".join(f"{stage:>10}" for stage in (*STAGES, "all")))
        for scan in content["scans"]:
            numbers = (*(scan[kind][stage] for stage in STAGES), scan[f"total_{kind}"])
            cells = "".join(f"{number:10.{digits}f}" for number in numbers)
            print(f"{scan['scan'][:24]:24}{scan['shape'][2]:8}{cells}")
    print(f"\n{'scan':24}{'ms a slice':>12}{'of processor':>14}{'largest stage':>26}")
    for scan in content["scans"]:
        number = scan["shape"][2]
        largest = max(STAGES, key=scan["cpu_s"].__getitem__)
        share_pct = 100 * scan["cpu_s"][largest] / scan["total_cpu_s"]
        ms = [1000 * scan[f"total_{kind}"] / number for kind in ("wall_s", "cpu_s")]
        print(f"{scan['scan'][:24]:24}{ms[0]:12.0f}{ms[1]:14.0f}{largest:>18}{share_pct:6.0f} %")
    if "peer" in content:
        print(f"\n{'scan':24}{'all, in times of the peer by the clock':>40}")
        for scan in content["scans"]:
            print(f"{scan['scan'][:24]:24}{scan['total_wall_s'] / content['peer']['wall_s']:40.2f}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="*")
    parser.add_argument("--slices", type=int, nargs="*", default=[])
    parser.add_argument("--peer", type=int, default=0, metavar="SLICES", help="run Inf-Net's network on so many, too")
    parser.add_argument("--neighbours", type=int, default=0)
    parser.add_argument("--json", type=Path)
    inner = parser.add_argument_group("what the processes of this script are called with")
    inner.add_argument("--one", type=Path, nargs=2, metavar=("SCAN", "OUTPUT"))
    inner.add_argument("--draw", nargs=2, metavar=("SLICES", "FILE"))
    inner.add_argument("--first-slice", action="store_true")
    inner.add_argument("--run-peer", type=int, metavar="SLICES")
    arguments = parser.parse_args()
    if arguments.draw:
        draw(int(arguments.draw[0]), Path(arguments.draw[1]))
        print("{}")
    elif arguments.one:
        print(json.dumps(assess_one(*arguments.one)))
    elif arguments.first_slice:
        print(json.dumps(first_slice()))
    elif arguments.run_peer:
        print(json.dumps(peer(arguments.run_peer)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            content = measure(arguments.scans, arguments.slices, Path(folder), arguments.neighbours, arguments.peer)
        print_tables(content)
        if arguments.json:
            arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
