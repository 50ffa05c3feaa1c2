"""Training at several sizes: sides, binary labels, reproducible draws."""

from __future__ import annotations

import pytest
import torch

from covsev.training.data.multi_scale import MultiScale
from covsev.training.data.resizing import resize_tensors

BATCH = {
    "image": torch.rand(2, 1, 256, 128, generator=torch.Generator().manual_seed(0)),
    "label": (torch.rand(2, 2, 256, 128, generator=torch.Generator().manual_seed(1)) > 0.5).float(),
}
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("scale", "height", "width"),
    [(0.75, 192, 96), (1, 256, 128), (1.25, 320, 160), (0.1, 32, 32), (0.7, 192, 96)],
)
def test_sides_are_scaled_to_multiples_of_32(scale, height, width):
    image, label = MultiScale([scale])(BATCH, CPU)
    assert image.shape == (2, 1, height, width)
    assert label.shape == (2, 2, height, width)
    torch.testing.assert_close(image, resize_tensors(BATCH["image"], (height, width)))
    assert set(label.unique().tolist()) == {0.0, 1.0}


def test_scale_1_leaves_the_batch_as_it_is_and_spends_no_random_number():
    torch.manual_seed(0)
    image, label = MultiScale([1])(BATCH, CPU)
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(()))
    assert torch.equal(image, BATCH["image"])
    assert torch.equal(label, BATCH["label"])


def test_all_scales_are_drawn_and_the_seed_decides():
    def sides():
        torch.manual_seed(0)
        return [MultiScale()(BATCH, CPU)[0].shape[2] for _ in range(20)]

    assert set(sides()) == {192, 256, 320}
    assert sides() == sides()


def test_another_prepare_batch_comes_first():
    def joined(batch, device, non_blocking=False):
        return torch.cat((batch["image"], batch["image"]), dim=1), batch["label"]

    image, _ = MultiScale([0.75], joined)(BATCH, CPU)
    assert image.shape == (2, 2, 192, 96)


@pytest.mark.parametrize("scales", [[], [0.0, 1.0], [-1.0]])
def test_scales_that_make_no_image_are_refused(scales):
    with pytest.raises(ValueError, match=r"scales must be positive, at least one; got \["):
        MultiScale(scales)
