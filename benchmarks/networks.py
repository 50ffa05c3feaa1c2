"""How long the lesion network takes for a slice, beside other networks, and what runtimes and precisions change.

    python benchmarks/networks.py --json networks.json [--rounds 5] [--batch 8]
    python benchmarks/networks.py --scan covid_R082_crop.nii.gz [--slices 16]

The first runs all networks in turn, round by round, so that a busy machine is busy for all of them, and prints medians
over the rounds. covsev's time is that of a batch of slices of 400 x 320 pixels, the lungs' box of an adult, from HU to
probabilities on the slices' own pixels. Of the others it is the network alone on an image of its size, as torch runs
it, the speed of a network not depending on its weights:

- Inf-Net (Fan et al. 2020, doi 10.1109/TMI.2020.2996645) with Res2Net-50 at 352 x 352,
- the U-Net of lungmask's R231 (Hofmanninger et al. 2020, doi 10.1186/s41747-020-00173-2) at 256 x 256,
- MONAI's BasicUNet and FlexibleUNet with EfficientNet-B0, as MONAI sets them, at 256 x 256.

The second prints the share of a scan's lung voxels whose label differs from that of torch in float32, on the slices
in the middle of the lungs. bfloat16 is imitated, slowly, where the processor does not have it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, FlexibleUNet
from numpy.typing import NDArray
from torch import Tensor, nn

from covsev.anatomy.lungs.segment import segment_lungs
from covsev.assessment import lung_model_for
from covsev.inference.runtime import Bfloat16Network
from covsev.inference.torch_runner import TorchRunner
from covsev.lesions.model import LesionModel, load_model
from covsev.lesions.volume import segment_lesions
from covsev.networks import InfNet
from covsev.options import INFECTION_BUNDLE, Options
from covsev.scan import Scan, load_scan, to_canonical

SLICE_SHAPE = (400, 320)
OURS = "covsev, default runtime, with resizing"


@dataclass(frozen=True)
class Contender:
    """``run`` computes one batch of square images of ``side`` pixels."""

    name: str
    side: int
    run: Callable[[], object]


class R231UNet(nn.Module):
    """The U-Net (Ronneberger et al. 2015) in the form that lungmask describes for R231.

    Five levels of 64 to 1024 channels, each two padded 3 x 3 convolutions with ReLU and batch norm; transposed
    convolutions upwards; one grey channel in, background and two lungs out. From github.com/JoHof/lungmask.
    """

    def __init__(self, levels: Sequence[int] = (64, 128, 256, 512, 1024), classes: int = 3):
        super().__init__()
        self.down = nn.ModuleList(_two_convs(a, b) for a, b in pairwise((1, *levels)))
        upwards = levels[::-1]
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairwise(upwards))
        self.up = nn.ModuleList(_two_convs(a, b) for a, b in pairwise(upwards))
        self.last = nn.Conv2d(levels[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, kept = image, []
        for level in self.down:
            x = level(x if not kept else F.avg_pool2d(x, 2))
            kept.append(x)
        for enlarge, level, skip in zip(self.enlarge, self.up, kept[-2::-1], strict=True):
            x = level(torch.cat((enlarge(x), skip), dim=1))
        return self.last(x)


def _two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers)


def peers() -> dict[str, tuple[nn.Module, int]]:
    """Other networks, with the side of their images."""
    return {
        "Inf-Net, Res2Net-50": (InfNet("res2net50"), 352),
        "U-Net of lungmask R231": (R231UNet(), 256),
        "MONAI BasicUNet": (BasicUNet(spatial_dims=2, in_channels=1, out_channels=1), 256),
        "MONAI FlexibleUNet, EfficientNet-B0": (FlexibleUNet(1, 1, "efficientnet-b0", pretrained=False), 256),
    }


def covsev_contender(name: str, model: LesionModel, batch: int) -> Contender:
    """From HU to probabilities."""
    slices = np.linspace(-1024, 300, SLICE_SHAPE[0] * SLICE_SHAPE[1] * batch).reshape(*SLICE_SHAPE, batch)
    side = model.preprocessing.network_size[0]
    return Contender(name, side, lambda: model.predict(model.preprocessing(slices.astype(np.int16)), SLICE_SHAPE))


def peer_contender(name: str, network: nn.Module, side: int, batch: int) -> Contender:
    """The network alone."""
    image, network = torch.rand(batch, 1, side, side), network.eval()

    def run() -> object:
        with torch.inference_mode():
            return network(image)

    return Contender(name, side, run)


def measure(contenders: Sequence[Contender], *, rounds: int, batch: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds a slice of each contender in each round, by the clock and of the processor; a first run is free."""
    times: dict[str, dict[str, list[float]]] = {one.name: {"wall_ms": [], "cpu_ms": []} for one in contenders}
    for one in contenders:
        one.run()
    for _ in range(rounds):
        for one in contenders:
            wall, cpu = time.perf_counter(), time.process_time()
            one.run()
            times[one.name]["wall_ms"].append(1000 * (time.perf_counter() - wall) / batch)
            times[one.name]["cpu_ms"].append(1000 * (time.process_time() - cpu) / batch)
    return times


