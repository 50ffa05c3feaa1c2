"""When pseudo labels are made, and how long the network is trained on with them: plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stage:
    """One round, or the end.

    Attributes:
        name: of its files.
        share: positions, in the list of unlabelled slices, of those to label first.
        labelled_only: whether to train on the labelled slices alone.
        epochs: length of the training.
        seed: of the training.
    """

    name: str
    share: tuple[int, ...]
    labelled_only: bool
    epochs: int
    seed: int


@dataclass(frozen=True)
class ProgressiveSchedule:
    """How many slices are labelled in a round, and how long the network is trained on.

    Attributes:
        rounds: how many; fewer if the slices are used up, ``None`` until they are (paper: 320, all of 1,600).
        slices_per_round: unlabelled slices that join in a round (paper: 5).
        epochs: of training after each round's labelling (published code: 10).
        final_epochs: of training on the labelled slices alone, in the end; 0 for none (paper: 100).
        seed: of the order of the slices, and of the training.

    Raises:
        ValueError: if a number is too small.
    """

    rounds: int | None = 4
    slices_per_round: int = 100
    epochs: int = 3
    final_epochs: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("slices_per_round", 1), ("epochs", 1), ("final_epochs", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")

    def stages(self, unlabelled: int) -> list[Stage]:
        """The rounds, and the end, for a number of unlabelled slices.

        A round is the same whatever ``rounds`` is, so that more of them can follow later.
        """
        # Drawn once for all rounds, so that the first rounds do not depend on how many follow.
        order = np.random.default_rng(self.seed).permutation(unlabelled).tolist()
        size = self.slices_per_round
        starts = range(0, unlabelled, size)[: self.rounds]  # None takes all
        shares = [order[start : start + size] for start in starts]
        stages = [
            Stage(f"round_{number:03d}", tuple(share), False, self.epochs, self._seed(number))
            for number, share in enumerate(shares, start=1)
        ]
        if self.final_epochs > 0:
            # Named after the last round: more rounds later make a new end, and leave this one's files alone.
            count = len(stages)
            stages.append(Stage(f"final_{count:03d}", (), True, self.final_epochs, self._seed(count + 1)))
        return stages

    def _seed(self, number: int) -> int:
        """Far from that of the next stage, because every epoch of a stage has a seed of its own."""
        return self.seed + 10_000 * number
