"""Progressive pseudo labels: the schedule, the masks, and rounds that can be interrupted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy_slices import SIDE, run_configs, write_toy_dataset

from covsev.inference.network import SliceNetwork
from covsev.inference.slices import SlicePreprocessing
from covsev.inference.torch_runner import TorchRunner
from covsev.lesions.model import LesionModel, LesionPostprocessing
from covsev.lesions.picture import slice_probability
from covsev.networks import InfNetOutput
from covsev.training.data.manifests import load_datalist
from covsev.training.data.transforms import infection_training
from covsev.training.fine_tuning import DrawnEachEpoch, FineTuning
from covsev.training.losses import SegmentationLoss, SingleOutputLoss
from covsev.training.semi.pseudo_labels import Labelling, brighten, confidence, train_progressively
from covsev.training.semi.pseudo_schedule import ProgressiveSchedule

pytestmark = pytest.mark.usefixtures("global_seed_unset")

SIZE = (32, 32)


class _Tiny(nn.Module):
    """A network that calls bright pixels infected, with batch norm, whose buffers are averaged too."""

    def __init__(self, gain=20.0):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.zero_()[0, 0, 1, 1] = gain
            self.conv.bias.fill_(-0.35 * gain)

    def forward(self, image):
        return self.conv(self.norm(image))


@pytest.fixture
def data(tmp_path):
    manifest = write_toy_dataset(tmp_path / "data")
    return {
        "labelled": load_datalist(manifest, tmp_path / "data"),
        "unlabelled": load_datalist(manifest, tmp_path / "data", part="unlabelled"),
    }


@pytest.fixture
def start(tmp_path):
    torch.save(_Tiny().state_dict(), tmp_path / "start.pt")
    return tmp_path / "start.pt"


def _fine_tuning(**changes):
    arguments = {
        "network": _Tiny(),
        "loss": SingleOutputLoss(SegmentationLoss(kernel=3)),
        "preprocessing": infection_training(SIZE),
        "device": torch.device("cpu"),
        "batch_size": 3,
        "learning_rate": 0.05,
    }
    return FineTuning(**{**arguments, **changes})


SCHEDULE = ProgressiveSchedule(rounds=2, slices_per_round=3, epochs=1, final_epochs=2)


def _run(start, data, output_dir, *, fine_tuning=None, labelling=None, schedule=SCHEDULE):
    return train_progressively(
        fine_tuning or _fine_tuning(),
        labelling or Labelling(SIZE),
        schedule,
        start=start,
        output_dir=output_dir,
        **data,
    )


def _same(path, other):
    states = [torch.load(p, weights_only=True) for p in (path, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _slices(path):
    return json.loads(Path(path).read_text())["slices"]


# ---- schedule --------------------------------------------------------------------------------------------------


def test_rounds_take_every_slice_once_then_the_end_takes_the_labelled_ones():
    *rounds, end = ProgressiveSchedule(rounds=None, slices_per_round=4, epochs=2, final_epochs=5).stages(10)
    assert [len(stage.share) for stage in rounds] == [4, 4, 2]
    assert sorted(position for stage in rounds for position in stage.share) == list(range(10))
    assert [stage.name for stage in rounds] == ["round_001", "round_002", "round_003"]
    assert all(stage.epochs == 2 and not stage.labelled_only for stage in rounds)
    assert (end.name, end.share, end.epochs, end.labelled_only) == ("final_003", (), 5, True)
    assert len({stage.seed // 10_000 for stage in (*rounds, end)}) == 4


def test_the_papers_numbers_give_its_320_rounds():
    assert len(ProgressiveSchedule(rounds=None, slices_per_round=5, final_epochs=0).stages(1600)) == 320


def test_more_rounds_begin_as_fewer_do():
    few = ProgressiveSchedule(rounds=2, slices_per_round=3, final_epochs=0).stages(20)
    more = ProgressiveSchedule(rounds=4, slices_per_round=3, final_epochs=0).stages(20)
    assert more[:2] == few


def test_the_seed_decides_the_order():
    shares = [ProgressiveSchedule(slices_per_round=50, seed=seed).stages(200)[0].share for seed in (0, 0, 1)]
    assert shares[0] == shares[1] != shares[2]


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("rounds", 0, 1), ("slices_per_round", 0, 1), ("epochs", 0, 1), ("final_epochs", -1, 0)],
)
def test_numbers_that_are_too_small_are_refused(name, value, least):
    with pytest.raises(ValueError, match=f"{name} must be at least {least}; got {value}"):
        ProgressiveSchedule(**{name: value})


# ---- labelling -------------------------------------------------------------------------------------------------


def test_confidence_is_the_soft_dice_with_the_own_mask():
    assert confidence(np.array([[1.0, 1.0], [0.0, 0.0]]), 0.5) == 1
    assert confidence(np.array([[0.8, 0.6], [0.2, 0.0]]), 0.5) == pytest.approx(2 * 1.4 / (1.6 + 2))
    assert confidence(np.array([[0.1, 0.3]]), 0.5) == pytest.approx(0.7), "nothing infected"


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_labels_are_made_as_infections_are_served(deep_supervision):
    network = _Tiny().eval()
    grey = np.random.default_rng(0).integers(0, 255, (45, 37)).astype(np.uint8)
    preprocessing = SlicePreprocessing(hu_window=(0, 1), network_size=SIZE, crop_margin_mm=0)
    served = LesionModel(
        SliceNetwork(TorchRunner(network), preprocessing, batch_size=1, name="tiny", weights=""),
        LesionPostprocessing(threshold=0.5),
    )
    labeller = network
    if deep_supervision:
        labeller = _FiveOutputs(network)
    probability = Labelling(SIZE).probability(labeller, grey)
    assert probability.shape == grey.shape
    np.testing.assert_allclose(probability, slice_probability(grey, served)[0], atol=1e-5)


class _FiveOutputs(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        logits = self.network(image)
        return InfNetOutput(logits, -logits, -logits, -logits, -logits)


def test_a_label_is_a_mask_file_and_what_is_known_about_it(data, tmp_path):
    network = _Tiny(gain=50.0).eval()
    image = data["labelled"][0]["image"]
    known = Labelling(SIZE, minimum_confidence=0.5).label(network, image, tmp_path / "a")
    mask = np.asarray(Image.open(tmp_path / "a_mask.png"))
    truth = np.asarray(Image.open(data["labelled"][0]["infection"]))
    assert mask.shape == (SIDE, SIDE + 2)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask == truth).mean() > 0.95
    assert known["infected_fraction"] == pytest.approx((mask > 0).mean(), abs=1e-6)
    assert (known["used"], known["brightened"]) == (True, False)
    assert Labelling(SIZE, minimum_confidence=1.0).label(network, image, tmp_path / "a")["used"] is False
    assert [path.name for path in tmp_path.glob("*.png")] == ["a_mask.png"]


def test_slices_scaled_by_their_extremes_are_brightened():
    tissue, lung, bone = 100, 15, 240
    grey = np.full((20, 20), tissue, np.uint8)
    grey[:10], grey[0, :5] = lung, bone
    bright = brighten(grey, 0.86)
    assert np.unique(bright).tolist() == [round(lung * 2.193), round(0.86 * 255), 255]
    assert bright.dtype == np.uint8
    assert brighten(bright, 0.86) is bright, "nothing is left to do"
    black = np.zeros((4, 4), np.uint8)
    assert brighten(black, 0.86) is black


def test_a_brightened_slice_is_labelled_and_kept(data, tmp_path):
    image = data["unlabelled"][0]["image"]
    known = Labelling(SIZE, tissue_level=0.86).label(_Tiny().eval(), image, tmp_path / "a")
    assert known["brightened"] is True
    kept = np.asarray(Image.open(tmp_path / "a_image.png"))
    original = np.asarray(Image.open(image))
    np.testing.assert_array_equal(kept, brighten(original, 0.86))
    assert kept.mean() > original.mean()


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        ("threshold", 1, "between 0 and 1"),
        ("minimum_confidence", 1.5, r"in 0\.\.1"),
        ("tissue_level", 0.5, r"in 0\.6\.\.1"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, bounds):
    with pytest.raises(ValueError, match=f"{name} must be {bounds}; got {value}"):
        Labelling(SIZE, **{name: value})


def test_a_label_can_be_the_mean_over_all_orientations(data):
    grey = np.asarray(Image.open(data["unlabelled"][0]["image"]))
    network = _Tiny().eval()
    with torch.no_grad():
        network.conv.weight[0, 0, 0, 2] = 5  # it sees up and right otherwise than down and left
    turned = Labelling(SIZE, all_orientations=True)
    upside_down = turned.probability(network, grey[::-1].copy())[::-1]
    np.testing.assert_allclose(upside_down, turned.probability(network, grey), atol=1e-5)
    plain = Labelling(SIZE)
    assert np.abs(plain.probability(network, grey[::-1].copy())[::-1] - plain.probability(network, grey)).max() > 0.01


def test_a_grid_that_cannot_be_turned_is_refused():
    with pytest.raises(ValueError, match=r"all_orientations needs a square network_size; got \(32, 64\)"):
        Labelling((32, 64), all_orientations=True)


# ---- fine-tuning -----------------------------------------------------------------------------------------------


def test_fine_tuning_is_a_function_of_weights_records_and_seed(data):
    states = [_fine_tuning()(data["labelled"], epochs=2, seed=seed) for seed in (5, 5, 6)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["conv.weight"], states[2]["conv.weight"])


def test_fine_tuning_returns_the_running_average(data):
    fine_tuning = _fine_tuning()
    state = fine_tuning(data["labelled"], epochs=2, seed=0)
    begin, end = _Tiny().state_dict()["conv.bias"], fine_tuning.network.state_dict()["conv.bias"]
    assert (state["conv.bias"] - begin).sign() == (end - begin).sign()
    assert 0 < (state["conv.bias"] - begin).abs() < (end - begin).abs()


def test_too_few_slices_are_refused(data):
    with pytest.raises(ValueError, match="6 slices are fewer than a batch of 7"):
        _fine_tuning(batch_size=7)(data["labelled"], epochs=1, seed=0)


def test_diverged_training_is_refused(data):
    loss = SingleOutputLoss(lambda logits, target: logits.mean() * float("nan"))
    with pytest.raises(FloatingPointError, match=r"training diverged at learning_rate 0\.05"):
        _fine_tuning(loss=loss)(data["labelled"], epochs=1, seed=0)


def test_every_epoch_has_the_first_records_and_others_of_the_further_ones():
    order = DrawnEachEpoch(3, 20, 5)
    torch.manual_seed(0)
    epochs = [list(order) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == len(order) == 8
        assert {0, 1, 2} < set(epoch) <= set(range(23))
    assert set(epochs[0]) != set(epochs[1])
    assert epochs[0][:3] != [0, 1, 2], "shuffled together"


@pytest.mark.parametrize(("drawn", "length"), [(None, 5), (9, 5), (0, 2)])
def test_no_more_is_drawn_than_there_is(drawn, length):
    order = DrawnEachEpoch(2, 3, drawn)
    assert len(list(order)) == len(order) == length


def test_a_negative_draw_is_refused():
    with pytest.raises(ValueError, match="drawn must be 0 or more; got -1"):
        DrawnEachEpoch(2, 3, -1)


# ---- the rounds ------------------------------------------------------------------------------------------------


def test_a_run_leaves_weights_labels_and_their_story(data, start, tmp_path):
    out = tmp_path / "out"
    assert _run(start, data, out) == out / "model.pt"
    names = {"round_001", "round_002"}
    files = {f"{stem}{suffix}" for stem in (*names, "final_002") for suffix in (".pt", ".json")}
    assert {path.name for path in out.iterdir()} == {*files, *names, "model.pt"}
    assert _same(out / "model.pt", out / "final_002.pt")
    assert not _same(out / "round_001.pt", out / "round_002.pt")
    slices = [entry for name in sorted(names) for entry in _slices(out / f"{name}.json")]
    assert len({entry["position"] for entry in slices}) == 6
    for entry in slices:
        assert entry["image"] == Path(data["unlabelled"][entry["position"]]["image"]).name
    masks = sorted(f"{entry['position']:05d}_mask.png" for entry in slices[:3])
    assert sorted(path.name for path in (out / "round_001").iterdir()) == masks
    _Tiny().load_state_dict(torch.load(out / "model.pt", weights_only=True))


class _Recorder:
    """Stands in for a FineTuning: remembers what it is given, changes one weight."""

    def __init__(self):
        self.network = _Tiny()
        self.calls = []

    def numbers(self):
        return {}

    def __call__(self, records, further, *, epochs, seed):
        records = [*records, *further]
        self.calls.append(([Path(r["image"]).name for r in records], [r["infection"] for r in records], epochs))
        return {name: value + 0.01 for name, value in self.network.state_dict().items()}


def test_labels_add_up_and_the_end_has_none(data, start, tmp_path):
    recorder = _Recorder()
    _run(start, data, tmp_path / "out", fine_tuning=recorder)
    (first, _, _), (second, masks, _), (last, _, last_epochs) = recorder.calls
    labelled = [Path(record["image"]).name for record in data["labelled"]]
    assert first[:6] == second[:6] == last == labelled
    assert len(first) == 9
    assert second[:9] == first
    assert len(set(second)) == 12
    assert last_epochs == 2
    assert all(Path(mask).is_file() for mask in masks)


def test_each_round_labels_with_the_weights_of_the_one_before(data, start, tmp_path):
    recorder = _Recorder()
    _run(start, data, tmp_path / "out", fine_tuning=recorder)
    begin = _Tiny().state_dict()["conv.bias"]
    last = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["conv.bias"]
    torch.testing.assert_close(last, begin + 0.03)
    digests = [json.loads((tmp_path / "out" / f"round_00{n}.json").read_text())["made_from"]["weights"] for n in (1, 2)]
    assert digests[0] != digests[1]


def test_brightened_slices_are_trained_on(data, start, tmp_path):
    recorder = _Recorder()
    _run(start, data, tmp_path / "out", fine_tuning=recorder, labelling=Labelling(SIZE, tissue_level=0.86))
    images, masks, _ = recorder.calls[0]
    assert all(name.endswith("_image.png") for name in images[6:])
    assert [name.replace("_image", "_mask") for name in images[6:]] == [Path(mask).name for mask in masks[6:]]


def test_doubtful_slices_are_labelled_but_not_used(data, start, tmp_path):
    recorder = _Recorder()
    _run(start, data, tmp_path / "out", fine_tuning=recorder, labelling=Labelling(SIZE, minimum_confidence=1.0))
    assert {len(call[0]) for call in recorder.calls} == {6}
    assert len(list((tmp_path / "out" / "round_001").glob("*.png"))) == 3
    assert not any(entry["used"] for entry in _slices(tmp_path / "out" / "round_001.json"))


class _Interrupted(FineTuning):
    """Breaks down in its second round."""

    def __call__(self, records, further=(), *, epochs, seed):
        if seed == 20_000:
            raise KeyboardInterrupt
        return super().__call__(records, further, epochs=epochs, seed=seed)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(data, start, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _run(start, data, whole)
    arguments = {field.name: getattr(_fine_tuning(), field.name) for field in dataclasses.fields(FineTuning)}
    with pytest.raises(KeyboardInterrupt):
        _run(start, data, broken, fine_tuning=_Interrupted(**arguments))
    assert (broken / "round_001.pt").is_file()
    assert not (broken / "round_002.pt").exists()
    assert (broken / "round_002.json").is_file(), "the slices were labelled already"
    first_written = (broken / "round_001.pt").stat().st_mtime_ns
    _run(start, data, broken)
    assert (broken / "round_001.pt").stat().st_mtime_ns == first_written, "skipped"
    assert _same(broken / "model.pt", whole / "model.pt")
    assert _slices(broken / "round_002.json") == _slices(whole / "round_002.json")


def test_a_finished_run_can_get_more_rounds(data, start, tmp_path):
    recorder = _Recorder()
    _run(start, data, tmp_path / "out", fine_tuning=recorder)
    _run(start, data, tmp_path / "out", fine_tuning=recorder, schedule=dataclasses.replace(SCHEDULE, rounds=None))
    assert [len(call[0]) for call in recorder.calls] == [9, 12, 6, 13, 6]
    assert _same(tmp_path / "out" / "model.pt", tmp_path / "out" / "final_003.pt")


def test_labels_of_other_images_are_refused(data, start, tmp_path):
    _run(start, data, tmp_path / "out")
    data["unlabelled"].reverse()
    with pytest.raises(ValueError, match=r"round_001\.json: made from other images; choose another output_dir"):
        _run(start, data, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule": dataclasses.replace(SCHEDULE, epochs=2)}, "epochs"),
        ({"schedule": dataclasses.replace(SCHEDULE, seed=1)}, "images, seed, share"),
        ({"labelling": Labelling(SIZE, threshold=0.4)}, "threshold"),
        ({"fine_tuning": _fine_tuning(learning_rate=0.1)}, "learning_rate"),
    ],
)
def test_other_numbers_in_the_same_folder_are_refused(changes, named, data, start, tmp_path):
    _run(start, data, tmp_path / "out")
    with pytest.raises(ValueError, match=rf"round_001\.json: made from other {named}; choose another output_dir"):
        _run(start, data, tmp_path / "out", **changes)


def test_other_slices_in_the_same_folder_are_refused(data, start, tmp_path):
    """As those of another fold would be, whose network has seen the answers."""
    _run(start, data, tmp_path / "out")
    fold = {**data, "labelled": data["labelled"][:3]}
    with pytest.raises(ValueError, match=r"round_001\.json: made from other labelled; choose another output_dir"):
        _run(start, fold, tmp_path / "out")


def test_weights_without_their_story_are_refused(data, start, tmp_path):
    _run(start, data, tmp_path / "out")
    (tmp_path / "out" / "round_001.json").unlink()
    with pytest.raises(ValueError, match=r"round_001\.json is missing beside its weights; choose another output_dir"):
        _run(start, data, tmp_path / "out")


@pytest.mark.parametrize("name", [None, "none.pt"])
def test_the_start_must_be_named(name, data, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"start: {name} is not a file; name the weights of the supervised"):
        _run(name, data, tmp_path / "out")


def test_the_output_must_be_named(data, start):
    with pytest.raises(ValueError, match="output_dir is not named"):
        _run(start, data, None)


def test_weights_of_another_network_are_refused(data, tmp_path):
    torch.save(nn.Conv2d(1, 1, 3).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: weights do not fit the network \(RuntimeError\)"):
        _run(tmp_path / "other.pt", data, tmp_path / "out")


# ---- the bundle's configuration --------------------------------------------------------------------------------


def test_the_configuration_runs(tmp_path):
    manifest = write_toy_dataset(tmp_path / "data")
    torch.save(_Tiny().state_dict(), tmp_path / "start.pt")
    run_configs(
        "semi_train.yaml",
        "network_unet.yaml",
        network_def=_Tiny(),
        dataset_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        manifest=str(manifest),
        start=str(tmp_path / "start.pt"),
        fold=0,
        device="$torch.device('cpu')",
        network_size=list(SIZE),
        batch_size=2,
        rounds=1,
        slices_per_round=2,
        epochs=1,
        final_epochs=1,
    )
    made_from = json.loads((tmp_path / "out" / "round_001.json").read_text())["made_from"]
    assert made_from["labelled"] == ["b_1.png", "b_3.png", "b_5.png"], "fold 0 is left out"
    assert (tmp_path / "out" / "model.pt").is_file()
