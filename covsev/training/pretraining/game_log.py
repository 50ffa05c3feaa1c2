"""What one sees of the game: a CSV of losses and mask hardness, a plot of it, and sample masks."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Events
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from covsev.networks.coach import Coach, random_masks
from covsev.scan import replacing
from covsev.training.pretraining.inpainting import CoachGame, ReconstructionLoss, erase

Row = dict[str, Any]
"""One epoch of the game, by the columns of ``game.csv``."""
_PICTURED = 4
"""Slices in a sheet of samples. They are the first of the probe, so that epochs can be compared."""


class Hardness(NamedTuple):
    """L_rec of one frozen inpainter on two kinds of hard masks of equal area."""

    coach_mask_loss: float
    random_mask_loss: float

    @property
    def difference(self) -> float:
        """How much harder the coach's masks are than random ones."""
        return self.coach_mask_loss - self.random_mask_loss


@torch.no_grad()
def mask_hardness(
    inpainter: nn.Module,
    coach: Coach,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    loss_function: ReconstructionLoss | None = None,
    random_draws: int = 4,
    seed: int = 0,
) -> Hardness:
    """Measure the coach's masks against random ones, both networks in evaluation mode, in which they are left.

    Args:
        inpainter: a :class:`covsev.networks.InpaintingInfNet`.
        coach: on the inpainter's device.
        batches: ``{"image": (B, 1, H, W), "edge": (B, 1, H, W)}`` in [0, 1], all of one size.
        loss_function: L_rec.
        random_draws: random masks an image, averaged.
        seed: of the random masks, which are the same at every call.

    Raises:
        ValueError: if there is no batch.
    """
    loss_function = loss_function if loss_function is not None else ReconstructionLoss()
    generator = torch.Generator().manual_seed(seed)
    device = next(inpainter.parameters()).device
    # Evaluation mode: batch norm must not learn from the probe, nor depend on what else is in a batch.
    inpainter.eval()
    coach.eval()
    coached: list[float] = []
    at_random: list[float] = []
    for batch in batches:
        image, edge = batch["image"].to(device), batch["edge"].to(device)
        # Several draws, averaged: one random mask may be easy or hard by chance.
        chance = (
            random_masks(len(image), image.shape[-2:], coach.kept_fraction, generator=generator).to(device)
            for _ in range(random_draws)
        )
        # Hard masks of both: a soft one erases every pixel in part, and cannot be compared.
        for losses, masks in ((coached, [coach(image, hard=True)]), (at_random, chance)):
            losses += [loss_function(inpainter(erase(image, mask)), image, edge, mask).item() for mask in masks]
    if not coached:
        raise ValueError("no batch to measure mask hardness on")
    return Hardness(float(np.mean(coached)), float(np.mean(at_random)))


