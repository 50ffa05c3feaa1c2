"""The networks, one architecture a file. Each is a plain ``torch.nn.Module`` for MONAI's ``_target_``."""

from covsev.networks.backbones import Backbone
from covsev.networks.infnet import InfNet, InfNetOutput, make_backbone

__all__ = ["Backbone", "InfNet", "InfNetOutput", "make_backbone"]
