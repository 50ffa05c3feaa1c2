"""Lungs made to look sick: consolidation pasted into slices with lung masks.

Few of the labelled scans hold much consolidation, and that is where lung masks fail. Consolidated lung is lung, so the
mask stays.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

CONSOLIDATION_HU = (-150.0, 65.0)
"""Mean of pasted consolidation: from half-filled air spaces to enhancing tissue."""
GRAIN_HU = (5.0, 20.0)
"""SD of the noise in it, from a smooth to a sharp reconstruction kernel."""
MIXED_BELOW_HU = -150.0
"""What is darker beside it, outside the mask, is a voxel of lung and wall together; fat is denser."""
SHARE = (0.03, 1.0)
"""Of the lungs in the slice: from a small patch to both lungs white. Drawn on a logarithmic scale: the crescent at the
back, a tenth of a lung or less, is what a network takes for chest wall most easily."""
STRONGEST_RAMP = 8.0
"""In SD of the random field: without a ramp hills lie anywhere, with the strongest all disease lies on one side."""
DEPENDENT = 0.5
"""Share of the pasted parts that lie at the back, where disease and gravity put them; the others lie anywhere."""


class RandConsolidationd(RandomizableTransform, MapTransform):
    """Consolidation of random shape in the lungs of a slice; the mask stays, because consolidated lung is lung.

    Args:
        image, lungs: keys of the slice (1, H, W) in [0, 1] and of its mask (1, H, W) in [0, 1].
        hu_window: HU that are 0 and 1.
        prob: share of the slices that get one.
    """

    def __init__(self, image: str, lungs: str, hu_window: Sequence[float], prob: float):
        MapTransform.__init__(self, (image, lungs))
        RandomizableTransform.__init__(self, prob)
        self.image, self.lungs = image, lungs
        self.low, self.width = hu_window[0], hu_window[1] - hu_window[0]

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Any]:
        """Paste, or leave the slice as it is."""
        result = dict(data)
        self.randomize(None)
        image, lung = data[self.image][0], data[self.lungs][0] > 0.5
        if not self._do_transform or not lung.any():
            return result
        sick = self._sick_part(lung)
        tissue = self._tissue(lung.shape)
        # Half-way values between sick and aerated lung, as scanners make them.
        share = torch.where(lung, torch.maximum(_mean_around(sick, 3), sick.float()), 0)
        # Mixed border voxels would give the lung's outline away as a dark line: they become tissue, too.
        rim = (_mean_around(sick, 5) > 0) & ~lung & (image < self._grey_of(MIXED_BELOW_HU))
        share = torch.where(rim, 1, share)
        pasted = image + share * (tissue - image)
        result[self.image] = pasted.clamp(0, 1)[None]
        return result

    def _sick_part(self, lung: Tensor) -> Tensor:
        """(H, W) the share of the lungs on which a random field is highest."""
        # The ramp makes it touch the pleura on one side, as dependent and lobar consolidation does.
        widest = 0.6 if self._uniform(0, 1) < DEPENDENT else math.pi
        ramp = _ramp(lung.shape, self._uniform(-widest, widest)) * self._uniform(0, STRONGEST_RAMP)
        field = self._smooth_field(lung.shape) + ramp
        values = field[lung]
        least, most = (math.log(share) for share in SHARE)
        kept = max(1, round(math.exp(self._uniform(least, most)) * values.numel()))
        return lung & (field >= values.topk(kept).values[-1])

    def _smooth_field(self, shape: Sequence[int]) -> Tensor:
        """(H, W) random field whose hills are a third to a tenth of the slice wide."""
        cells = int(self.R.randint(3, 10))
        coarse = self._normal(1, 1, cells, cells)
        return F.interpolate(coarse, size=tuple(shape), mode="bicubic", align_corners=False)[0, 0]

    def _tissue(self, shape: Sequence[int]) -> Tensor:
        """(H, W) grey values of tissue with grain."""
        mean_hu = self._uniform(*CONSOLIDATION_HU)
        grain_hu = self._uniform(*GRAIN_HU) * self._normal(*shape)
        return self._grey_of(mean_hu + grain_hu)

    def _grey_of(self, hu: Any) -> Any:
        """The grey value of a density."""
        return (hu - self.low) / self.width

    def _uniform(self, low: float, high: float) -> float:
        return float(self.R.uniform(low, high))

    def _normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.R.standard_normal(shape)).float()


def _ramp(shape: Sequence[int], angle: float) -> Tensor:
    """(H, W) values from -1 to 1 across the slice in a direction; angle 0 is the second axis, to the back."""
    rows = torch.linspace(-1, 1, shape[0])[:, None]
    columns = torch.linspace(-1, 1, shape[1])[None]
    direction = torch.tensor(angle)
    return rows * torch.sin(direction) + columns * torch.cos(direction)


def _mean_around(mask: Tensor, side: int) -> Tensor:
    """(H, W) share of ``mask`` in a square window."""
    return F.avg_pool2d(mask[None].float(), side, stride=1, padding=side // 2)[0]