class GameLog:
    """Handler that writes down every epoch of a :class:`~covsev.training.pretraining.inpainting.CoachGame`.

    Into ``output_dir``: ``game.csv``, one row an epoch; ``mask_hardness.png``; and ``masks/epoch_0010.png``. The
    rows are also the epoch's metrics in the engine's state, and part of the checkpoint, so that a continued run
    continues the table.

    Args:
        output_dir: folder, made if missing.
        probe: batches of images, never augmented, on which the masks are measured and pictured after every epoch.
        picture_every: epochs between two plots and pictures; the last epoch has them in any case.
        random_draws: see :func:`mask_hardness`.
    """

    def __init__(
        self,
        output_dir: str | Path,
        probe: Iterable[Mapping[str, Tensor]],
        *,
        picture_every: int = 1,
        random_draws: int = 4,
    ):
        self.output_dir = Path(output_dir)
        self.probe = probe
        self.picture_every = picture_every
        self.random_draws = random_draws
        self.rows: list[Row] = []
        self._losses: list[float] = []

    def attach(self, engine: CoachGame) -> None:
        """Listen to ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remember)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the rows of a checkpoint."""
        self.rows = list(state["rows"])

    def _remember(self, engine: CoachGame) -> None:
        self._losses.append(engine.state.output["reconstruction_loss"])

    def _write(self, engine: CoachGame) -> None:
        row = self._row(engine)
        self.rows.append(row)
        self._losses.clear()  # the list of the next epoch
        engine.state.metrics = {key: value for key, value in row.items() if isinstance(value, float)}
        self.output_dir.mkdir(parents=True, exist_ok=True)
        # The whole table anew: so a continued run drops the rows that were written after its checkpoint.
        write_rows(self.rows, self.output_dir / "game.csv")
        last = engine.state.epoch == engine.state.max_epochs
        if engine.state.epoch % self.picture_every == 0 or last:
            plot_hardness(self.rows, self.output_dir / "mask_hardness.png")
            self._picture(engine, self.output_dir / "masks" / f"epoch_{engine.state.epoch:04d}.png")

    def _row(self, engine: CoachGame) -> Row:
        hardness = mask_hardness(
            engine.inpainter,
            engine.coach,
            self.probe,
            loss_function=engine.loss_function,
            random_draws=self.random_draws,
            seed=engine.seed,
        )
        turn, l_rec = engine.turn, float(np.mean(self._losses))
        return {
            "epoch": engine.state.epoch,
            "player": turn.player,
            "masks": "random" if turn.random_masks else "coach",
            "learning_rate": turn.learning_rate if turn.player == "inpainter" else _rate(engine.coach_optimizer),
            "reconstruction_loss": l_rec,
            "coach_loss": 1 - l_rec if turn.player == "coach" else None,
            "coach_mask_loss": hardness.coach_mask_loss,
            "random_mask_loss": hardness.random_mask_loss,
            "mask_hardness": hardness.difference,
        }

    @torch.no_grad()
    def _picture(self, engine: CoachGame, path: Path) -> None:
        image = next(iter(self.probe))["image"][:_PICTURED].to(engine.state.device)
        mask = engine.coach(image, hard=True)
        erased = erase(image, mask)
        painted = engine.inpainter(erased).s3.clamp(0, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        mended = image * mask + painted * (1 - mask)  # painted where it was erased, else the slice itself
        save_sheet((image, mask, erased, painted, mended), path)


def _rate(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def write_rows(rows: list[Row], path: Path) -> None:
    """Write ``rows``, all of the same keys, as CSV; what does not apply is empty."""
    # In one step, so that whoever looks at the table during the game never sees half of it.
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def save_sheet(columns: Iterable[Tensor], path: Path) -> None:
    """Save images as one PNG: each of ``columns`` is (B, 1, H, W) in [0, 1], one row an image."""
    grid = torch.cat(list(columns), dim=3)[:, 0].flatten(0, 1)
    pixels = (grid * 255).round().to(torch.uint8).cpu().numpy()
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")


def plot_hardness(rows: list[Row], path: Path) -> None:
    """Plot both losses and their difference over the epochs; the coach's turns are shaded."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, difference = figure.subplots(2, 1, sharex=True)
    epochs = [row["epoch"] for row in rows]
    for key, label in (("coach_mask_loss", "the coach's masks"), ("random_mask_loss", "random masks, equal area")):
        losses.plot(epochs, [row[key] for row in rows], marker=".", label=label)
    losses.set(ylabel="reconstruction loss", title="Frozen inpainter, probe slices")
    losses.legend()
    difference.plot(epochs, [row["mask_hardness"] for row in rows], marker=".", color="black")
    difference.axhline(0, color="grey", linewidth=0.8)
    difference.set(xlabel="epoch (shaded: the coach's turn)", ylabel="mask hardness")
    for row in rows:
        if row["player"] == "coach":
            for axes in (losses, difference):
                axes.axvspan(row["epoch"] - 0.5, row["epoch"] + 0.5, color="0.92", zorder=0)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
