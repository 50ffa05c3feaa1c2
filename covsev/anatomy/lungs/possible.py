"""Where lung is possible, though the lung network alone would not call it so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covsev.anatomy.lungs.model import LungProbability
from covsev.anatomy.morphology import Mask

_POSSIBLE = 0.03
"""Of the consolidation that the lung network lost on held-out scans, three quarters had a higher probability. Muscle
and liver mostly have a lower one."""


@dataclass(frozen=True, eq=False)
class PossibleLung:
    """What may be lung if something else speaks for it, such as disease that begins in the lung and goes on there.

    Attributes:
        probability: of the lung network.
        never: (x, y, z) coarse mask of what is no lung: airways and fluid.
        factors: scan voxels a coarse voxel, along each axis.
        size: (X, Y) voxels of a slice.
    """

    probability: LungProbability
    never: Mask
    factors: tuple[int, int, int]
    size: tuple[int, int]

    def plane(self, level: int) -> Mask:
        """(X, Y) of one slice, canonical axes."""
        x, y, z = (
            np.minimum(np.arange(count) // factor, coarse - 1)  # the last coarse voxel covers what was left over
            for count, factor, coarse in zip((*self.size, level + 1), self.factors, self.never.shape, strict=True)
        )
        never = self.never[:, :, z[level]][x][:, y]
        return (self.probability.plane(level, self.size) >= _POSSIBLE) & ~never
