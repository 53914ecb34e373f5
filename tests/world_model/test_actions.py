from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidwm.errors import UserError
from vidwm.world_model.actions import ActionBins

BINS = ActionBins(low=torch.tensor([-1.0, 0.0]), high=torch.tensor([1.0, 10.0]), bins=4)


def test_bins_are_equal_and_closed_at_the_ends() -> None:
    actions = torch.tensor([[-1.0, 0.0], [-0.51, 2.49], [-0.49, 2.51], [0.99, 9.9], [1.0, 10.0]])
    assert BINS.encode(actions).tolist() == [[0, 0], [0, 0], [1, 1], [3, 3], [3, 3]]


def test_actions_beyond_the_range_fall_in_the_outermost_bins() -> None:
    assert BINS.encode(torch.tensor([[-9.0, 99.0]])).tolist() == [[0, 3]]


def test_decode_gives_centres_that_encode_to_themselves() -> None:
    bins = torch.arange(4)[:, None].expand(4, 2)
    assert BINS.decode(bins)[0].tolist() == [-0.75, 1.25]
    assert torch.equal(BINS.encode(BINS.decode(bins)), bins)


def test_equals_the_reference_implementation(shared: Path) -> None:
    golden = load_file(shared / "golden" / "layout_io.safetensors")
    low, high = golden["action_ranges"].unbind(1)
    bins = ActionBins(low=low, high=high).encode(golden["single_actions"])
    ids = golden["single_input_ids"][:, :1332].unflatten(1, (4, 333))[:, :, 320:]
    assert torch.equal(bins[:, :4], ids - 4375)


def test_fit_takes_quantiles_or_extremes() -> None:
    rows = np.linspace(0, 100, 1001, dtype=np.float32)[:, None].repeat(2, axis=1)
    rows[0, 1] = -1e6
    quantile = ActionBins.fit(rows)
    torch.testing.assert_close(quantile.low, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(quantile.high, torch.tensor([99.0, 99.0]))
    minmax = ActionBins.fit(rows, method="minmax", bins=8)
    assert minmax.low.tolist() == [0.0, -1e6] and minmax.high.tolist() == [100.0, 100.0]
    assert minmax.bins == 8 and minmax.action_dims == 2


def test_a_constant_dimension_is_no_division_by_zero() -> None:
    bins = ActionBins.fit(torch.full((5, 1), 0.25))
    assert bins.encode(torch.tensor([[0.25]])).item() == 0
    assert bins.decode(torch.tensor([[0]])).item() == 0.25


def test_json_round_trip_is_exact() -> None:
    fitted = ActionBins.fit(torch.randn(50, 3), bins=100)
    loaded = ActionBins.from_json(json.loads(json.dumps(fitted.to_json())))
    assert torch.equal(loaded.low, fitted.low) and torch.equal(loaded.high, fitted.high)
    assert loaded.low.dtype == torch.float32 and loaded.bins == 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_action_that_is_not_finite_is_an_error_naming_the_dimension(bad: float) -> None:
    rows = torch.zeros(3, 2)
    rows[1, 1] = bad
    with pytest.raises(UserError, match="dimension 1 holds NaN or infinity"):
        BINS.encode(rows)
    with pytest.raises(UserError, match="dimension 1 holds NaN or infinity"):
        ActionBins.fit(rows)


def test_another_number_of_dimensions_is_an_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match="expects 2 action dimensions, the data has 7"):
        BINS.encode(torch.zeros(3, 7))


def test_unusable_ranges_are_errors() -> None:
    one = torch.zeros(1)
    with pytest.raises(UserError, match="dimension 0 has low 1 above high 0"):
        ActionBins(low=one + 1, high=one)
    with pytest.raises(UserError, match="one number per dimension"):
        ActionBins(low=one, high=torch.zeros(2))
    with pytest.raises(UserError, match="at least 1 dimension and 1 bin"):
        ActionBins(low=one, high=one, bins=0)
    with pytest.raises(UserError, match="dimension 0 holds NaN"):
        ActionBins(low=one * float("nan"), high=one)
    with pytest.raises(UserError, match="use 'quantile' or 'minmax'"):
        ActionBins.fit(torch.zeros(2, 1), method="mean")
    with pytest.raises(UserError, match=r"rows \(M, A\) with M >= 1"):
        ActionBins.fit(torch.zeros(0, 2))


@pytest.mark.parametrize("data", [{"low": [0.0]}, {"low": ["x"], "high": [1.0], "bins": 4}])
def test_json_of_another_form_is_an_error(data: dict[str, object]) -> None:
    with pytest.raises(UserError, match="must hold 'low' and 'high'"):
        ActionBins.from_json(data)
