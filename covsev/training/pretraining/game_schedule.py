"""Who plays when in the game of inpainter and coach, and how fast it learns: plain data, a function of the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Player = Literal["inpainter", "coach"]


@dataclass(frozen=True)
class Turn:
    """What happens in one epoch.

    Attributes:
        player: whose weights are trained; the other's rest.
        random_masks: whether masks are random, because the coach has not played yet.
        learning_rate: of the inpainter; the coach's stays as its optimizer has it.
    """

    player: Player
    random_masks: bool
    learning_rate: float


@dataclass(frozen=True)
class GameSchedule:
    """Inpainter and coach take turns, the inpainter first. The defaults are the paper's.

    Attributes:
        first_epochs: length of the inpainter's first phase, on random masks, and of the coach's first phase.
        later_epochs: length of every later phase.
        total_epochs: where the game ends, be it within a phase.
        learning_rates: of the inpainter, falling within each of its phases.
        milestones: where in the phase, as a fraction of its length, each learning rate starts.

    Raises:
        ValueError: if a number of epochs is not positive, or the rates and milestones do not fit together.
    """

    first_epochs: int = 200
    later_epochs: int = 100
    total_epochs: int = 2000
    # The paper's, for batches of 128 on a GPU; ``pretrain.yaml`` has lower ones for two cores.
    learning_rates: tuple[float, ...] = (0.1, 0.01, 0.001, 0.0001)
    milestones: tuple[float, ...] = (0, 0.4, 0.8, 0.9)

    def __post_init__(self) -> None:
        for name in ("first_epochs", "later_epochs", "total_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if len(self.learning_rates) != len(self.milestones):
            raise ValueError(f"{len(self.learning_rates)} learning_rates, but {len(self.milestones)} milestones")
        rising = list(self.milestones) == sorted(self.milestones)
        if not rising or self.milestones[0] != 0:  # without a rate from 0 on, the first epochs would have none
            raise ValueError(f"milestones must rise from 0; got {self.milestones}")

    def turn(self, epoch: int) -> Turn:
        """The turn of ``epoch``, counted from 1 as engines count.

        Raises:
            ValueError: if ``epoch`` lies outside the game.
        """
        if not 1 <= epoch <= self.total_epochs:
            raise ValueError(f"epoch must be between 1 and {self.total_epochs}; got {epoch}")
        first = 2 * self.first_epochs  # both first phases are equally long
        if epoch <= first:
            before, length = 0, self.first_epochs
        else:
            before, length = first, self.later_epochs
        phase, position = divmod(epoch - 1 - before, length)
        return Turn(
            # The count begins anew after the two first phases, and they are two: the inpainter is even in both.
            player="inpainter" if phase % 2 == 0 else "coach",
            random_masks=epoch <= self.first_epochs,
            learning_rate=self._learning_rate(position / length),
        )

    def _learning_rate(self, progress: float) -> float:
        # The last milestone that was reached decides.
        reached = sum(milestone <= progress for milestone in self.milestones)
        return self.learning_rates[reached - 1]
