"""Whose turn it is: the paper's schedule, epoch by epoch."""

from __future__ import annotations

import pytest

from covsev.training.pretraining.game_schedule import GameSchedule, Turn


@pytest.mark.parametrize(
    ("epoch", "player", "random_masks", "rate"),
    [
        (1, "inpainter", True, 0.1),
        (80, "inpainter", True, 0.1),
        (81, "inpainter", True, 0.01),
        (161, "inpainter", True, 0.001),
        (181, "inpainter", True, 0.0001),
        (200, "inpainter", True, 0.0001),
        (201, "coach", False, 0.1),
        (400, "coach", False, 0.0001),
        (401, "inpainter", False, 0.1),
        (441, "inpainter", False, 0.01),
        (501, "coach", False, 0.1),
        (601, "inpainter", False, 0.1),
        (2000, "coach", False, 0.0001),
    ],
)
def test_the_papers_turns(epoch, player, random_masks, rate):
    assert GameSchedule().turn(epoch) == Turn(player, random_masks, rate)


def test_the_paper_gives_both_players_a_thousand_epochs():
    players = [GameSchedule().turn(epoch).player for epoch in range(1, 2001)]
    assert players.count("inpainter") == players.count("coach") == 1000


@pytest.mark.parametrize("epoch", [0, 2001])
def test_no_turn_outside_the_game(epoch):
    with pytest.raises(ValueError, match=f"epoch must be between 1 and 2000; got {epoch}"):
        GameSchedule().turn(epoch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"later_epochs": 0}, "later_epochs must be at least 1; got 0"),
        ({"learning_rates": (0.1,)}, "1 learning_rates, but 4 milestones"),
        ({"milestones": (0, 0.8, 0.4, 0.9)}, "milestones must rise from 0"),
        ({"milestones": (0.1, 0.4, 0.8, 0.9)}, "milestones must rise from 0"),
    ],
)
def test_schedules_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        GameSchedule(**arguments)
