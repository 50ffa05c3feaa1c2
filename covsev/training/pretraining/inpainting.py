"""Pretraining by inpainting against a coach (Singh et al. 2018, BMVC; see :mod:`covsev.networks.coach`).

The inpainter paints what a mask erased and lowers the reconstruction loss L_rec; the coach chooses the masks and
lowers L_coach = 1 - L_rec. L_rec lies in [0, 1], so the game is well-posed. The inpainter starts on random masks.

The inpainter trains on hard masks unless told otherwise. The coach learns from soft ones, in which every pixel is
erased in part, and its gradient comes from the weights of the loss alone: the inpainter's painting is detached, as
in the published code.

Measured on COVID-SemiSeg (128 x 128, one frozen inpainter, 90 steps of Adam at 3e-4, one run each; L_rec of random
masks 0.157): so taught, the coach reaches 0.200, as much as erasing the cells of largest variance, with masks that
differ between images. Taught through the erased image alone it reaches 0.213, with nearly one mask for all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import Trainer
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from covsev.networks import InfNetOutput
from covsev.networks.coach import Coach, random_masks
from covsev.training.data.augmentation import GREY
from covsev.training.pretraining.game_schedule import GameSchedule, Turn
from covsev.training.resuming import ReseedEachEpoch, run_resumable

if TYPE_CHECKING:  # the log imports this module
    from covsev.training.pretraining.game_log import GameLog


def erase(image: Tensor, mask: Tensor) -> Tensor:
    """Replace what ``mask`` erases by grey.

    The published code erases to zero after subtracting the mean. On images in [0, 1] zero is air, so grey it is.

    Args:
        image: (B, 1, H, W) in [0, 1].
        mask: (B, 1, H, W) in [0, 1], 1 kept and 0 erased.
    """
    return image * mask + GREY * (1 - mask)


class ReconstructionLoss(_Loss):
    """L_rec: mean absolute error of all five outputs, in [0, 1], weighted towards the erased pixels.

    An output is clamped to [0, 1] before it is compared, but its gradient is not, so that an output beyond the
    range still learns. The published code takes the squared error, and sums it over the outputs.

    Args:
        erased_weight: weight of the mean over erased pixels (paper: 0.99); kept pixels have the rest.

    Raises:
        ValueError: if ``erased_weight`` is not between 0 and 1.
    """

    def __init__(self, *, erased_weight: float = 0.99):
        super().__init__()
        if not 0 <= erased_weight <= 1:
            raise ValueError(f"erased_weight must be between 0 and 1; got {erased_weight}")
        self.erased_weight = erased_weight

    def forward(self, outputs: InfNetOutput, image: Tensor, edge: Tensor, mask: Tensor) -> Tensor:
        """Mean over outputs and batch.

        Args:
            outputs: of :class:`covsev.networks.InpaintingInfNet`.
            image: (B, 1, H, W) in [0, 1], what S_3, S_4, S_5 and S_g should be.
            edge: (B, 1, H, W) in [0, 1], what the edge output should be.
            mask: (B, 1, H, W) in [0, 1], 1 kept and 0 erased, neither everywhere.

        Raises:
            ValueError: if the shapes differ.
        """
        for name, target in (("image", image), ("edge", edge), ("mask", mask)):
            if target.shape != outputs.s3.shape:
                raise ValueError(
                    f"{name} has shape {tuple(target.shape)}, but outputs have shape {tuple(outputs.s3.shape)}"
                )
        images = (outputs.s3, outputs.s4, outputs.s5, outputs.sg)
        errors = [_absolute_error(output, image) for output in images]
        errors.append(_absolute_error(outputs.edge, edge))
        error = torch.stack(errors).mean(dim=0)
        # Each part has its own mean, so that L_rec does not depend on how much was erased.
        erased, kept = _weighted_mean(error, 1 - mask), _weighted_mean(error, mask)
        kept_weight = 1 - self.erased_weight
        return self.erased_weight * erased + kept_weight * kept


def _absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Error of ``output`` clamped to [0, 1]; its gradient passes the clamp."""
    # What is added is a constant for the gradient, so it is that of ``output``.
    clamped = output + (output.clamp(0, 1) - output).detach()
    return (clamped - target).abs()


def _weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over the batch of every image's own weighted mean."""
    pixels = (1, 2, 3)
    return ((error * weight).sum(pixels) / weight.sum(pixels)).mean()


