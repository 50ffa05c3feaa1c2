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
GRAIN = (0.7, 1.4)
"""Noise in it, as a multiple of the noise in the slice's own soft tissue. With another noise, the pasted part could be
told from the chest wall by it, and real consolidation, whose noise is the wall's, would be taken for wall."""
MOTTLE_HU = (0.0, 40.0)
"""SD of its slow changes of density: disease is not even."""
SOFT_TISSUE_HU = (-150.0, 150.0)
"""Where the slice's own noise is measured: fat, muscle and blood."""
MIXED_BELOW_HU = -150.0
"""What is darker beside it, outside the mask, is a voxel of lung and wall together; fat is denser."""
SHARE = (0.03, 0.6)
"""Of the lungs in the slice. With more, slices at the base look like abdomen, and a network that learned from them
takes spleen and bowel for lung. Drawn on a logarithmic scale: the crescent at the back, a tenth of a lung or less, is
what a network takes for chest wall most easily."""
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
        tissue = self._tissue(image, lung)
        # Half-way values between sick and aerated lung, as scanners make them.
        share = torch.where(lung, torch.maximum(_mean_around(sick, 3), sick.float()), 0)
        # Mixed border voxels would give the lung's outline away as a dark line: they become tissue, too.
        mixed = ~lung & (image < self._grey_of(MIXED_BELOW_HU))
        rim = mixed & (_mean_around(sick, 5) > 0)
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
        share = math.exp(self._uniform(least, most))
        kept = max(1, round(share * values.numel()))
        return lung & (field >= values.topk(kept).values[-1])

    def _smooth_field(self, shape: Sequence[int]) -> Tensor:
        """(H, W) random field whose hills are a third to a tenth of the slice wide."""
        return self._field(shape, cells=int(self.R.randint(3, 10)))

    def _field(self, shape: Sequence[int], cells: int) -> Tensor:
        """(H, W) random values that change over a ``cells``-th of the slice."""
        coarse = self._normal(1, 1, cells, cells)
        return F.interpolate(coarse, size=tuple(shape), mode="bicubic", align_corners=False)[0, 0]

    def _tissue(self, image: Tensor, lung: Tensor) -> Tensor:
        """(H, W) grey values of tissue that has the noise of the slice's own."""
        mean = self._grey_of(self._uniform(*CONSOLIDATION_HU))
        mottle = self._uniform(*MOTTLE_HU) / self.width * self._field(lung.shape, cells=24)
        grain = self._uniform(*GRAIN) * self._noise_sd(image, lung) * self._normal(*lung.shape)
        return mean + mottle + grain

    def _noise_sd(self, image: Tensor, lung: Tensor) -> Tensor:
        """SD of the noise in the soft tissue around the lungs, from what the mean of each 3 x 3 pixels leaves."""
        low, high = (self._grey_of(hu) for hu in SOFT_TISSUE_HU)
        smooth = _mean_around(image, 3)
        tissue = (smooth > low) & (smooth < high) & ~lung
        if not tissue.any():
            return torch.zeros(())
        residue = (image - smooth)[tissue].abs()
        of_normal = 1.4826  # SD of a normal distribution whose absolute values have a median of 1
        return of_normal * residue.median() / math.sqrt(8 / 9)  # the pixel itself is a ninth of its mean

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
