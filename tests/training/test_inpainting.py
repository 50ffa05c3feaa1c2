"""Pretraining by inpainting: the loss, the turns, resuming and the log, on tiny networks and images."""

from __future__ import annotations

import csv
import random

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandFlipd
from PIL import Image
from torch import nn

from covsev.networks import Backbone, Coach, InfNetOutput, InpaintingInfNet
from covsev.networks.coach import random_masks
from covsev.networks.inpainting_infnet import HEADS
from covsev.training.data.augmentation import GREY
from covsev.training.data.transforms import GradientEdged
from covsev.training.pretraining.game_log import GameLog, mask_hardness
from covsev.training.pretraining.game_schedule import GameSchedule
from covsev.training.pretraining.inpainting import CoachGame, ReconstructionLoss, erase, play

pytestmark = pytest.mark.usefixtures("global_seed_unset")

SIZE = 64
SMALL = {"attention_channels": (8, 8, 8), "decoder_channels": 8, "edge_channels": 8}


class TinyBackbone(Backbone):
    """Five small convolutions, so that a game takes seconds."""

    channels = (4, 8, 12, 16, 16)

    def __init__(self, in_channels: int = 1):
        super().__init__()
        widths = (in_channels, *self.channels)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(widths, self.channels, strict=False)
        )

    def forward(self, image):
        features = []
        for level in self.levels:
            image = level(image)
            features.append(image)
        return features


@pytest.fixture
def tiny_networks(monkeypatch):
    """A function that makes an inpainter and a coach over :class:`TinyBackbone`."""
    for module in ("infnet", "coach"):
        monkeypatch.setattr(f"covsev.networks.{module}.make_backbone", lambda name, in_channels=1: TinyBackbone())

    def make(seed: int = 0) -> tuple[InpaintingInfNet, Coach]:
        torch.manual_seed(seed)
        return InpaintingInfNet("tiny", **SMALL), Coach("tiny")

    return make


def dark_images_with_a_bright_square(count: int) -> list[dict[str, torch.Tensor]]:
    """(1, 64, 64) images: four of the sixteen cells are bright, somewhere; erased, they cannot be foreseen."""
    generator = np.random.default_rng(0)
    edges = GradientEdged(keys="image")
    records = []
    for _ in range(count):
        image = torch.full((1, SIZE, SIZE), 0.1)
        row, column = generator.integers(0, 3, 2) * 16
        image[:, row : row + 32, column : column + 32] = 0.9
        records.append(edges({"image": image}))
    return records


def make_game(networks, schedule, *, handlers=(), iterations=4, count=16):
    inpainter, coach = networks
    flips = Compose([RandFlipd(keys=("image", "edge"), prob=0.5, spatial_axis=axis) for axis in (0, 1)])
    data = Dataset(dark_images_with_a_bright_square(count), transform=flips)
    return CoachGame(
        device="cpu",
        train_data_loader=DataLoader(data, batch_size=8, shuffle=True),
        inpainter=inpainter,
        coach=coach,
        inpainter_optimizer=torch.optim.SGD(inpainter.parameters(), lr=1, momentum=0.9, weight_decay=5e-4),
        coach_optimizer=torch.optim.Adam(coach.parameters(), lr=3e-3),
        schedule=schedule,
        epoch_length=iterations,
        train_handlers=handlers,
    )


def probe():
    return DataLoader(dark_images_with_a_bright_square(16), batch_size=16)


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- the inpainting form -----------------------------------------------------------------------------------------


def test_heads_are_linear():
    with torch.device("meta"):
        network = InpaintingInfNet("efficientnet_lite0")
    for name in HEADS:
        head = network.get_submodule(name)
        assert type(head) is nn.Conv2d
        assert head.bias is not None
        assert head.out_channels == 1


def test_five_outputs_of_the_images_size(tiny_networks):
    inpainter, _ = tiny_networks()
    outputs = inpainter(torch.rand(2, 1, 64, 96))
    assert isinstance(outputs, InfNetOutput)
    assert {tuple(output.shape) for output in outputs} == {(2, 1, 64, 96)}


# ---- the loss ----------------------------------------------------------------------------------------------------


def constant_outputs(value, edge, shape=(2, 1, 32, 32)):
    return InfNetOutput(*(torch.full(shape, v) for v in (value, value, value, value, edge)))


def test_loss_by_hand():
    """Errors 0.25 on images and 0.5 on the edge: 0.3 on average, everywhere."""
    image, edge = torch.full((2, 1, 32, 32), 0.25), torch.zeros(2, 1, 32, 32)
    mask = random_masks(2, (32, 32), 0.75)
    assert ReconstructionLoss()(constant_outputs(0.5, 0.5), image, edge, mask).item() == pytest.approx(0.3)


def test_loss_weighs_erased_against_kept():
    """All outputs are right where kept and wrong by 1 where erased, or the other way round."""
    mask = random_masks(2, (32, 32), 0.75)
    outputs = InfNetOutput(*(1 - mask for _ in range(5)))
    nothing = torch.zeros_like(mask)
    assert ReconstructionLoss()(outputs, nothing, nothing, mask).item() == pytest.approx(0.99)
    assert ReconstructionLoss()(outputs, nothing + 1, nothing + 1, mask).item() == pytest.approx(0.01)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
