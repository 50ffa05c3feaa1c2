"""Weights to ship: half precision, one file, its hash printed.

python -m covsev.training.ship runs/all/model.pt bundles/covid_infection_ct_segmentation/models/model.pt
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from covsev.scan import replacing


def ship(checkpoint: Path, target: Path) -> str:
    """Write the network of ``checkpoint`` to ``target`` in half precision and return the file's SHA-256.

    Half precision rounds weights by less than 0.05 %; :func:`covsev.lesions.model.make_model` widens them again.

    Args:
        checkpoint: a state dict, as ``train.yaml`` writes it.
        target: the bundle's ``models/model.pt``.

    Raises:
        ValueError: if ``checkpoint`` is no state dict, or a weight is not finite.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # A checkpoint of a run holds dictionaries, among them the optimizer's numbers, and is not to be shipped.
    tensors = (isinstance(value, torch.Tensor) for value in content.values())
    if not content or not all(tensors):
        raise ValueError(f"{checkpoint}: not a state dict; is it a model.pt of train.yaml?")
    half = {name: value.half() if value.is_floating_point() else value for name, value in content.items()}
    # Asked after the rounding: half precision ends at 65504, and a larger weight becomes infinite.
    broken = [name for name, value in half.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{checkpoint}: {broken[0]} is not finite in half precision")
    # In one step: a bundle with half of its weights would be worse than one with the old ones.
    with replacing(target) as temporary:
        torch.save(half, temporary)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m covsev.training.ship")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    print(ship(options.checkpoint, options.target))


if __name__ == "__main__":
    main()
