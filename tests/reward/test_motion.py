from __future__ import annotations

import pytest
import torch

from vidwm.reward.motion import motion_weights
from vidwm.reward.pixels import masked_mae, masked_mse, moving_mask
from vidwm.reward.scorer import Scorer

B, G, T, SIZE = 2, 3, 2, 32


@pytest.fixture
def scene():
    """Tokens (B, G, T, 1), a palette they choose from, true and last context frames."""
    last = torch.rand(B, 3, SIZE, SIZE)
    true = last[:, None].repeat(1, T, 1, 1, 1)
    true[0, 0, :, 3:9, 4:20] = 1 - true[0, 0, :, 3:9, 4:20]
    true[0, 1, :, 20:, 20:] = 0.0
    true[1, 1, 2, 0, 0] = 1 - true[1, 1, 2, 0, 0].round()
    return torch.randint(9, (B, G, T, 1)), torch.rand(9, 3, SIZE, SIZE), true, last


def test_weights_have_mean_one_where_something_moved(scene):
    _, _, true, last = scene
    weights = motion_weights(true, last)
    moved = moving_mask(true, last[:, None])
    assert torch.equal(weights > 0, moved)
    mean = weights.mean(dim=(2, 3, 4))
    torch.testing.assert_close(mean, torch.tensor([[1.0, 1.0], [0.0, 1.0]]))


def test_moving_metrics_are_means_over_the_pixels_that_moved(scene):
    tokens, palette, true, last = scene
    scorer = Scorer(["moving_mae", "moving_mse", "mae"], chunk=2)
    scores = scorer.score(tokens, true, last, decode=lambda rows: palette[rows[:, 0]])
    mask = moving_mask(true, last[:, None])[:, None]
    pred = palette[tokens[..., 0]]
    for name, masked in (("moving_mae", masked_mae), ("moving_mse", masked_mse)):
        expected, _ = masked(pred, true[:, None], mask)
        torch.testing.assert_close(scores[name], expected)


def test_a_grid_shares_them_among_its_cells(scene):
    tokens, palette, true, last = scene
    decode = lambda rows: palette[rows[:, 0]]  # noqa: E731
    whole = Scorer(["moving_mae"]).score(tokens, true, last, decode=decode)["moving_mae"]
    cells = Scorer(["moving_mae"], grid=(4, 8)).score(tokens, true, last, decode=decode)[
        "moving_mae"
    ]
    torch.testing.assert_close(cells.mean(dim=(3, 4)), whole)
    assert (cells[0, :, 0, 2:] == 0).all() and (cells[0, :, 0, 0, 1:5] > 0).all()


def test_without_the_last_context_frame_they_are_refused(scene):
    tokens, palette, true, _ = scene
    with pytest.raises(ValueError, match="last context frames"):
        Scorer(["moving_mae"]).score(tokens, true, decode=lambda rows: palette[rows[:, 0]])
