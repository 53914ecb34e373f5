"""Frames that repeat, token by token."""

from __future__ import annotations

import torch

from vidwm.reward.repetition import repeats, repetition_rate


def test_each_frame_is_compared_with_the_one_before_it() -> None:
    context = torch.tensor([[1, 2]])
    tokens = torch.tensor([[[[1, 2], [1, 3], [1, 3]], [[4, 2], [1, 2], [1, 2]]]])
    assert repeats(tokens, context).tolist() == [[[True, False, True], [False, False, True]]]
    assert repetition_rate(tokens, context) == 0.5


def test_one_changed_token_is_no_repetition() -> None:
    tokens = torch.zeros(1, 1, 1, 5, dtype=torch.int64)
    tokens[..., 4] = 1
    assert repetition_rate(tokens, torch.zeros(1, 5, dtype=torch.int64)) == 0
