"""Every bundle: metadata, network, export, and that its configurations agree with each other and with the code."""

from __future__ import annotations

import copy
import json
import os
import pydoc
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out
from monai.bundle.reference_resolver import ReferenceResolver
from PIL import Image

from covsev.networks import RefinedInfNet

ROOT = Path(__file__).parents[2] / "bundles"
SCHEMA = ROOT / "metadata_schema.json"
BUNDLES = sorted(path.parent.name for path in ROOT.glob("*/configs"))
DESCRIBED = [name for name in BUNDLES if (ROOT / name / "configs" / "metadata.json").is_file()]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/configs/*.yaml"))
LESION_BUNDLES = ("covid_infection_ct_segmentation", "covid_lesion_ct_segmentation")
OVERLAYS = {"evaluate.yaml": "inference.yaml", "multi_gpu_train.yaml": "train.yaml"}


def configs(bundle):
    return ROOT / bundle / "configs"


def read(*paths):
    parser = ConfigParser()
    parser.read_config([str(path) for path in paths])
    return parser


def read_with_base(path):
    """The configuration, with the one that it is read together with where it is no whole one."""
    base = OVERLAYS.get(path.name, "train.yaml" if path.name.startswith("network_") else None)
    return read(*([path.with_name(base)] if base else []), path)


def values(config, key=None):
    """All leaves of a nested configuration, each with its key."""
    if isinstance(config, dict):
        return [leaf for name, value in config.items() for leaf in values(value, name)]
    if isinstance(config, list):
        return [leaf for value in config for leaf in values(value)]
    return [(key, config)]


# ---- what a bundle consists of -----------------------------------------------------------------------------------


def test_there_are_bundles():
    assert "covid_infection_ct_segmentation" in DESCRIBED


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_bundle_holds_no_python(bundle):
    assert not list((ROOT / bundle).rglob("*.py"))


@pytest.mark.parametrize("config", CONFIGS)
def test_references_of_a_configuration_exist(config):
    parser = read_with_base(ROOT / config)
    parser.parse()
    references = {
        reference
        for _, value in values(parser.get())
        if isinstance(value, str)
        for reference in ReferenceResolver.match_refs_pattern(value)
    }
    assert [reference for reference in references if reference not in parser] == []


@pytest.mark.parametrize("config", CONFIGS)
def test_what_a_configuration_calls_exists(config):
    leaves = values(read_with_base(ROOT / config).get())
    targets = {value for key, value in leaves if key == "_target_" and "." in value}
    assert [target for target in targets if pydoc.locate(target) is None] == []


@pytest.mark.parametrize("bundle", BUNDLES)
def test_training_and_inference_agree(bundle):
    if not (configs(bundle) / "train.yaml").is_file():
        pytest.skip(f"{bundle} is not trained")
    train, inference = (read(configs(bundle) / f"{name}.yaml") for name in ("train", "inference"))
    trained = {key: value for key, value in train["network_def"].items() if key != "deep_supervision"}
    assert trained == inference["network_def"]
    of_prior = read(configs("covid_infection_ct_segmentation") / "inference.yaml")
    assert train["network_size"] == inference.get("network_size", of_prior["network_size"])


# ---- what bundles share ------------------------------------------------------------------------------------------


def windows(config):
    """Every ``hu_window`` in numbers of a nested configuration; references to another one are left out."""
    if isinstance(config, list):
        return [window for value in config for window in windows(value)]
    if not isinstance(config, dict):
        return []
    own = [tuple(value) for key, value in config.items() if key == "hu_window" and isinstance(value, list)]
    return own + windows(list(config.values()))


def test_both_lesion_bundles_see_scans_through_one_window():
    """The network that tells the kinds apart takes the other's slices, so both must have learned from the same grey."""
    stated = {name: windows(read_with_base(ROOT / name).get()) for name in CONFIGS if name.startswith(LESION_BUNDLES)}
    first, second = LESION_BUNDLES
    must_state = [f"{first}/configs/inference.yaml", f"{first}/configs/train.yaml", f"{second}/configs/train.yaml"]
    assert all(stated[name] for name in must_state)
    assert len({window for found in stated.values() for window in found}) == 1, stated


@pytest.mark.parametrize("file", ["LICENSE", "configs/logging.conf"])
def test_the_lesion_bundles_hold_equal_copies(file):
    """A bundle stands alone: each has the file itself, no link to the other's."""
    first, second = (ROOT / name / file for name in LESION_BUNDLES)
    assert not first.is_symlink()
    assert not second.is_symlink()
    assert first.read_bytes() == second.read_bytes()


# ---- metadata ----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def verify(metadata):
    verify_metadata(meta_file=str(metadata), filepath=str(SCHEMA))


@pytest.mark.parametrize("bundle", DESCRIBED)
def test_metadata_is_valid_offline(bundle, offline):
    verify(configs(bundle) / "metadata.json")


@pytest.mark.parametrize("bundle", DESCRIBED)
def test_metadata_agrees_with_itself(bundle):
    metadata = json.loads((configs(bundle) / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    formats = metadata["network_data_format"]
    for tensor in (*formats["inputs"].values(), *formats["outputs"].values()):
        assert list(tensor["channel_def"]) == [str(channel) for channel in range(tensor["num_channels"])]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), None, "'version' is a required property"),
        (("verson",), "0.1.0", "'verson' does not match any of the regexes"),
        (("version",), "first", "'first' does not match"),
        (("monai_version",), 1.6, "1.6 is not of type 'string'"),
        (("authors",), "", "'' should be non-empty"),
        (("changelog",), {}, r"\{\} should be non-empty"),
        (("changelog", "first"), "text", "'first' does not match"),
        (("references",), [], r"\[\] should be non-empty"),
        (("eval_metrics", "dice"), "0.7", "'0.7' is not of type 'number'"),
        (("required_packages_version", "covsev"), None, None),
        (("required_packages_version", "covsev"), "latest", "'latest' does not match"),
        (("network_data_format", "inputs", "image"), None, "'image' is a required property"),
        (("network_data_format", "outputs", "pred"), None, "'pred' is a required property"),
        (("network_data_format", "inputs", "image", "dtype"), None, "'dtype' is a required property"),
        (("network_data_format", "inputs", "image", "dtype"), "float", "'float' is not one of"),
        (("network_data_format", "inputs", "image", "chanel_def"), {"0": "x"}, "'chanel_def' was unexpected"),
        (("network_data_format", "inputs", "image", "channel_def"), {"image": "0"}, "'image' does not match"),
        (("network_data_format", "inputs", "image", "num_channels"), 0, "0 is less than the minimum of 1"),
        (("network_data_format", "inputs", "image", "spatial_shape"), ["32*m", 32], r"'32\*m' does not match"),
        (("network_data_format", "inputs", "image", "value_range"), [0], r"\[0\] is not valid"),
        (("prior_data_format",), {}, "'inputs' is a required property"),
    ],
)
def test_a_wrong_key_in_the_metadata_is_named(path, value, message, tmp_path):
    metadata = json.loads((configs(DESCRIBED[0]) / "metadata.json").read_text())
    parent = metadata
    for key in path[:-1]:
        parent = parent[key]
    if value is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    changed = tmp_path / "metadata.json"
    changed.write_text(json.dumps(metadata))
    if message is None:
        verify(changed)
    else:
        with pytest.raises(ValueError, match=message):
            verify(changed)


# ---- network -----------------------------------------------------------------------------------------------------


def files(bundle):
    return {
        "meta_file": str(configs(bundle) / "metadata.json"),
        "config_file": str(configs(bundle) / "inference.yaml"),
    }


@pytest.fixture(params=[bundle for bundle in DESCRIBED if "network_def" in read(configs(bundle) / "inference.yaml")])
def bundle(request):
    return request.param


def test_network_takes_and_gives_what_the_metadata_says(bundle, offline):
    verify_net_in_out("network_def", device="cpu", n=2, **files(bundle))


@pytest.fixture
def network(bundle):
    """The bundle's network with its weights, or with those that it was born with if it has none yet."""
    torch.manual_seed(0)
    network = read(configs(bundle) / "inference.yaml").get_parsed_content("network_def")
    weights = ROOT / bundle / "models" / "model.pt"
    if weights.is_file():
        content = torch.load(weights, weights_only=True)
        network.load_state_dict(content.get("network", content))
    return network.eval()


def export(bundle, state, folder):
    """What ``ckpt_export`` makes of a checkpoint with ``state``."""
    torch.save(state, folder / "model.pt")
    target = folder / "model.ts"
    ckpt_export(
        "network_def",
        filepath=str(target),
        ckpt_file=str(folder / "model.pt"),
        key_in_ckpt="network",
        **files(bundle),
    )
    return torch.jit.load(target)


@pytest.mark.slow
def test_exported_network_equals_the_eager_one(bundle, network, offline, tmp_path):
    state = copy.deepcopy(network.state_dict())
    exported = export(bundle, {"network": state}, tmp_path)
    in_channels = read(configs(bundle) / "metadata.json")["network_data_format"]["inputs"]["image"]["num_channels"]
    image = torch.rand(2, in_channels, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("nested", [True, False])
def test_a_checkpoint_in_half_precision_is_exported_in_full(nested, bundle, network, tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    exported = export(bundle, {"network": half} if nested else half, tmp_path)
    state = exported.state_dict()
    assert list(state) == list(half)
    for key, value in half.items():
        assert state[key].dtype == (torch.float32 if value.is_floating_point() else value.dtype)
        assert torch.equal(state[key], value.to(state[key].dtype))


# ---- several processes -------------------------------------------------------------------------------------------


@pytest.fixture
def slices(tmp_path):
    """Eight slices with masks, their manifest, and a folder for the run."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(8):
        for kind in ("image", "infection"):
            Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / f"{kind}_{number}.png")
        records.append({"image": f"image_{number}.png", "infection": f"infection_{number}.png", "fold": 0})
    (tmp_path / "manifest.json").write_text(json.dumps({"training": records, "unlabelled": []}))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed training")
def test_two_processes_train_one_network(slices):
    folder = configs("covid_infection_ct_segmentation")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"),
            *("-m", "monai.bundle", "run", "--config_file"),
            f"['{folder / 'train.yaml'}','{folder / 'multi_gpu_train.yaml'}']",
            *("--logging_file", str(folder / "logging.conf")),
            *("--dataset_dir", str(slices), "--manifest", str(slices / "manifest.json")),
            *("--output_dir", str(slices / "out")),
            *("--epochs", "1", "--batch_size", "2", "--network_size", "[64, 64]"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Epoch[1] Complete") == 1, "the first process alone writes the log"
    content = torch.load(slices / "out" / "model.pt", weights_only=True)
    definition = read(folder / "inference.yaml")["network_def"]
    network = RefinedInfNet(**{key: value for key, value in definition.items() if key != "_target_"})
    network.load_state_dict(content.get("network", content))