class CoachGame(Trainer):
    """Trains inpainter and coach by turns, on MONAI's engine.

    An epoch is a function of the weights, the optimizers and its own number: it starts by reseeding every source
    of randomness (Python, numpy, torch, the transforms, the order of the data) from ``seed`` and the epoch. So a
    run continued from the checkpoint of an epoch ends with the weights of a run that was never interrupted.

    Args:
        device: where to train.
        train_data_loader: batches ``{"image": (B, 1, H, W), "edge": (B, 1, H, W)}`` in [0, 1].
        inpainter: a :class:`covsev.networks.InpaintingInfNet`, on ``device``.
        coach: on ``device``. Its ``kept_fraction`` holds for random masks too.
        inpainter_optimizer: its learning rate is set by the schedule.
        coach_optimizer: keeps its learning rate (paper: Adam, 1e-5).
        schedule: who plays when.
        loss_function: L_rec.
        hard_masks: whether the inpainter trains on the coach's hard masks, or on its soft ones.
        epoch_length: batches an epoch; ``None`` takes all.
        seed: of the run.
        train_handlers: ignite or MONAI handlers.
    """

    def __init__(
        self,
        *,
        device: torch.device | str,
        train_data_loader: DataLoader,
        inpainter: nn.Module,
        coach: Coach,
        inpainter_optimizer: torch.optim.Optimizer,
        coach_optimizer: torch.optim.Optimizer,
        schedule: GameSchedule,
        loss_function: ReconstructionLoss | None = None,
        hard_masks: bool = True,
        epoch_length: int | None = None,
        seed: int = 0,
        train_handlers: Sequence[Any] | None = None,
    ):
        self.train_data_loader = train_data_loader
        self.inpainter = inpainter
        self.coach = coach
        self.inpainter_optimizer = inpainter_optimizer
        self.coach_optimizer = coach_optimizer
        self.schedule = schedule
        self.loss_function = loss_function if loss_function is not None else ReconstructionLoss()
        self.hard_masks = hard_masks
        self.seed = seed
        self.turn: Turn = schedule.turn(1)  # until the first epoch begins
        super().__init__(
            device=device,
            max_epochs=schedule.total_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            handlers=train_handlers,
            decollate=False,  # the losses are of whole batches
        )
        self._reseed = ReseedEachEpoch(train_data_loader, seed)
        self.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)

    def _begin_epoch(self) -> None:
        """Reseed, and wake the player whose turn it is."""
        self.turn = self.schedule.turn(self.state.epoch)
        self._reseed(self)
        inpainting = self.turn.player == "inpainter"
        # The other player rests in evaluation mode and without gradients: its batch norm must not move, either.
        self.inpainter.train(inpainting).requires_grad_(inpainting)
        self.coach.train(not inpainting).requires_grad_(not inpainting)
        # Set by hand: the rate falls within each phase of the inpainter and begins anew in the next.
        for group in self.inpainter_optimizer.param_groups:
            group["lr"] = self.turn.learning_rate

    def _iteration(self, engine: Engine, batchdata: Mapping[str, Tensor]) -> dict[str, float]:  # noqa: ARG002
        """One step of the player whose turn it is."""
        image, edge = (batchdata[key].to(self.state.device) for key in ("image", "edge"))
        if self.turn.player == "inpainter":
            return self._play_inpainter(image, edge)
        return self._play_coach(image, edge)

    def _play_inpainter(self, image: Tensor, edge: Tensor) -> dict[str, float]:
        mask = self._training_mask(image)
        l_rec = self.loss_function(self.inpainter(erase(image, mask)), image, edge, mask)
        _step(self.inpainter_optimizer, l_rec)
        return {"loss": l_rec.item(), "reconstruction_loss": l_rec.item()}

    def _play_coach(self, image: Tensor, edge: Tensor) -> dict[str, float]:
        mask = self.coach(image)
        # The painting is detached: the coach's gradient comes from the weights of the loss alone, see above.
        with torch.no_grad():
            outputs = self.inpainter(erase(image, mask))
        l_rec = self.loss_function(outputs, image, edge, mask)
        l_coach = 1 - l_rec
        _step(self.coach_optimizer, l_coach)
        return {"loss": l_coach.item(), "reconstruction_loss": l_rec.item()}

    @torch.no_grad()
    def _training_mask(self, image: Tensor) -> Tensor:
        """Masks (B, 1, H, W) for the inpainter's turn."""
        if self.turn.random_masks:
            return random_masks(len(image), image.shape[-2:], self.coach.kept_fraction).to(image.device)
        return self.coach(image, hard=self.hard_masks)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def play(
    game: CoachGame,
    output_dir: str | Path,
    *,
    log: GameLog,
    resume: str | Path | None = None,
    checkpoint_every: int = 1,
) -> None:
    """Play ``game`` to its end, with checkpoints.

    Writes ``checkpoint_epoch=<n>.pt``, the newest one only, which holds all that a continued run needs, and at the
    end ``inpainter.pt``, the weights for
    :func:`covsev.training.pretraining.pretrained.load_pretrained`. If the game stops on
    an error, ``inpainter.pt`` holds the weights so far.

    Args:
        game: to play; its data, networks and numbers must be those of the run that is resumed.
        output_dir: folder for the checkpoints, made if missing.
        log: one of the game's handlers; its rows are saved too.
        resume: checkpoint to continue from.
        checkpoint_every: epochs between two checkpoints.

    Raises:
        FileNotFoundError: if ``resume`` is not a file.
    """
    # Both optimizers, too: their momenta are part of what an uninterrupted run would have.
    state = {
        "inpainter": game.inpainter,
        "coach": game.coach,
        "inpainter_optimizer": game.inpainter_optimizer,
        "coach_optimizer": game.coach_optimizer,
        "log": log,
    }
    run_resumable(
        game,
        state,
        output_dir,
        final={"inpainter": game.inpainter},
        final_filename="inpainter.pt",
        resume=resume,
        checkpoint_every=checkpoint_every,
    )