def summarise(times: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Medians, and medians over the rounds of how many times the time of :data:`OURS` each takes."""
    summary = {}
    for name, own in times.items():
        ratios = {kind: np.divide(values, times[OURS][kind]) for kind, values in own.items()}
        summary[name] = {kind: float(np.median(values)) for kind, values in own.items()}
        summary[name] |= {kind.replace("_ms", "_ratio"): float(np.median(values)) for kind, values in ratios.items()}
    return summary


def table(contenders: Sequence[Contender], summary: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        "| network | side | ms a slice | times covsev | CPU ms a slice | times covsev |",
        "|---|---|---|---|---|---|",
    ]
    for one in contenders:
        row = summary[one.name]
        lines.append(
            f"| {one.name} | {one.side} | {row['wall_ms']:.1f} | {row['wall_ratio']:.2f} | {row['cpu_ms']:.1f} | "
            f"{row['cpu_ratio']:.2f} |"
        )
    return "\n".join(lines)


def compare_speed(*, rounds: int, batch: int, target: Path | None) -> None:
    """Print the table of the first command; write times and versions into ``target``."""
    model, eager = load_model(INFECTION_BUNDLE), load_model(INFECTION_BUNDLE, runtime="torch")
    contenders = [
        covsev_contender(OURS, model, batch),
        covsev_contender("covsev, torch, with resizing", eager, batch),
        *(peer_contender(name, network, side, batch) for name, (network, side) in peers().items()),
    ]
    times = measure(contenders, rounds=rounds, batch=batch)
    summary = summarise(times)
    setup = f"{model.runs_on}, {torch.get_num_threads()} threads, batches of {batch}, medians of {rounds} rounds"
    print(f"{setup}\n\n{table(contenders, summary)}")
    if target is not None:
        content = {"setup": setup, "versions": _versions(), "medians": summary, "rounds": times}
        target.write_text(json.dumps(content, indent=2) + "\n")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "openvino", "monai") if find_spec(name)}


def middle_of(lungs: NDArray[np.uint8], scan: Scan, slices: int) -> NDArray[np.uint8]:
    """Lung labels of ``slices`` axial slices in the middle of the lungs, the others emptied."""
    kept = lungs.copy()
    canonical = to_canonical(kept, scan.affine)  # a view
    levels = np.flatnonzero(canonical.any(axis=(0, 1)))
    first = max(0, (len(levels) - slices) // 2)
    rest = np.setdiff1d(levels, levels[first : first + slices])
    canonical[:, :, rest] = 0
    return kept


def changed_share(scan: Scan, lungs: NDArray[np.uint8], models: Mapping[str, LesionModel]) -> dict[str, float]:
    """Share of lung voxels whose lesion label is another than that of the first of ``models``."""
    first, *others = models
    expected = segment_lesions(scan, lungs, models[first]).labels
    return {
        name: float((segment_lesions(scan, lungs, models[name]).labels != expected)[lungs > 0].mean())
        for name in others
    }


def models_to_compare() -> dict[str, LesionModel]:
    """Torch in float32, the default, and torch in bfloat16."""
    eager = load_model(INFECTION_BUNDLE, runtime="torch")
    runner = TorchRunner(Bfloat16Network(eager.network).eval())
    lower = eager.with_slice_network(runner=runner, runs_on="torch in bf16 on cpu")
    return {model.runs_on: model for model in (eager, load_model(INFECTION_BUNDLE), lower)}


def compare_masks(path: Path, slices: int) -> None:
    """Print the shares of the second command."""
    scan = load_scan(path)
    lungs = middle_of(segment_lungs(scan, lung_model_for(Options())).labels, scan, slices)
    for name, share in changed_share(scan, lungs, models_to_compare()).items():
        print(f"{name}: {100 * share:.4f} % of {np.count_nonzero(lungs)} lung voxels have another label")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="slices")
    parser.add_argument("--json", type=Path, help="where all times go")
    parser.add_argument("--scan", type=Path, help="compare masks of this scan in place of speed")
    parser.add_argument("--slices", type=int, default=16, help="of the scan")
    options = parser.parse_args(arguments)
    if options.scan:
        compare_masks(options.scan, options.slices)
    else:
        compare_speed(rounds=options.rounds, batch=options.batch, target=options.json)


if __name__ == "__main__":
    main()
