"""Semi-supervised training: the progressive pseudo labels of Semi-InfNet (Fan et al. 2020, algorithm 1).

In every round the current network labels the next unlabelled slices, drawn at random. They join the training set, and
the network is trained on. In the end it is trained on the labelled slices alone, as in the paper.

Deviations from the paper and its published code:

* A pseudo label is where the probability reaches a threshold. They stretch each map to its own range, in which every
  healthy slice has an infection.
* Slices of another brightness are matched to the labelled ones, see :func:`brighten`.
* Doubtful slices can be left out.
* A round starts from the running average of the weights of the round before.
* The end goes on from the last round. The paper first trains a fresh network on all pseudo labels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from covsev.scan import replacing
from covsev.training.data.orientations import mean_over_orientations
from covsev.training.data.records import Record
from covsev.training.data.resizing import resize_tensors
from covsev.training.evaluation.evaluation import read_grey
from covsev.training.fine_tuning import FineTuning
from covsev.training.semi.pseudo_schedule import ProgressiveSchedule, Stage

_DARK = 0.6
"""Level of soft tissue from which a slice is no longer dark, between the two kinds named in :func:`brighten`."""
_log = logging.getLogger(__name__)


# ---- labelling ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelling:
    """What a pseudo label is.

    Attributes:
        network_size: (height, width) of the network's grid.
        threshold: probability from which a pixel is infected.
        minimum_confidence: slices whose :func:`confidence` is lower do not join the training set; 0 takes all.
        tissue_level: brightness, 0..1, to which dark slices are brightened, see :func:`brighten`; ``None`` for none.
        all_orientations: take the mean over all eight flips and turns of a slice, which is better than the network is.

    Raises:
        ValueError: if a number is out of range, or ``network_size`` is to be turned and not square.
    """

    network_size: Sequence[int]
    threshold: float = 0.5
    minimum_confidence: float = 0.0
    tissue_level: float | None = None
    all_orientations: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1; got {self.threshold}")
        if not 0 <= self.minimum_confidence <= 1:
            raise ValueError(f"minimum_confidence must be in 0..1; got {self.minimum_confidence}")
        if self.tissue_level is not None and not _DARK <= self.tissue_level <= 1:
            raise ValueError(f"tissue_level must be in {_DARK}..1; got {self.tissue_level}")
        if self.all_orientations and self.network_size[0] != self.network_size[1]:
            raise ValueError(f"all_orientations needs a square network_size; got {tuple(self.network_size)}")

    @torch.no_grad()
    def probability(self, network: nn.Module, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Infection probability (H, W) of an 8-bit slice (H, W), as it is served; ``network`` in evaluation mode."""
        device = next(network.parameters()).device
        image = torch.from_numpy(grey.astype(np.float32) / 255)[None, None].to(device)
        network_input = resize_tensors(image, (self.network_size[0], self.network_size[1]))
        predict = partial(_probability, network)
        found = mean_over_orientations(predict, network_input) if self.all_orientations else predict(network_input)
        height, width = grey.shape
        at_size = resize_tensors(found, (height, width))[0, 0].clamp_(0, 1)  # rounding leaves the range by a little
        return at_size.cpu().numpy()  # type: ignore[no-any-return]

    def label(self, network: nn.Module, image: str | Path, stem: Path) -> dict[str, Any]:
        """Label a slice file.

        Args:
            network: in evaluation mode.
            image: path of the slice.
            stem: ``<stem>_mask.png`` is written, 0 and 255, and ``<stem>_image.png`` if the slice was brightened.

        Returns:
            what is known about the label, for a JSON file.
        """
        original = read_grey(image)
        grey = original if self.tissue_level is None else brighten(original, self.tissue_level)
        probability = self.probability(network, grey)
        mask = probability >= self.threshold
        # Saved as the radiologist's masks are, so that training reads both in one way.
        _save_png(mask.astype(np.uint8) * np.uint8(255), stem.with_name(f"{stem.name}_mask.png"))
        if grey is not original:  # the label is of the brightened slice, so that is what is trained on
            _save_png(grey, stem.with_name(f"{stem.name}_image.png"))
        certainty = confidence(probability, self.threshold)
        return {
            "image": Path(image).name,
            "brightened": grey is not original,
            "infected_fraction": round(float(mask.mean()), 6),
            "confidence": round(certainty, 6),
            "used": certainty >= self.minimum_confidence,
        }


