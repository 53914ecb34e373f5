"""Panels, titles and pictures."""

from __future__ import annotations

import numpy as np
import torch

from vidwm.evaluation.strips import GAP, TITLE_HEIGHT, filmstrip, panel_scale, strip, titled_strip


def flat(count: int, value: float, size: int = 8) -> torch.Tensor:
    return torch.full((count, 3, size, size), value)


def panel(video: torch.Tensor, index: int, scale: int = 1, size: int = 8) -> torch.Tensor:
    start = index * (size + GAP) * scale
    return video[..., start : start + size * scale]


def test_panels_run_in_step_and_the_last_prediction_is_compared() -> None:
    context, truth = flat(2, 0.2), flat(3, 0.4)
    video = strip(context, truth, flat(3, 0.6), flat(3, 0.3), scale=1)
    assert video.shape == (5, 3, 8, 5 * 8 + 4 * GAP) and video.dtype == torch.uint8
    shown = [[int(panel(video[t], i).float().mean()) for i in range(5)] for t in (1, 4)]
    # The difference of 0.1 to the last of them is shown threefold.
    assert shown == [[51, 51, 51, 51, 0], [51, 102, 153, 76, 76]]
    assert (video[:, :, :, 8 : 8 + GAP] == 255).all()


def test_scale_repeats_pixels() -> None:
    context, truth = torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 8)
    small, large = (strip(context, truth, truth, scale=s) for s in (1, 3))
    assert torch.equal(large[..., ::3, ::3], small)


def test_titles_stand_above_panels_of_even_size() -> None:
    context, truth = flat(1, 0.0, size=9), flat(2, 0.0, size=9)
    video = titled_strip(context, truth, [truth], ["prediction"])
    assert video.dtype == np.uint8 and video.shape[0] == 3 and video.shape[3] == 3
    assert video.shape[1] % 2 == 0 and video.shape[2] % 2 == 0
    bar = video[0, :TITLE_HEIGHT]
    width = 9 * panel_scale(9)
    for index in range(4):
        start = index * (9 + GAP) * panel_scale(9)
        assert (bar[:, start : start + width] < 128).any(), f"panel {index} has no title"


def test_the_film_has_a_row_for_truth_and_each_prediction() -> None:
    context, truth = flat(2, 0.2), flat(3, 0.4)
    picture = filmstrip(context, truth, [flat(3, 0.6), flat(3, 0.8)], scale=1)
    assert picture.shape == (3, 3 * 8 + 2 * GAP, 5 * 8 + GAP)
    last_column = [int(picture[0, row * (8 + GAP), -1]) for row in range(3)]
    assert last_column == [102, 153, 204]
    assert (picture[:, :8, :16] == 51).all()
