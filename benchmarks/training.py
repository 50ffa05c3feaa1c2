"""How fast the single network trains with each of the settings that could make it faster.

    python benchmarks/training.py COVID_SEMISEG --json training.json [--rounds 3] [--steps 4] [--device cuda]

Trains by the bundle's own configuration, train.yaml: its network, slices, augmentation, loss and optimiser. Settings
take turns, a few steps each, so that a busy machine is busy for all of them. Printed are epochs per minute, from the
median time of a step with its data, and how many times faster that is than the plain setting: float32, channels first,
slices decoded and resized again each time. A setting that this machine cannot run, or not usefully, is named with the
reason.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from covsev.inference.runtime import find_device, has_bfloat16
from covsev.options import INFECTION_BUNDLE

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """One way to train; the defaults are those of train.yaml."""

    name: str
    cached: bool = True
    channels_last: bool = True
    precision: str = "f32"
    compiled: bool = False


SETTINGS = (
    Setting("plain", cached=False, channels_last=False),
    Setting("cached slices", channels_last=False),
    Setting("cached slices, channels last (train.yaml)"),
    Setting("the same, bfloat16 autocast", precision="bf16"),
    Setting("the same, float16 autocast with scaled loss", precision="f16"),
    Setting("the same, torch.compile", compiled=True),
)


def reason_to_skip(setting: Setting, device: torch.device) -> str | None:
    """Why ``setting`` is not measured on ``device``; ``None`` if it is."""
    if setting.precision == "bf16" and not has_bfloat16(device):
        return f"the {device.type} has no bfloat16 arithmetic"
    if setting.precision == "f16" and device.type == "cpu":
        return "float16 is for GPUs"
    if setting.compiled and device.type == "cpu":
        return "compiling takes minutes; it is for GPUs"
    return None


class Training:
    """The training of train.yaml in one setting, step by step."""

    def __init__(self, setting: Setting, device: torch.device, overrides: dict[str, object]) -> None:
        self.setting, self.device = setting, device
        parser = ConfigParser()
        parser.read_config(str(INFECTION_BUNDLE / "configs" / "train.yaml"))
        for name, value in overrides.items():
            parser[name] = value
        parser["device"] = f"$torch.device('{device}')"
        if not setting.cached:
            parser["train#dataset#_target_"] = "monai.data.Dataset"
            del parser["train#dataset"]["progress"]
        self.network: nn.Module = parser.get_parsed_content("network")
        if not setting.channels_last:
            self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.optimizer = parser.get_parsed_content("optimizer")
        self.forward = torch.compile(self.network) if setting.compiled else self.network
        self.loss = parser.get_parsed_content("loss")
        self.prepare_batch = parser.get_parsed_content("train#prepare_batch")
        self.loader = parser.get_parsed_content("train#dataloader")
        self.batches: Iterator[dict[str, torch.Tensor]] = chain.from_iterable(repeat(self.loader))
        self.scaler = torch.amp.GradScaler(device.type, enabled=setting.precision == "f16")

    def step(self) -> float:
        """The loss of a batch, after which the weights have moved."""
        image, label = self.prepare_batch(next(self.batches), self.device)
        if self.setting.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        dtype = DTYPES[self.setting.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = self.loss(self.forward(image), label)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())  # waits for the GPU


def measure(trainings: Sequence[Training], *, rounds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Seconds a step of each training in each round, by the clock and of the processor; a first step is free."""
    times: dict[str, dict[str, list[float]]] = {one.setting.name: {"wall_s": [], "cpu_s": []} for one in trainings}
    for one in trainings:
        one.step()
    for _ in range(rounds):
        for one in trainings:
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(steps):
                one.step()
            times[one.setting.name]["wall_s"].append((time.perf_counter() - wall) / steps)
            times[one.setting.name]["cpu_s"].append((time.process_time() - cpu) / steps)
    return times


def table(times: dict[str, dict[str, list[float]]], skipped: dict[str, str], steps_per_epoch: int) -> str:
    plain = next(iter(times.values()))
    lines = ["| setting | epochs a minute | times plain | CPU s a step | times plain |", "|---|---|---|---|---|"]
    for name, own in times.items():
        wall, cpu = (float(np.median(np.divide(plain[kind], own[kind]))) for kind in ("wall_s", "cpu_s"))
        epochs = 60 / (float(np.median(own["wall_s"])) * steps_per_epoch)
        lines.append(f"| {name} | {epochs:.2f} | {wall:.2f} | {np.median(own['cpu_s']):.2f} | {cpu:.2f} |")
    lines += [f"| {name} | not measured: {reason} | | | |" for name, reason in skipped.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--manifest", default="covid_semiseg")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of each setting in a round")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--json", type=Path, help="where all times go")
    options = parser.parse_args(arguments)
    device = find_device(options.device)
    reasons = {one.name: reason_to_skip(one, device) for one in SETTINGS}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    overrides = {
        "dataset_dir": str(options.dataset_dir),
        "manifest": options.manifest,
        "network_size": [options.size, options.size],
    }
    trainings = [Training(one, device, dict(overrides)) for one in SETTINGS if one.name not in skipped]
    times = measure(trainings, rounds=options.rounds, steps=options.steps)
    steps_per_epoch = len(trainings[0].loader)
    setup = f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {steps_per_epoch} steps an epoch"
    print(f"{setup}\n\n{table(times, skipped, steps_per_epoch)}")
    if options.json:
        options.json.write_text(json.dumps({"setup": setup, "seconds": times, "skipped": skipped}, indent=2) + "\n")


if __name__ == "__main__":
    main()
