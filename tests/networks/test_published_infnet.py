"""Checkpoints of the public Inf-Net repository give the published maps.

The published network is written down here once more, as functions over a dictionary of its tensors: RGB in,
ImageNet statistics, its own key names, five maps out. It shares no code with the package.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from covsev.networks import load_published_infnet
from covsev.networks.published_infnet import published_state_dict

SIDE = 96
BLOCKS = {1: 3, 2: 4, 3: 6, 4: 3}


# ---- the tensors of the published network ----------------------------------------------------------------------


def _convs():
    """(name, out, in, kernel height, kernel width) of every convolution, batch norms named beside them."""
    yield from (("resnet.conv1.0", 32, 3, 3, 3), ("resnet.conv1.3", 32, 32, 3, 3), ("resnet.conv1.6", 64, 32, 3, 3))
    inputs = 64
    for stage, blocks in BLOCKS.items():
        width, outputs = 26 * 2 ** (stage - 1), 256 * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"resnet.layer{stage}.{block}"
            yield f"{name}.conv1", 4 * width, inputs, 1, 1
            yield from ((f"{name}.convs.{i}", width, width, 3, 3) for i in range(3))
            yield f"{name}.conv3", outputs, 4 * width, 1, 1
            if block == 0:
                yield f"{name}.downsample.1", outputs, inputs, 1, 1
            inputs = outputs
    for rfb, channels in (("rfb2_1", 512), ("rfb3_1", 1024), ("rfb4_1", 2048)):
        yield f"{rfb}.branch0.0.conv", 32, channels, 1, 1
        for branch, size in ((1, 3), (2, 5), (3, 7)):
            kernels = ((channels, 1, 1), (32, 1, size), (32, size, 1), (32, 3, 3))
            yield from ((f"{rfb}.branch{branch}.{i}.conv", 32, *kernel) for i, kernel in enumerate(kernels))
        yield f"{rfb}.conv_cat.conv", 32, 128, 3, 3
        yield f"{rfb}.conv_res.conv", 32, channels, 1, 1
    for name, channels in zip(
        ("upsample1", "upsample2", "upsample3", "upsample4", "upsample5", "concat2", "concat3"),
        (32, 32, 32, 32, 64, 64, 96),
        strict=True,
    ):
        yield f"ParDec.conv_{name}.conv", channels, channels, 3, 3
    yield "ParDec.conv4.conv", 96, 96, 3, 3
    yield "ParDec.conv5", 1, 96, 1, 1
    for name, channels, hidden, depth, kernel in (
        ("ra4", 2048, 256, 5, 5),
        ("ra3", 1024, 64, 4, 3),
        ("ra2", 512, 64, 4, 3),
    ):
        last = 1 if kernel == 5 else 3
        yield f"{name}_conv1.conv", hidden, channels, 1, 1
        yield f"{name}_conv2.conv", hidden, hidden + 64, kernel, kernel
        yield from ((f"{name}_conv{i}.conv", hidden, hidden, kernel, kernel) for i in range(3, depth))
        yield f"{name}_conv{depth}.conv", 1, hidden, last, last
    yield "edge_conv1.conv", 64, 256, 1, 1
    yield from ((f"edge_conv{i}.conv", 64, 64, 3, 3) for i in (2, 3))
    yield "edge_conv4.conv", 1, 64, 3, 3


def _norm_of(conv):
    """Name of the batch norm that follows ``conv`` in the published network."""
    special = {"resnet.conv1.0": "resnet.conv1.1", "resnet.conv1.3": "resnet.conv1.4", "resnet.conv1.6": "resnet.bn1"}
    head, _, last = conv.rpartition(".")
    if conv in special or conv == "ParDec.conv5":
        return special.get(conv)
    if head.endswith(".convs"):
        return f"{head.removesuffix('convs')}bns.{last}"
    if head.endswith(".downsample"):
        return f"{head}.2"
    return f"{head}.{last.replace('conv', 'bn')}"


@pytest.fixture(scope="module")
def published():
    """Random tensors of the published network, in its order of size and with its key names."""
    g = torch.Generator().manual_seed(0)
    state = {}
    for name, out, inside, height, width in _convs():
        spread = (2 / (inside * height * width)) ** 0.5
        state[f"{name}.weight"] = torch.randn(out, inside, height, width, generator=g) * spread
        norm = _norm_of(name)
        if norm is None:
            state[f"{name}.bias"] = torch.randn(out, generator=g)
            continue
        low = 0.1 if name.endswith("conv3") and "layer" in name else 0.5  # residual sums must not grow
        state[f"{norm}.weight"] = low + 0.5 * torch.rand(out, generator=g)
        state[f"{norm}.bias"] = 0.4 * torch.rand(out, generator=g) - 0.2
        state[f"{norm}.running_mean"] = 0.4 * torch.rand(out, generator=g) - 0.2
        state[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=g)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)
    state["resnet.fc.weight"], state["resnet.fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    return state


# ---- its forward pass ------------------------------------------------------------------------------------------


class _Published:
    def __init__(self, state):
        self.state = state

    def conv(self, name, x, **options):
        """Convolution and the batch norm after it."""
        x = F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)
        norm = _norm_of(name)
        if norm is None:
            return x
        mean, var, weight, bias = (
            self.state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    def same(self, name, x, kernel=3):
        return self.conv(f"{name}.conv", x, padding=kernel // 2)

    def res2net_block(self, name, x, stride, first):
        pieces = F.relu(self.conv(f"{name}.conv1", x)).chunk(4, dim=1)
        done, carry = [], 0
        for i in range(3):
            carry = F.relu(self.conv(f"{name}.convs.{i}", pieces[i] + carry, stride=stride, padding=1))
            done.append(carry)
            carry = 0 if first else carry
        fourth = F.avg_pool2d(pieces[3], 3, stride, 1) if first else pieces[3]
        if first:
            pooled = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
            x = self.conv(f"{name}.downsample.1", pooled)
        return F.relu(self.conv(f"{name}.conv3", torch.cat([*done, fourth], 1)) + x)

    def encoder(self, rgb):
        x = F.relu(self.conv("resnet.conv1.0", rgb, stride=2, padding=1))
        x = F.relu(self.conv("resnet.conv1.3", x, padding=1))
        x = F.max_pool2d(F.relu(self.conv("resnet.conv1.6", x, padding=1)), 3, 2, 1)
        for stage, blocks in BLOCKS.items():
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 1 else 1
                x = self.res2net_block(f"resnet.layer{stage}.{block}", x, stride, block == 0)
            yield x

    def rfb(self, name, x):
        branches = [self.conv(f"{name}.branch0.0.conv", x)]
        for b, size in ((1, 3), (2, 5), (3, 7)):
            y = self.conv(f"{name}.branch{b}.0.conv", x)
            y = self.conv(f"{name}.branch{b}.1.conv", y, padding=(0, size // 2))
            y = self.conv(f"{name}.branch{b}.2.conv", y, padding=(size // 2, 0))
            branches.append(self.conv(f"{name}.branch{b}.3.conv", y, padding=size, dilation=size))
        return F.relu(self.same(f"{name}.conv_cat", torch.cat(branches, 1)) + self.conv(f"{name}.conv_res.conv", x))

    def decoder(self, f4, f3, f2):
        def up(x):
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

        def step(name, x):
            return self.same(f"ParDec.conv_{name}", x)

        middle = torch.cat([step("upsample1", up(f4)) * f3, step("upsample4", up(f4))], 1)
        middle = step("concat2", middle)
        fine = step("upsample2", up(up(f4))) * step("upsample3", up(f3)) * f2
        fine = step("concat3", torch.cat([fine, step("upsample5", up(middle))], 1))
        return self.conv("ParDec.conv5", self.same("ParDec.conv4", fine))

    def reverse(self, name, feature, coarse, edge, depth, kernel):
        x = self.conv(f"{name}_conv1.conv", feature * (1 - coarse.sigmoid()))
        x = torch.cat([x, edge], 1)
        for i in range(2, depth):
            x = F.relu(self.same(f"{name}_conv{i}", x, kernel))
        return self.same(f"{name}_conv{depth}", x, 1 if kernel == 5 else 3) + coarse

    def __call__(self, rgb):
        """S_g, S_5, S_4, S_3 and the edge, as the published network returns them."""

        def scale(x, factor):
            return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

        x1, x2, x3, x4 = self.encoder(rgb)
        edge = self.same("edge_conv3", self.same("edge_conv2", self.conv("edge_conv1.conv", x1)))
        sg = self.decoder(self.rfb("rfb4_1", x4), self.rfb("rfb3_1", x3), self.rfb("rfb2_1", x2))
        s5 = self.reverse("ra4", x4, scale(sg, 1 / 4), scale(edge, 1 / 8), 5, 5)
        s4 = self.reverse("ra3", x3, scale(s5, 2), scale(edge, 1 / 4), 4, 3)
        s3 = self.reverse("ra2", x2, scale(s4, 2), scale(edge, 1 / 2), 4, 3)
        return scale(sg, 8), scale(s5, 32), scale(s4, 16), scale(s3, 8), scale(self.same("edge_conv4", edge), 4)


# ---- tests -----------------------------------------------------------------------------------------------------


def test_published_network_has_33_million_parameters(published):
    tensors = (value for key, value in published.items() if "running" not in key and "num_batches" not in key)
    assert round(sum(tensor.numel() for tensor in tensors) / 1e6, 2) == 33.12


def test_checkpoint_gives_the_five_published_maps(published, tmp_path):
    path = tmp_path / "Inf-Net-100.pth"
    torch.save(published, path)
    network = load_published_infnet(path)
    assert not network.training
    grey = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        rgb = (grey.repeat(1, 3, 1, 1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        expected = _Published(published)(rgb)
        outputs = network.all_outputs(grey)
        assert torch.equal(network(grey), outputs.s3)
    actual = (outputs.sg, outputs.s5, outputs.s4, outputs.s3, outputs.edge)
    for ours, theirs in zip(actual, expected, strict=True):
        assert theirs.std() > 0.05, "the maps must not be flat, or the comparison says nothing"
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_published_infnet(tmp_path / "nowhere.pth")


def test_unreadable_file_is_named(tmp_path):
    path = tmp_path / "text.pth"
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth: does not fit the published Inf-Net"):
        load_published_infnet(path)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("resnet.conv1.0.weight", r"other\.pth: does not fit the published Inf-Net: .*Missing key"),
        ("outc.conv.weight", r"other\.pth: does not fit the published Inf-Net: .*unexpected key 'outc\.conv\.weight'"),
    ],
)
def test_checkpoint_of_another_network_is_refused(tmp_path, key, message):
    torch.save({key: torch.zeros(32, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        load_published_infnet(tmp_path / "other.pth")


def test_renaming_refuses_a_state_without_the_stem():
    with pytest.raises(ValueError, match=r"'resnet\.conv1\.0\.weight' is missing"):
        published_state_dict({"edge_conv1.conv.weight": torch.zeros(64, 256, 1, 1)})
