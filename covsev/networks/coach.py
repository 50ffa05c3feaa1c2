"""The coach: a network that chooses which parts of an image to erase, so that inpainting them is hard.

After Singh et al. 2018, "Self-Supervised Feature Learning for Semantic Segmentation of Overhead Imagery" (BMVC).
A mask M says how much of each pixel is **kept**: 1 kept, 0 erased. The coach draws a map B at 1/16 of the image's
side, and M = sigmoid(alpha * Bhat), where Bhat = B - (k-th largest value of B) and k counts the cells to keep.

Deviations from the published code: its coach is variational (a noise vector and a Kullback-Leibler term), ours is
not; its hard masks keep k - 1 cells, ours keep k; its backbone is a ResNet-18, ours is chosen by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covsev.networks.infnet import make_backbone, require_sides

CELL = 16
"""Side of a mask's cell in pixels."""


class Coach(nn.Module):
    """Draws a mask for an image.

    Args:
        backbone: name of the encoder, see :func:`covsev.networks.make_backbone`.
        kept_fraction: share of an image's cells that a mask keeps (paper: 0.75), between 0 and 1.
        alpha: steepness of soft masks (paper: 1).

    Raises:
        ValueError: for an unknown backbone, or if ``kept_fraction`` or ``alpha`` is out of range.
    """

    def __init__(self, backbone: str = "res2net50", *, kept_fraction: float = 0.75, alpha: float = 1.0):
        super().__init__()
        _require_fraction(kept_fraction)
        if alpha <= 0:
            raise ValueError(f"alpha must be positive; got {alpha}")
        self.kept_fraction = kept_fraction
        self.alpha = alpha
        self.backbone = make_backbone(backbone)
        *_, at16, at32 = self.backbone.channels
        # Two heads: what to erase depends on the cell itself, and on more of the chest than a cell shows.
        self.head16 = nn.Conv2d(at16, 1, 1)
        self.head32 = nn.Conv2d(at32, 1, 1)

    def keep_scores(self, image: Tensor) -> Tensor:
        """The map B, (B, 1, H / 16, W / 16), low where to erase, of ``image`` (B, 1, H, W) in [0, 1].

        Raises:
            ValueError: if a side is not a multiple of 32.
        """
        require_sides(image)
        _, _, _, x16, x32 = self.backbone(image)
        coarse = F.interpolate(self.head32(x32), size=x16.shape[-2:], mode="bilinear", align_corners=False)
        return self.head16(x16) + coarse

    def forward(self, image: Tensor, *, hard: bool = False) -> Tensor:
        """The mask (B, 1, H, W), 1 kept and 0 erased, of ``image`` (B, 1, H, W) in [0, 1].

        Args:
            image: sides must be multiples of 32.
            hard: see :func:`keep_masks`.

        Raises:
            ValueError: if a side is not a multiple of 32.
        """
        # The mask is made on the cells and enlarged last, so that whole cells of 16 x 16 pixels are kept or erased.
        cells = keep_masks(self.keep_scores(image), self.kept_fraction, alpha=self.alpha, hard=hard)
        return _to_pixels(cells)


def keep_masks(scores: Tensor, kept_fraction: float, *, alpha: float = 1.0, hard: bool = False) -> Tensor:
    """M = sigmoid(alpha * (scores - k-th largest score of the image)), k = kept fraction of the cells, rounded.

    Args:
        scores: (B, 1, h, w), high where to keep.
        kept_fraction: share of the cells to keep, between 0 and 1.
        alpha: steepness; a high one draws soft masks towards hard ones.
        hard: exactly k ones, the rest zeros, whatever ties there are; the gradient is that of the soft mask.

    Returns:
        (B, 1, h, w) in [0, 1], 1 kept and 0 erased.

    Raises:
        ValueError: if ``kept_fraction`` is not between 0 and 1, or leaves no cell to keep or to erase.
    """
    _require_fraction(kept_fraction)
    flat = scores.flatten(1)
    cells = flat.shape[1]
    kept = round(kept_fraction * cells)
    if not 0 < kept < cells:  # the loss divides by the kept and by the erased area
        raise ValueError(f"kept_fraction {kept_fraction} of {cells} cells leaves nothing to keep or to erase")
    values, places = flat.topk(kept, dim=1)
    least_kept = values[:, -1:]
    mask = torch.sigmoid(alpha * (flat - least_kept))
    if hard:
        # By the places of the highest scores, not by a comparison: with ties that would keep more than k cells.
        ones = torch.zeros_like(mask).scatter(1, places, 1.0)
        # The difference is zero, but its gradient is not: forward the hard mask, backward the soft one.
        mask = ones + (mask - mask.detach())
    return mask.view_as(scores)


def random_masks(
    batch: int, size: Sequence[int], kept_fraction: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Hard masks of random cells: the start of the game, and what the coach is measured against.

    Args:
        batch: number of masks B.
        size: (H, W) in pixels, multiples of 16.
        kept_fraction: share of the cells to keep, between 0 and 1.
        generator: source of randomness, on the CPU; torch's own if ``None``.

    Returns:
        (B, 1, H, W) on the CPU, 1 kept and 0 erased, each of the area of a hard mask of the coach.

    Raises:
        ValueError: if a side is not a multiple of 16, or as :func:`keep_masks`.
    """
    height, width = size
    if height % CELL != 0 or width % CELL != 0:
        raise ValueError(f"size must be multiples of {CELL}; got {height} x {width}")
    # Through ``keep_masks``, so that both kinds of masks keep the same number of cells and can be compared.
    scores = torch.rand(batch, 1, height // CELL, width // CELL, generator=generator)
    return _to_pixels(keep_masks(scores, kept_fraction, hard=True))


def _to_pixels(cells: Tensor) -> Tensor:
    return F.interpolate(cells, scale_factor=CELL, mode="nearest")


def _require_fraction(kept_fraction: float) -> None:
    if not 0 < kept_fraction < 1:
        raise ValueError(f"kept_fraction must be between 0 and 1; got {kept_fraction}")
