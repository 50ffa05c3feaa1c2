"""A backbone that says how an image was turned: the form for pretraining by rotation.

After Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations" (arXiv 1803.07728).
The backbone carries over into InfNet, see :func:`covsev.training.pretraining.pretrained.load_pretrained`.

Deviations from that paper: a linear layer on the mean of InfNet's coarsest features, where it has a whole
classification network; three turns instead of four.
"""

from __future__ import annotations

from torch import Tensor, nn

from covsev.networks.infnet import make_backbone, require_sides

TURNS = 3
"""Classes: 0, 90 and 180 degrees."""


class RotationNet(nn.Module):
    """Tells turns by 0, 90 and 180 degrees apart.

    Args:
        backbone: name of the encoder, see :func:`covsev.networks.make_backbone`.

    Raises:
        ValueError: for an unknown backbone.
    """

    def __init__(self, backbone: str = "res2net50"):
        super().__init__()
        self.backbone = make_backbone(backbone)
        self.head = nn.Linear(self.backbone.channels[-1], TURNS)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 3) of the turns of ``image`` (B, 1, H, W), values in [0, 1].

        Raises:
            ValueError: if a side is not a multiple of 32.
        """
        require_sides(image)
        coarsest = self.backbone(image)[-1]  # the level that sees the most of the chest at once
        return self.head(coarsest.mean(dim=(2, 3)))
