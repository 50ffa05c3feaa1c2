"""Weights to ship."""

from __future__ import annotations

import pytest
import torch

from covsev.training.ship import ship


def test_weights_are_halved_and_stay_within_half_precision(tmp_path):
    state = {"weight": torch.linspace(-3, 3, 100), "steps": torch.tensor(7)}
    torch.save(state, tmp_path / "model.pt")
    digest = ship(tmp_path / "model.pt", tmp_path / "half.pt")
    half = torch.load(tmp_path / "half.pt", weights_only=True)
    assert len(digest) == 64
    assert half["weight"].dtype == torch.float16
    assert half["steps"] == 7
    torch.testing.assert_close(half["weight"].float(), state["weight"], rtol=5e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": {}}, "not a state dict"),
        ({}, "not a state dict"),
        ({"w": torch.tensor([1e6])}, "w is not finite in half precision"),
    ],
)
def test_what_cannot_be_shipped_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        ship(tmp_path / "model.pt", tmp_path / "half.pt")
    assert not (tmp_path / "half.pt").exists()
