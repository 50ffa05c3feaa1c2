"""MONAI's EfficientNet (Tan & Le 2019, arXiv 1905.11946) as an encoder of InfNet."""

from __future__ import annotations

from collections.abc import Mapping

from monai.networks.nets import EfficientNetBNFeatures
from torch import Tensor, nn

from covsev.networks.backbones import RGB_MEAN, RGB_STD, Backbone, fold_rgb_stem, with_ones

VARIANTS = tuple(f"efficientnet-b{number}" for number in range(8))
# All layers after the last feature map. Left in, they would be parameters without a gradient.
_CLASSIFIER = ("_conv_head", "_conv_head_padding", "_bn1", "_avg_pooling", "_dropout", "_fc")
_STEM = "_conv_stem.weight"


class MonaiEfficientNet(Backbone):
    """:class:`monai.networks.nets.EfficientNetBNFeatures` for images in [0, 1], without its classifier.

    Args:
        variant: MONAI's name, ``efficientnet-b0`` to ``efficientnet-b7``.
        in_channels: channels of the input image.

    Raises:
        ValueError: for an unknown variant.
    """

    def __init__(self, variant: str = "efficientnet-b0", in_channels: int = 1):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
        self.variant = variant
        self.in_channels = in_channels
        self.features = EfficientNetBNFeatures(variant, pretrained=False, in_channels=in_channels + 1)
        self.features.set_swish(memory_efficient=False)  # the same function, and TorchScript can compile it
        # MONAI says after which stacks it taps the features, but not how many channels they have.
        stacks = list(self.features._blocks.children())
        tapped = [stacks[i - 1] for i in self.features.extract_stacks]
        at2, at4, at8, at16, at32 = (_out_channels(stack) for stack in tapped)
        self.channels = (at2, at4, at8, at16, at32)
        for name in _CLASSIFIER:
            delattr(self.features, name)

    def forward(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.features(with_ones(image))
        return features

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load the state dict of MONAI's RGB network, such as ``EfficientNetBNFeatures(variant, pretrained=True)``.

        The RGB stem and the ImageNet normalisation are folded; the classifier is dropped.

        Raises:
            KeyError: if the stem is missing.
            ValueError: if the stem is not that of an RGB network.
            RuntimeError: if another tensor is missing, left over or of another shape.
        """
        own = {key: value for key, value in state.items() if not key.startswith(_CLASSIFIER)}
        own[_STEM] = fold_rgb_stem(own[_STEM], mean=RGB_MEAN, std=RGB_STD, in_channels=self.in_channels)
        self.features.load_state_dict(own)


def _out_channels(stack: nn.Module) -> int:
    """Channels of the last batch norm of a stack, that of its output."""
    norms = [module for module in stack.modules() if isinstance(module, nn.BatchNorm2d)]
    return norms[-1].num_features
