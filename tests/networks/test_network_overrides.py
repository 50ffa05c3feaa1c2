"""The paper's InfNet and the baselines: another network in the same bundle, trained and loaded for inference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet
from toy_slices import parse_configs, run_configs, write_toy_dataset

from covsev.errors import BundleError
from covsev.lesions.model import load_model
from covsev.networks import CovidSegNet, InfNet, RefinedInfNet
from covsev.options import INFECTION_BUNDLE, LESION_BUNDLE
from covsev.training.pretraining.pretrained import from_scratch

pytestmark = pytest.mark.usefixtures("global_seed_unset")

INFNET = "network_infnet.yaml"
SMALL = {
    "network_unet.yaml": ("features", [4, 4, 8, 8, 16, 4], BasicUNet),
    "network_covid_segnet.yaml": ("channels", [4, 4, 8, 8, 16], CovidSegNet),
}


@pytest.mark.parametrize("override", SMALL)
def test_it_trains_and_its_weights_serve(override, tmp_path):
    key, widths, network_class = SMALL[override]
    manifest = write_toy_dataset(tmp_path / "data")
    shared = {"device": "$torch.device('cpu')", "network_size": [32, 32], f"network_def#{key}": widths}
    parser = run_configs(
        "train.yaml",
        override,
        dataset_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path),
        manifest=str(manifest),
        epochs=1,
        batch_size=2,
        **shared,
    )
    assert isinstance(parser.get_parsed_content("network"), network_class)
    checkpoint = tmp_path / "model.pt"
    serving = parse_configs("inference.yaml", override, checkpoint=str(checkpoint), runtime="torch", **shared)
    model = serving.get_parsed_content("model")
    assert isinstance(model.network, network_class)
    state = torch.load(checkpoint, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in model.network.state_dict().items())
    probability = model.predict(torch.rand(1, 1, 32, 32).numpy(), (50, 40))
    assert probability.shape == (1, 1, 50, 40)


@torch.inference_mode()
def test_infnet_is_trained_first_and_the_refined_one_goes_on_from_it(tmp_path):
    manifest = write_toy_dataset(tmp_path / "data")
    shared = {
        "device": "$torch.device('cpu')",
        "network_size": [64, 64],
        "network_def#attention_channels": [8, 8, 8],
    }
    training = {"dataset_dir": str(tmp_path / "data"), "manifest": str(manifest), "epochs": 1, "batch_size": 2}
    checkpoint = tmp_path / "infnet" / "model.pt"
    with torch.inference_mode(False):
        parser = run_configs(
            "train.yaml", INFNET, output_dir=str(checkpoint.parent), **training, **shared, augment=False
        )
    assert type(parser.get_parsed_content("network")) is InfNet
    refined = parse_configs("train.yaml", pretrained=str(checkpoint), **shared).get_parsed_content("network").eval()
    assert type(refined) is RefinedInfNet

    serving = {"checkpoint": str(checkpoint), "runtime": "torch", **shared}
    image = torch.rand(1, 1, 64, 64)
    answer = parse_configs("inference.yaml", INFNET, **serving).get_parsed_content("model").infection(image.numpy())
    torch.testing.assert_close(torch.sigmoid(refined(image).s3), torch.from_numpy(answer), atol=1e-4, rtol=0)


def test_the_prior_may_be_of_another_network(tmp_path):
    torch.manual_seed(0)
    infnet = InfNet("efficientnet_lite0", attention_channels=(64, 64, 64))
    torch.save(infnet.state_dict(), tmp_path / "infnet.pt")
    parser = ConfigParser()
    parser.read_config(str(LESION_BUNDLE / "configs" / "train.yaml"))
    parser["prior_checkpoint"], parser["prior_network"] = str(tmp_path / "infnet.pt"), INFNET
    single = parser.get_parsed_content("prior").single
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(single(image), infnet.eval()(image), atol=1e-4, rtol=1e-4)
    with pytest.raises(BundleError, match=r"infnet\.pt: weights cannot be used"):
        load_model(INFECTION_BUNDLE, checkpoint=tmp_path / "infnet.pt")
    with pytest.raises(BundleError, match=r"network_nonsense\.yaml: there is no such configuration in the bundle"):
        load_model(INFECTION_BUNDLE, network="network_nonsense.yaml")


def test_pretrained_weights_are_refused():
    network = BasicUNet(2, 1, 1, features=(2, 2, 2, 2, 2, 2))
    assert from_scratch(network) is network
    with pytest.raises(ValueError, match=r"BasicUNet cannot start from pretrained weights; got inpainter\.pt"):
        from_scratch(network, "inpainter.pt")


def test_the_multi_unet_divides_what_the_prior_found():
    configs = LESION_BUNDLE / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / "train.yaml"), str(configs / "network_unet.yaml")])
    parser["device"] = "$torch.device('cpu')"
    network, loss = parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    assert isinstance(network, BasicUNet)
    logits = network(torch.rand(2, 2, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    target = torch.cat((torch.ones(2, 1, 64, 64), torch.zeros(2, 3, 64, 64)), dim=1)
    torch.testing.assert_close(loss(logits, target), F.binary_cross_entropy_with_logits(logits, target[:, :3]))
