"""A folder of tiny labelled and unlabelled slices with its manifest: what the training configurations run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from PIL import Image

from covsev.options import INFECTION_BUNDLE

CONFIGS = INFECTION_BUNDLE / "configs"
SIDE = 40


def write_toy_dataset(folder: Path, *, labelled: int = 6, unlabelled: int = 7) -> Path:
    """Dark slices, each with a bright square, the infection. Returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    content: dict[str, Any] = {"training": [], "unlabelled": []}
    for number in range(labelled + unlabelled):
        row, column = generator.integers(4, 20, 2)
        mask = np.zeros((SIDE, SIDE + 2), np.uint8)
        mask[row : row + 14, column : column + 14] = 255
        grey = generator.integers(20, 60, mask.shape).astype(np.uint8) + mask // 2
        patient = "ab"[number % 2]
        record = {"image": f"{patient}_{number}.png"}
        Image.fromarray(grey).save(folder / record["image"])
        if number < labelled:
            record["infection"] = f"mask_{number}.png"
            Image.fromarray(mask).save(folder / record["infection"])
            content["training"].append({**record, "fold": number % 2, "group": number})
        else:
            content["unlabelled"].append(record)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(content))
    return manifest


def parse_configs(*names: str, **overrides: Any) -> ConfigParser:
    """The bundle's configurations ``names``, read together as ``python -m monai.bundle run`` does."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    for name, value in overrides.items():
        assert name in parser, f"{name} is not in {names}"
        parser[name] = value
    return parser


def run_configs(*names: str, **overrides: Any) -> ConfigParser:
    """Initialize and run; returns the parser."""
    parser = parse_configs(*names, **overrides)
    parser.get_parsed_content("initialize")
    parser.get_parsed_content("run")
    return parser
