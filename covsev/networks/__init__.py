"""The networks, one architecture a file. Each is a plain ``torch.nn.Module`` for MONAI's ``_target_``."""

from covsev.networks.backbones import Backbone
from covsev.networks.coach import Coach
from covsev.networks.covid_segnet import CovidSegNet
from covsev.networks.infnet import InfNet, InfNetOutput, make_backbone
from covsev.networks.inpainting_infnet import InpaintingInfNet
from covsev.networks.published_infnet import load_published_infnet
from covsev.networks.refined_infnet import RefinedInfNet, RefinedInfNetOutput
from covsev.networks.rotation import RotationNet

__all__ = [
    "Backbone",
    "Coach",
    "CovidSegNet",
    "InfNet",
    "InfNetOutput",
    "InpaintingInfNet",
    "RefinedInfNet",
    "RefinedInfNetOutput",
    "RotationNet",
    "load_published_infnet",
    "make_backbone",
]
