from __future__ import annotations

import math

import pytest
import torch
from vidwm_kernels.sample_tokens import sample_tokens, uniform
from vidwm_kernels.sample_tokens.counter import _mix
from vidwm_kernels.testing import assert_close

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])
LOGITS = PROBABILITIES.log() + 5.0


def spread(count: int) -> torch.Tensor:
    """Evenly spaced numbers in [0, 1): what a perfect generator would draw."""
    return (torch.arange(count).double() + 0.5) / count


def test_draws_each_id_with_its_probability() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(1000, 4), spread(1000), 0, 4)
    assert tokens.dtype == torch.int64
    shares = torch.bincount(tokens, minlength=4) / 1000
    torch.testing.assert_close(shares, PROBABILITIES, atol=1.1e-3, rtol=0)
    assert_close("sample_tokens", logprobs, PROBABILITIES.log()[tokens], torch.float32)


def test_takes_the_first_id_whose_cumulative_probability_exceeds_the_number() -> None:
    numbers = [0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001, 1 - 2**-52]
    uniforms = torch.tensor(numbers, dtype=torch.float64)
    tokens, _ = sample_tokens(LOGITS.expand(8, 4), uniforms, 0, 4)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_never_leaves_the_legal_range() -> None:
    logits = torch.tensor([50.0, *LOGITS.tolist(), 60.0]).expand(100, 6)
    tokens, logprobs = sample_tokens(logits, spread(100), 1, 5)
    assert set(tokens.tolist()) == {1, 2, 3, 4}
    assert_close("sample_tokens", logprobs, PROBABILITIES.log()[tokens - 1], torch.float32)


def test_temperature_divides_the_logits() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(500, 4), spread(500), 0, 4, temperature=0.5)
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    assert_close("sample_tokens", logprobs, expected.log()[tokens], torch.float32)
    shares = torch.bincount(tokens, minlength=4) / 500
    torch.testing.assert_close(shares, expected, atol=3e-3, rtol=0)


def test_temperature_zero_takes_the_likeliest_and_reports_the_plain_softmax() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(3, 4), spread(3), 0, 4, temperature=0.0)
    assert tokens.tolist() == [1, 1, 1]
    assert_close("sample_tokens", logprobs, torch.full((3,), math.log(0.4)), torch.float32)


def test_top_k_renormalises_over_the_k_likeliest() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(70, 4), spread(70), 0, 4, top_k=2)
    assert set(tokens.tolist()) == {1, 3}
    expected = (PROBABILITIES / 0.7).log()[tokens]
    assert_close("sample_tokens", logprobs, expected, torch.float32)


def test_top_k_keeps_ties_at_the_border_and_may_exceed_the_vocabulary() -> None:
    tied = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(40, 4)
    assert set(sample_tokens(tied, spread(40), 0, 4, top_k=2)[0].tolist()) == {0, 1, 2, 3}
    many = sample_tokens(LOGITS.expand(40, 4), spread(40), 0, 4, top_k=9)[0]
    assert torch.equal(many, sample_tokens(LOGITS.expand(40, 4), spread(40), 0, 4)[0])


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.01, {1}), (0.39, {1}), (0.41, {1, 3}), (0.71, {1, 2, 3})]
)
def test_top_p_keeps_the_fewest_ids_that_hold_the_mass(mass: float, kept: set[int]) -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(99, 4), spread(99), 0, 4, top_p=mass)
    assert set(tokens.tolist()) == kept
    total = PROBABILITIES[sorted(kept)].sum()
    assert_close("sample_tokens", logprobs, (PROBABILITIES / total).log()[tokens], torch.float32)


def test_top_p_keeps_lower_ids_of_equal_ones() -> None:
    tokens, _ = sample_tokens(torch.zeros(40, 4), spread(40), 0, 4, top_p=0.5)
    assert set(tokens.tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 31, 1001])
def test_logprobs_equal_the_softmax_for_every_shape_and_dtype(
    size: int, dtype: torch.dtype
) -> None:
    logits = (torch.randn(3, 5, size) * 20).to(dtype)
    tokens, logprobs = sample_tokens(logits, torch.rand(3, 5), 0, size)
    assert tokens.shape == logprobs.shape == (3, 5)
    expected = logits.double().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    assert_close("sample_tokens", logprobs, expected, dtype)


def test_rows_are_independent_of_each_other() -> None:
    logits, numbers = torch.randn(16, 100) * 3, torch.rand(16)
    together = sample_tokens(logits, numbers, 0, 100, top_k=50, top_p=0.9)
    for i in range(16):
        alone = sample_tokens(logits[i], numbers[i], 0, 100, top_k=50, top_p=0.9)
        assert alone[0] == together[0][i] and alone[1] == together[1][i]


def test_settings_out_of_range_are_errors() -> None:
    logits, numbers = torch.zeros(2, 4), torch.zeros(2)
    with pytest.raises(ValueError, match=r"legal range \[0, 5\) must lie within 4"):
        sample_tokens(logits, numbers, 0, 5)
    with pytest.raises(ValueError, match="one uniform per row"):
        sample_tokens(logits, numbers[:1], 0, 4)
    for wrong in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}):
        with pytest.raises(ValueError, match="need temperature >= 0"):
            sample_tokens(logits, numbers, 0, 4, **wrong)


def test_mixing_is_splitmix64() -> None:
    # First output of the published generator for state 1234567.
    assert _mix(torch.tensor(1234567)).item() == 6457827717110365317


def test_uniform_depends_on_the_four_names_alone() -> None:
    keys = torch.tensor([5, -7, 2**62, 0])
    rollouts, places = torch.arange(6), torch.arange(12).view(3, 4)
    whole = uniform(3, keys, rollouts, places)
    assert whole.shape == (4, 6, 3, 4) and whole.dtype == torch.float64
    part = uniform(3, keys[[2, 0]], rollouts[4:], places[1])
    assert torch.equal(part, whole[[2, 0]][:, 4:, 1])


def test_uniform_changes_with_each_name() -> None:
    keys, rollouts, places = torch.arange(40), torch.arange(40), torch.arange(40)
    seeds = [-(2**63), -1, 0, 1, 2**62, 2**64 - 2]
    numbers = torch.stack([uniform(seed, keys, rollouts, places) for seed in seeds])
    assert numbers.unique().numel() == numbers.numel()
    assert numbers.min() >= 0 and numbers.max() < 1


def test_uniform_is_flat_and_uncorrelated_along_every_name() -> None:
    numbers = uniform(0, torch.arange(64), torch.arange(64), torch.arange(64))
    counts = torch.histc(numbers.float(), bins=64, min=0, max=1)
    expected = numbers.numel() / 64
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 63 - 4 * math.sqrt(126) < chi_square < 63 + 4 * math.sqrt(126)
    centred = numbers - 0.5
    for axis in range(3):
        lagged = (centred * centred.roll(1, axis)).mean() * 12
        assert abs(lagged) < 4 / math.sqrt(numbers.numel())
