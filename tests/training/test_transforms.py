"""The training chain: one resizer, hand-drawn edges, shapes, ranges and determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.utils import set_determinism
from PIL import Image

from covsev.inference.slices import SlicePreprocessing
from covsev.training.data.augmentation import GREY, geometric_augmentation, intensity_augmentation
from covsev.training.data.resizing import resize_tensors
from covsev.training.data.transforms import (
    EdgeMapd,
    ResizeSliced,
    infection_training,
    load_slices,
)

pytestmark = pytest.mark.usefixtures("global_seed_unset")


@pytest.fixture
def slice_files(tmp_path):
    """A noisy slice of 40 rows and 50 columns with a bright, infected rectangle."""
    mask = np.zeros((40, 50), dtype=np.uint8)
    mask[10:25, 12:30] = 255
    image = np.random.default_rng(0).integers(0, 100, mask.shape).astype(np.uint8) + mask // 2
    files = {"image": tmp_path / "image.png", "infection": tmp_path / "mask.png"}
    Image.fromarray(image).save(files["image"])
    Image.fromarray(mask).save(files["infection"])
    return {key: str(path) for key, path in files.items()}


# ---- resizing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (33, 20)])
def test_training_resizes_as_serving_does(size):
    image = torch.rand(1, 16, 24, generator=torch.Generator().manual_seed(0))
    serving = SlicePreprocessing(hu_window=(0, 1), network_size=size, crop_margin_mm=0)
    resized = ResizeSliced(keys="image", size=size)({"image": image, "other": 7})
    served = serving.resize(image[None].numpy())[0]
    np.testing.assert_allclose(resized["image"].numpy(), served, atol=2e-6)
    assert resized["other"] == 7


def test_resizing_leaves_its_input_alone():
    data = {"image": torch.zeros(1, 4, 4)}
    ResizeSliced(keys="image", size=(2, 2))(data)
    assert data["image"].shape == (1, 4, 4)


def test_resizing_is_antialiased():
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 32, 32).clone()
    resized = ResizeSliced(keys="image", size=(8, 8))({"image": stripes})["image"]
    torch.testing.assert_close(resized[:, :, 1:-1], torch.full((1, 8, 6), 0.5))


# ---- edges -----------------------------------------------------------------------------------------------------


def _drawn(*rows):
    return torch.tensor([[float(c == "#") for c in row] for row in rows])[None]


def test_edge_is_every_pixel_that_sees_both_values():
    mask = _drawn(
        ".......",
        ".......",
        "..###..",
        "..###..",
        "..###..",
        ".......",
        ".......",
    )
    edge = _drawn(
        ".......",
        ".#####.",
        ".#####.",
        ".##.##.",
        ".#####.",
        ".#####.",
        ".......",
    )
    result = EdgeMapd(keys="mask")({"mask": mask})
    assert torch.equal(result["edge"], edge)
    assert torch.equal(result["mask"], mask)


def test_border_of_the_image_is_no_edge():
    mask = _drawn("##..", "##..", "##..")
    assert torch.equal(EdgeMapd(keys="mask", name="rim")({"mask": mask})["rim"], _drawn(".##.", ".##.", ".##."))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_masks_have_no_edge(value):
    assert not EdgeMapd(keys="mask")({"mask": torch.full((1, 5, 5), value)})["edge"].any()


def test_edge_of_several_channels_is_that_of_any():
    mask = torch.cat((_drawn("#...", "...."), _drawn("...#", "....")))
    assert torch.equal(EdgeMapd(keys="mask")({"mask": mask})["edge"], _drawn("####", "####"))


# ---- reading and the whole chain -------------------------------------------------------------------------------


def test_slices_are_read_rows_first_in_0_to_1(slice_files):
    data = dict(slice_files)
    for transform in load_slices():
        data = transform(data)
    assert data["image"].shape == data["infection"].shape == (1, 40, 50)
    with Image.open(slice_files["image"]) as image:
        np.testing.assert_allclose(data["image"][0].numpy(), np.asarray(image) / 255, atol=1e-6)
    assert data["infection"][0, 10:25, 12:30].min() == 1
    assert data["infection"].sum() == 15 * 18


def test_colour_files_become_grey(tmp_path):
    path = tmp_path / "rgb.png"
    Image.new("RGB", (6, 4), (51, 51, 51)).save(path)
    data = {"image": str(path)}
    for transform in load_slices(["image"]):
        data = transform(data)
    torch.testing.assert_close(torch.as_tensor(data["image"]), torch.full((1, 4, 6), 0.2))


def test_training_chain_gives_image_and_label(slice_files):
    chain = infection_training((32, 32)).set_random_state(0)
    for _ in range(8):
        sample = chain(slice_files)
        assert set(sample) == {"image", "label"}
        assert sample["image"].shape == (1, 32, 32)
        assert sample["label"].shape == (2, 32, 32)
        assert sample["image"].dtype == sample["label"].dtype == torch.float32
        assert 0 <= sample["image"].min() <= sample["image"].max() <= 1
        assert set(sample["label"].unique().tolist()) <= {0.0, 1.0}
        edge = EdgeMapd(keys="label")({"label": sample["label"][:1]})["edge"]
        assert torch.equal(sample["label"][1:], edge), "the edge is that of the augmented mask"


def test_image_and_mask_move_together(slice_files):
    both = ("image", "infection")
    for seed in range(5):
        data = {key: torch.zeros(1, 32, 32) for key in both}
        for key in both:
            data[key][:, 6:20, 4:12] = 1
        for transform in geometric_augmentation(both, ("bilinear", "bilinear")):
            data = transform.set_random_state(seed)(data)
        assert torch.equal(data["image"], data["infection"])


def test_intensity_augmentation_stays_in_range_and_cuts_grey_holes():
    transforms = intensity_augmentation("image")
    assert transforms[-1].dropper.fill_value == GREY
    image = torch.rand(1, 96, 96, generator=torch.Generator().manual_seed(0))
    grey_pixels = []
    for seed in range(8):
        data = {"image": image}
        for transform in transforms:
            if hasattr(transform, "set_random_state"):
                transform.set_random_state(seed)
            data = transform(data)
        assert 0 <= data["image"].min() <= data["image"].max() <= 1
        grey_pixels.append(int((data["image"] == GREY).sum()))
    assert min(grey_pixels) < 24 * 24 <= max(grey_pixels), "some samples have holes, some have none"


def test_one_seed_gives_one_sequence_of_samples(slice_files):
    def samples(seed):
        set_determinism(seed)
        chain = infection_training((32, 32))
        return [chain(slice_files) for _ in range(3)]

    first, again, other = samples(3), samples(3), samples(4)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))


def test_without_augmentation_the_chain_is_deterministic_and_takes_any_grid(slice_files):
    chain = infection_training((32, 64), augment=False)
    first, second = chain(slice_files), chain(slice_files)
    assert first["image"].shape == (1, 32, 64)
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["label"], second["label"])
    with Image.open(slice_files["image"]) as image:
        grey = torch.from_numpy(np.asarray(image) / np.float32(255))[None, None]
    assert torch.equal(first["image"], resize_tensors(grey, (32, 64))[0])


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_probability_of_cutout_is_a_setting(slice_files, probability):
    chain = infection_training((64, 64), cutout_probability=probability).set_random_state(0)
    with_hole = [int((chain(slice_files)["image"] == GREY).sum()) >= 24 * 24 for _ in range(6)]
    assert all(with_hole) if probability else not any(with_hole)


def test_oblong_grid_is_refused():
    with pytest.raises(ValueError, match="size must be square; got 32 x 48"):
        infection_training((32, 48))