def _probability(network: nn.Module, image: Tensor) -> Tensor:
    outputs = network(image)
    logits = outputs[0] if isinstance(outputs, tuple) else outputs  # the finest of an InfNet's maps comes first
    return torch.sigmoid(logits)


def brighten(grey: NDArray[np.uint8], tissue_level: float) -> NDArray[np.uint8]:
    """Make a slice that was scaled by its own extremes look like one under the lung window.

    Scaled by air and bone, soft tissue is as grey as ground glass under the window, and is taken for it. The level of
    soft tissue is the 85th percentile: in COVID-SemiSeg up to 0.46 in such slices, 0.73 to 1.0 in all others, with a
    median of 0.86 in the labelled ones.

    Args:
        grey: (H, W), cropped to the chest.
        tissue_level: what soft tissue becomes, 0..1.

    Returns:
        (H, W); ``grey`` itself if soft tissue is at 0.6 or more already, or nothing but black.
    """
    level = float(np.percentile(grey, 85)) / 255
    if level >= _DARK or level == 0:  # 0: nothing but black, which no factor brightens
        return grey
    return (grey * (tissue_level / level)).round().clip(0, 255).astype(np.uint8)


def confidence(probability: NDArray[np.float32], threshold: float) -> float:
    """How sure a network is of its mask, 0..1: the soft Dice of probability (H, W) and mask.

    Where nothing is infected, it is 1 - the highest probability.
    """
    mask = probability >= threshold
    if not mask.any():
        return 1 - float(probability.max())
    shared = probability[mask].sum()
    both = probability.sum() + mask.sum()
    return float(2 * shared / both)


# ---- the rounds ---------------------------------------------------------------------------------------------------


def train_progressively(
    fine_tuning: FineTuning,
    labelling: Labelling,
    schedule: ProgressiveSchedule,
    *,
    start: str | Path | None,
    labelled: Sequence[Record],
    unlabelled: Sequence[Record],
    output_dir: str | Path | None,
) -> Path:
    """Run all rounds, and the end; a stage whose weights are already in ``output_dir`` is skipped.

    Writes for each stage ``<stage>.pt``, the averaged weights; ``<stage>.json``, from what it was made and what is
    known about its pseudo labels; ``<stage>/*_mask.png``, those labels; and in the end ``model.pt``, the last weights.
    An interrupted run, started again, ends with the weights of an uninterrupted one.

    Args:
        fine_tuning: how the network is trained on.
        labelling: how it labels.
        schedule: when.
        start: weights of the supervised network, ``model.pt`` of a run of ``train.yaml``.
        labelled: records with ``image`` and ``infection``, see :func:`covsev.training.data.manifests.load_datalist`.
        unlabelled: records with ``image``.
        output_dir: folder, made if missing.

    Returns:
        path of ``model.pt``.

    Raises:
        FileNotFoundError: if ``start`` is not a file.
        ValueError: if ``output_dir`` is not named, ``start`` does not fit the network, or ``output_dir`` holds a
            stage that was made from something else.
    """
    if output_dir is None:
        raise ValueError("output_dir is not named")
    if start is None or not Path(start).is_file():
        raise FileNotFoundError(f"start: {start} is not a file; name the weights of the supervised network")
    folder, weights = Path(output_dir), Path(start)
    pseudo: list[dict[str, str]] = []
    folder.mkdir(parents=True, exist_ok=True)
    # Labels are written before the weights: a stage without weights is begun anew, one with them is complete.
    for stage in schedule.stages(len(unlabelled)):
        origin = _origin(stage, weights, fine_tuning, labelling, labelled, unlabelled, pseudo)
        path = folder / f"{stage.name}.pt"
        if path.is_file():
            slices = _skip(path.with_suffix(".json"), origin)
        else:
            _load(fine_tuning.network, weights)
            slices = _label_share(stage, fine_tuning.network, labelling, unlabelled, folder / stage.name)
            _write_json(path.with_suffix(".json"), {"made_from": origin, "slices": slices})
        # Of skipped stages, too: later rounds train on the labels of all earlier ones.
        pseudo += _records(slices, unlabelled, folder / stage.name)
        if not path.is_file():
            further = [] if stage.labelled_only else pseudo
            _save(fine_tuning(labelled, further, epochs=stage.epochs, seed=stage.seed), path)
        weights = path
    # A copy under a fixed name, so that other configurations need not know how many stages there were.
    with replacing(folder / "model.pt") as temporary:
        shutil.copyfile(weights, temporary)
    return folder / "model.pt"