@pytest.mark.parametrize("soft", [True, False])
def test_loss_lies_between_0_and_1(scale, soft):
    generator = torch.Generator().manual_seed(0)
    outputs = InfNetOutput(*(scale * torch.randn(2, 1, 32, 32, generator=generator) for _ in range(5)))
    image, edge = (torch.rand(2, 1, 32, 32, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, 32, 32, generator=generator) if soft else random_masks(2, (32, 32), 0.75)
    assert 0 <= ReconstructionLoss()(outputs, image, edge, mask).item() <= 1
    worst = ReconstructionLoss()(constant_outputs(7.0, -7.0), 0 * image, 0 * edge + 1, mask).item()
    assert worst == pytest.approx(1)


def test_outputs_beyond_the_range_still_learn():
    output = torch.full((1, 1, 32, 32), -3.0, requires_grad=True)
    target = torch.full((1, 1, 32, 32), 0.5)
    ReconstructionLoss()(InfNetOutput(*(output,) * 5), target, target, random_masks(1, (32, 32), 0.75)).backward()
    assert (output.grad < 0).all()


def test_erased_is_grey():
    mask = random_masks(1, (32, 32), 0.75)
    erased = erase(torch.ones(1, 1, 32, 32), mask)
    assert (erased[mask == 0] == GREY).all()
    assert (erased[mask == 1] == 1).all()


@pytest.mark.parametrize("wrong", ["image", "edge", "mask"])
def test_loss_refuses_other_shapes(wrong):
    targets = {name: torch.zeros(2, 1, 32, 16 if name == wrong else 32) for name in ("image", "edge", "mask")}
    with pytest.raises(ValueError, match=rf"{wrong} has shape \(2, 1, 32, 16\), but outputs have shape \(2, 1, 32, 32"):
        ReconstructionLoss()(constant_outputs(0.0, 0.0), **targets)


def test_loss_refuses_weights_out_of_range():
    with pytest.raises(ValueError, match=r"erased_weight must be between 0 and 1; got 1\.5"):
        ReconstructionLoss(erased_weight=1.5)


# ---- the game ----------------------------------------------------------------------------------------------------


def test_the_game_works(tiny_networks, tmp_path):
    """The stated margin: erased by the coach, L_rec is 1.5 times what random masks give; then it falls by a fifth."""
    schedule = GameSchedule(first_epochs=1, later_epochs=1, total_epochs=3, learning_rates=(0.05,), milestones=(0,))
    log = GameLog(tmp_path, probe())
    make_game(tiny_networks(), schedule, handlers=[log], iterations=60).run()
    start, coached, answered = log.rows
    assert coached["random_mask_loss"] == start["random_mask_loss"]
    assert coached["coach_mask_loss"] > 1.5 * coached["random_mask_loss"]
    assert coached["mask_hardness"] > start["mask_hardness"] + 0.05
    assert answered["coach_mask_loss"] < 0.8 * coached["coach_mask_loss"]


def test_only_the_player_whose_turn_it_is_learns(tiny_networks):
    inpainter, coach = tiny_networks()
    game = make_game((inpainter, coach), GameSchedule(first_epochs=1, later_epochs=1, total_epochs=3), iterations=2)
    snapshots = [(weights(inpainter), weights(coach))]
    game.add_event_handler(Events.EPOCH_COMPLETED, lambda: snapshots.append((weights(inpainter), weights(coach))))
    game.run()
    for player, before, after in zip(("inpainter", "coach", "inpainter"), snapshots, snapshots[1:], strict=False):
        assert same(before[0], after[0]) == (player == "coach")
        assert same(before[1], after[1]) == (player == "inpainter")


def test_the_coach_learns_from_the_detached_painting(tiny_networks):
    """Its gradient is that of the loss's weights: mean error, minus the error at the pixel, by the erased area."""
    inpainter, coach = tiny_networks()
    schedule = GameSchedule(first_epochs=1, later_epochs=1, total_epochs=2)  # the second epoch is the coach's
    game = make_game((inpainter, coach), schedule, iterations=1)
    masks, batches = [], []

    def watch(module, inputs, mask):
        mask.retain_grad()
        masks.append(mask)

    coach.register_forward_hook(watch)
    game.add_event_handler(Events.ITERATION_COMPLETED, lambda: batches.append(game.state.batch))
    game.run()
    (mask,), (_, batch) = masks, batches
    with torch.no_grad():
        outputs = inpainter(erase(batch["image"], mask))
    leaf = mask.detach().requires_grad_()
    (1 - ReconstructionLoss()(outputs, batch["image"], batch["edge"], leaf)).backward()
    assert torch.allclose(mask.grad, leaf.grad)
    assert leaf.grad.abs().max() > 0


def test_the_engine_reports_both_losses(tiny_networks):
    schedule = GameSchedule(first_epochs=1, later_epochs=1, total_epochs=2)
    game = make_game(tiny_networks(), schedule, iterations=1)
    outputs = []
    game.add_event_handler(Events.ITERATION_COMPLETED, lambda: outputs.append(game.state.output))
    game.run()
    painted, coached = outputs
    assert painted["loss"] == painted["reconstruction_loss"]
    assert coached["loss"] == pytest.approx(1 - coached["reconstruction_loss"])


def test_the_learning_rate_follows_the_schedule(tiny_networks):
    schedule = GameSchedule(2, 2, 4, learning_rates=(0.1, 0.01), milestones=(0, 0.5))
    game = make_game(tiny_networks(), schedule, iterations=1)
    rates = []
    game.add_event_handler(Events.EPOCH_COMPLETED, lambda: rates.append(game.inpainter_optimizer.param_groups[0]["lr"]))
    game.run()
    assert rates == [0.1, 0.01, 0.1, 0.01]
    assert game.coach_optimizer.param_groups[0]["lr"] == 3e-3


# ---- resuming ----------------------------------------------------------------------------------------------------


def run_to(tiny_networks, folder, epochs, *, seed=0, resume=None):
    log = GameLog(folder, probe(), picture_every=3)
    networks = tiny_networks(seed)
    rates = (0.05, 0.01)
    schedule = GameSchedule(2, 1, epochs, learning_rates=rates, milestones=(0, 0.5))
    game = make_game(networks, schedule, handlers=[log], iterations=3, count=40)
    play(game, folder, log=log, resume=resume)
    return game


def test_resumed_equals_uninterrupted(tiny_networks, tmp_path):
    """Stopped within and between turns, and continued by a process in another random state."""
    whole = run_to(tiny_networks, tmp_path / "whole", 6)
    for stop in (1, 3, 5):
        folder = tmp_path / f"stopped_{stop}"
        run_to(tiny_networks, folder, stop)
        for scramble in (torch.manual_seed, np.random.seed, random.seed):
            scramble(99)
        resumed = run_to(tiny_networks, folder, 6, seed=7, resume=folder / f"checkpoint_epoch={stop}.pt")
        assert resumed.state.epoch == 6
        assert same(weights(whole.inpainter), weights(resumed.inpainter))
        assert same(weights(whole.coach), weights(resumed.coach))
        assert (folder / "game.csv").read_text() == (tmp_path / "whole" / "game.csv").read_text()


def test_what_a_run_leaves_behind(tiny_networks, tmp_path):
    game = run_to(tiny_networks, tmp_path, 4)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    pictures = ["mask_hardness.png", "masks/epoch_0003.png", "masks/epoch_0004.png"]
    assert names == ["checkpoint_epoch=4.pt", "game.csv", "inpainter.pt", *pictures]
    assert same(torch.load(tmp_path / "inpainter.pt", weights_only=True), weights(game.inpainter))


def test_a_missing_checkpoint_is_refused(tiny_networks, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"resume: .*nothing\.pt is not a file"):
        run_to(tiny_networks, tmp_path, 2, resume=tmp_path / "nothing.pt")


# ---- the log -----------------------------------------------------------------------------------------------------


def test_table_of_the_game(tiny_networks, tmp_path):
    run_to(tiny_networks, tmp_path, 5)
    with (tmp_path / "game.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row["player"] for row in rows] == ["inpainter", "inpainter", "coach", "coach", "inpainter"]
    assert [row["masks"] for row in rows] == ["random", "random", "coach", "coach", "coach"]
    for row in rows:
        assert float(row["mask_hardness"]) == pytest.approx(
            float(row["coach_mask_loss"]) - float(row["random_mask_loss"])
        )
        if row["player"] == "coach":
            assert float(row["coach_loss"]) == pytest.approx(1 - float(row["reconstruction_loss"]))
        else:
            assert row["coach_loss"] == ""


def test_picture_of_the_masks(tiny_networks, tmp_path):
    run_to(tiny_networks, tmp_path, 2)
    picture = np.asarray(Image.open(tmp_path / "masks" / "epoch_0002.png"))
    assert picture.shape == (4 * SIZE, 5 * SIZE)
    image, mask, erased = (picture[:SIZE, i * SIZE : (i + 1) * SIZE] for i in range(3))
    assert (mask == 0).mean() == 0.25
    assert (erased[mask == 0] == round(255 * GREY)).all()
    assert (erased[mask == 255] == image[mask == 255]).all()
    assert Image.open(tmp_path / "mask_hardness.png").size == (800, 600)


def test_hardness_repeats_itself_and_changes_nothing(tiny_networks):
    inpainter, coach = tiny_networks()
    batches = list(probe())
    before, random_state = weights(inpainter), torch.get_rng_state()
    first, again = (mask_hardness(inpainter, coach, batches) for _ in range(2))
    assert first == again
    assert first.difference == first.coach_mask_loss - first.random_mask_loss
    assert same(before, weights(inpainter))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_hardness_needs_a_batch(tiny_networks):
    with pytest.raises(ValueError, match="no batch to measure mask hardness on"):
        mask_hardness(*tiny_networks(), [])
