"""What the engine refuses to serve, each in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.rollout.test_engine import LAYOUT, model, request
from vidwm.errors import UserError
from vidwm.rollout.engine import generate
from vidwm.rollout.naive import generate_naive
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.layout import Layout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 0}, "group_size and horizon must be at least 1, got 0 and 3"),
        ({"horizon": 0}, "got 4 and 0"),
        (
            {"context": torch.zeros(0, 2, 3).long(), "keys": torch.zeros(0).long()},
            "at least one context",
        ),
        ({"horizon": 8}, "8 frames after 2 context frames need 9 actions, got 8"),
        ({"context": torch.full((3, 2, 3), 12)}, r"tokens must lie in 0\.\.11, got 12\.\.12"),
        ({"bins": torch.full((3, 8, 2), 5)}, r"action bins must lie in 0\.\.4, got 5\.\.5"),
        ({"context": torch.zeros(3, 1, 3, dtype=torch.long)}, r"tokens must be \(B, 2, 3\)"),
        ({"keys": torch.zeros(2, dtype=torch.long)}, r"keys must be \(3,\) int64"),
        (
            {"legal": torch.ones(3, 11, dtype=torch.bool)},
            r"legal must be bool, \(12,\) or \(3, 12\)",
        ),
        ({"legal": torch.eye(3, 12).bool() & False}, "No token is legal at place 0"),
    ],
)
def test_requests_that_cannot_be_served_are_errors(change: dict[str, Any], message: str) -> None:
    for function in (generate, generate_naive):
        with pytest.raises(ValueError, match=message):
            function(model(), LAYOUT, **(request() | {"horizon": 3} | change))


@pytest.mark.parametrize("budget", [0.0, -1.0, float("inf"), float("nan")])
def test_a_budget_that_is_none_is_an_error(budget: float) -> None:
    with pytest.raises(UserError, match="max_cache_gb must be above 0 and finite"):
        generate(model(), LAYOUT, **request(), max_cache_gb=budget)


def test_a_context_beyond_the_positions_is_an_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"take 24 tokens, more than .* 23"):
        generate(model(positions=23), LAYOUT, **request())
    generate(model(positions=24), LAYOUT, **request())


def test_a_transformer_of_another_layout_is_an_error_with_both_numbers() -> None:
    other = Layout(tokens_per_frame=3, codebook_size=12, action_dims=2, context_frames=2, horizon=2)
    with pytest.raises(UserError, match="has 24 ids, the layout 526"):
        generate(model(), other, **request())


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1},
        {"temperature": 1e-8},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"min_p": 1.1},
    ],
)
def test_sampling_out_of_range_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Sampling needs"):
        Sampling(**change)