def _origin(
    stage: Stage,
    weights: Path,
    fine_tuning: FineTuning,
    labelling: Labelling,
    labelled: Sequence[Record],
    unlabelled: Sequence[Record],
    pseudo: Sequence[Record],
) -> dict[str, Any]:
    """All that a stage's weights depend on, as JSON has it."""
    origin = {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "labelled": [record.get("name") or Path(record["image"]).name for record in labelled],
        "images": [Path(unlabelled[position]["image"]).name for position in stage.share],
        "pseudo_labelled_before": len(pseudo),
        **asdict(stage),
        **asdict(labelling),
        **fine_tuning.numbers(),
    }
    # There and back, since it is compared with what was read from a file: tuples are lists there.
    return json.loads(json.dumps(origin))  # type: ignore[no-any-return]


def _skip(path: Path, origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The slices of a finished stage."""
    if not path.is_file():
        raise ValueError(f"{path} is missing beside its weights; choose another output_dir")
    known = json.loads(path.read_text())
    made_from = known["made_from"]
    other = sorted(key for key, value in origin.items() if made_from.get(key) != value)
    if other:
        raise ValueError(f"{path}: made from other {', '.join(other)}; choose another output_dir")
    _log.info("%s is done: skipped", path.stem)
    return known["slices"]  # type: ignore[no-any-return]


def _load(network: nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises anything on broken files; the cause stays attached
        raise ValueError(f"{path}: weights do not fit the network ({type(error).__name__})") from error


def _label_share(
    stage: Stage, network: nn.Module, labelling: Labelling, unlabelled: Sequence[Record], folder: Path
) -> list[dict[str, Any]]:
    if not stage.share:
        return []
    folder.mkdir(exist_ok=True)
    network.eval()  # the training of the last round has left it in training mode
    slices = []
    for position in stage.share:
        image = Path(unlabelled[position]["image"])
        slices.append({"position": position} | labelling.label(network, image, folder / f"{position:05d}"))
    used = sum(entry["used"] for entry in slices)
    _log.info("%s: %d slices labelled, %d of them used", stage.name, len(slices), used)
    return slices


def _records(slices: Sequence[Record], unlabelled: Sequence[Record], folder: Path) -> list[dict[str, str]]:
    """Training records of the pseudo labels that are used."""
    records = []
    for entry in slices:
        if entry["used"]:
            position = entry["position"]
            stem = folder / f"{position:05d}"
            image = f"{stem}_image.png" if entry["brightened"] else str(unlabelled[position]["image"])
            records.append({"image": image, "infection": f"{stem}_mask.png"})
    return records


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    with replacing(path) as temporary:
        torch.save(dict(state), temporary)


def _save_png(grey: NDArray[np.uint8], path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG")
