"""Augmentation: one draw a clip, the same for the same seed, within bounds, off when it is off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from vidwm.data.augment import Change, augment, changed, draw_change
from vidwm.data_config import AugmentOptions

ALL = AugmentOptions(crop=0.7, brightness=0.2, contrast=0.2, saturation=0.3, hue=0.05)


def clips(B: int = 3, T: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (B, T, 3, 16, 20), dtype=torch.uint8, generator=generator)


def test_a_seed_gives_the_same_frames_and_another_does_not() -> None:
    frames = clips()
    first = augment(frames, ALL, seed=3)
    assert first.shape == frames.shape and first.dtype == torch.uint8
    assert torch.equal(first, augment(frames, ALL, seed=3))
    assert torch.equal(first[:2], augment(frames[:2], ALL, seed=3))  # whatever the batch
    assert not torch.equal(first, augment(frames, ALL, seed=4))


def test_all_frames_of_a_clip_meet_one_draw_and_clips_meet_their_own() -> None:
    still = clips(1, 1).expand(2, 4, 3, 16, 20)
    found = augment(still, ALL, seed=0)
    assert all(torch.equal(found[i, 0], found[i, t]) for i in range(2) for t in range(4))
    assert not torch.equal(found[0], found[1])


def test_nothing_is_asked_for_and_nothing_is_done() -> None:
    frames = clips()
    assert augment(frames, AugmentOptions(), seed=0) is frames
    assert torch.equal(changed(frames[0], Change()), frames[0])


def test_a_crop_shows_a_part_at_full_size() -> None:
    frames = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    frames[:, :, 8:, 8:] = 200
    corner = changed(frames, Change(side=0.5, top=1, left=1))
    assert (corner == 200).all()
    assert (changed(frames, Change(side=0.5)) == 0).all()


def test_colours_change_by_their_factors() -> None:
    frames = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    assert (changed(frames, Change(brightness=1.2)) == 120).all()
    frames[..., :2] = 60
    lower = changed(frames, Change(contrast=0.5))  # about a mean of 80
    assert (lower[..., :2] == 70).all() and (lower[..., 2:] == 90).all()
    red = torch.tensor([200, 40, 40], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    grey = changed(red, Change(saturation=0.0))
    assert (grey[:, 0] == grey[:, 1]).all() and (grey[:, 1] == grey[:, 2]).all()
    green = changed(red, Change(hue=1 / 3))[0, :, 0, 0]
    assert green.tolist() == pytest.approx([40, 200, 40], abs=2)


@pytest.mark.parametrize(
    ("name", "factor", "theirs"),
    [
        ("brightness", 1.3, F.adjust_brightness),
        ("brightness", 0.6, F.adjust_brightness),
        ("contrast", 0.7, F.adjust_contrast),
        ("saturation", 1.4, F.adjust_saturation),
        ("hue", 0.23, F.adjust_hue),
        ("hue", -0.4, F.adjust_hue),
    ],
)
def test_one_colour_at_a_time_equals_torchvision(
    name: str, factor: float, theirs: Callable[[torch.Tensor, float], torch.Tensor]
) -> None:
    frames = clips(1, 1)[0]  # of one frame: torchvision's contrast is about each frame's mean
    frames[:, :, 0] = 90  # grey has no hue
    own = changed(frames, Change(**{name: factor})).int()
    assert (own - theirs(frames, factor).int()).abs().max() <= 1  # it rounds down


def test_a_crop_equals_torchvision() -> None:
    frames = clips(1, 2)[0]
    own = changed(frames, Change(side=0.75, top=0.5, left=1)).int()
    theirs = F.resized_crop(frames, 2, 5, 12, 15, [16, 20], antialias=True).int()
    assert (own - theirs).abs().max() <= 1


def test_contrast_does_not_flicker() -> None:
    frames = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    frames[1, :, 0, 0] = 255  # something bright comes into the second frame
    found = changed(frames, Change(contrast=0.5))
    assert torch.equal(found[0, :, 3, 3], found[1, :, 3, 3])


def test_draws_stay_within_their_bounds() -> None:
    drawn = [draw_change(ALL, np.random.default_rng(i)) for i in range(300)]
    for name, low, high in (("side", 0.7, 1), ("brightness", 0.8, 1.2), ("hue", -0.05, 0.05)):
        values = [getattr(change, name) for change in drawn]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
