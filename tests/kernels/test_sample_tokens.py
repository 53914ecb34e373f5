from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from vidwm_kernels.sample_tokens import sample_tokens, token_states
from vidwm_kernels.sample_tokens.counter import _splitmix, uniforms
from vidwm_kernels.testing import assert_close

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])
LOGITS = PROBABILITIES.log() + 5.0


def states(*shape: int) -> Tensor:
    """States of as many different tokens."""
    places = torch.arange(math.prod(shape)).view(shape)
    return token_states(0, torch.zeros(1).long(), torch.zeros(1).long(), places)[0, 0]


def assert_drawn_from(tokens: Tensor, expected: Tensor) -> None:
    """Counts within four standard deviations of what `expected` promises."""
    shares = torch.bincount(tokens.flatten(), minlength=len(expected)) / tokens.numel()
    error = (expected * (1 - expected) / tokens.numel()).sqrt()
    assert ((shares - expected).abs() <= 4 * error + 1e-12).all()


def test_draws_each_id_with_its_probability() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(20000, 4), states(20000), 0, 4)
    assert tokens.dtype == torch.int64
    assert_drawn_from(tokens, PROBABILITIES)
    assert_close("sample_tokens", logprobs, PROBABILITIES.log()[tokens], torch.float32)


def test_draws_from_a_large_vocabulary_with_a_long_tail() -> None:
    probabilities = (-1.2 * torch.arange(1.0, 1001.0).log()).softmax(dim=0)
    logits = probabilities.log().expand(20000, 1000)
    tokens, _ = sample_tokens(logits, states(20000), 0, 1000)
    expected = torch.cat([probabilities[:50], probabilities[50:].view(10, 95).sum(dim=1)])
    groups = torch.where(tokens < 50, tokens, 50 + (tokens - 50) // 95)
    assert_drawn_from(groups, expected)


def test_never_leaves_the_legal_range_and_ignores_the_rest() -> None:
    logits = torch.tensor([50.0, *LOGITS.tolist(), 60.0])
    tokens, logprobs = sample_tokens(logits.expand(5000, 6), states(5000), 1, 5)
    assert_drawn_from(tokens - 1, PROBABILITIES)
    assert_close("sample_tokens", logprobs, PROBABILITIES.log()[tokens - 1], torch.float32)
    other = sample_tokens((logits * logits.lt(9)).expand(5000, 6), states(5000), 1, 5)
    assert torch.equal(other[0], tokens)


def test_temperature_divides_the_logits() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(9000, 4), states(9000), 0, 4, temperature=0.5)
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    assert_drawn_from(tokens, expected)
    assert_close("sample_tokens", logprobs, expected.log()[tokens], torch.float32)


def test_temperature_zero_takes_the_likeliest_and_reports_the_plain_softmax() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(3, 4), states(3), 0, 4, temperature=0.0)
    assert tokens.tolist() == [1, 1, 1]
    assert_close("sample_tokens", logprobs, torch.full((3,), math.log(0.4)), torch.float32)


def test_top_k_renormalises_over_the_k_likeliest() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(9000, 4), states(9000), 0, 4, top_k=2)
    expected = torch.tensor([0.0, 4 / 7, 0.0, 3 / 7])
    assert_drawn_from(tokens, expected)
    assert_close("sample_tokens", logprobs, expected.log()[tokens], torch.float32)


def test_top_k_keeps_ties_at_the_border_and_may_exceed_the_vocabulary() -> None:
    tied = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(99, 4)
    assert set(sample_tokens(tied, states(99), 0, 4, top_k=2)[0].tolist()) == {0, 1, 2, 3}
    many = sample_tokens(LOGITS.expand(99, 4), states(99), 0, 4, top_k=9)[0]
    assert torch.equal(many, sample_tokens(LOGITS.expand(99, 4), states(99), 0, 4)[0])


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.01, [1]), (0.39, [1]), (0.41, [1, 3]), (0.71, [1, 2, 3])]
)
def test_top_p_keeps_the_fewest_ids_that_hold_the_mass(mass: float, kept: list[int]) -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(999, 4), states(999), 0, 4, top_p=mass)
    assert sorted(set(tokens.tolist())) == kept
    expected = (PROBABILITIES / PROBABILITIES[kept].sum()).log()[tokens]
    assert_close("sample_tokens", logprobs, expected, torch.float32)


def test_top_p_keeps_lower_ids_of_equal_ones() -> None:
    tokens, _ = sample_tokens(torch.zeros(99, 4), states(99), 0, 4, top_p=0.5)
    assert set(tokens.tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 31, 1001])
def test_logprobs_equal_the_softmax_for_every_shape_and_dtype(
    size: int, dtype: torch.dtype
) -> None:
    logits = (torch.randn(3, 5, size) * 20).to(dtype)
    tokens, logprobs = sample_tokens(logits, states(3, 5), 0, size)
    assert tokens.shape == logprobs.shape == (3, 5)
    expected = logits.double().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    assert_close("sample_tokens", logprobs, expected, dtype)


def test_extreme_logits_leave_one_id() -> None:
    logits = torch.full((500, 7), -1e4)
    logits[:, 3] = 1e4
    tokens, logprobs = sample_tokens(logits, states(500), 0, 7)
    assert (tokens == 3).all() and (logprobs == 0).all()


def test_rows_are_independent_of_each_other() -> None:
    logits, names = torch.randn(16, 100) * 3, states(16)
    together = sample_tokens(logits, names, 0, 100, top_k=50, top_p=0.9)
    for i in range(16):
        alone = sample_tokens(logits[i], names[i], 0, 100, top_k=50, top_p=0.9)
        assert alone[0] == together[0][i] and alone[1] == together[1][i]


def test_tokens_hardly_depend_on_the_last_bits_of_the_logits() -> None:
    logits = torch.randn(2000, 1000) * 2
    noisy = logits + (torch.rand_like(logits) - 0.5) * 2e-3
    first, second = (sample_tokens(x, states(2000), 0, 1000)[0] for x in (logits, noisy))
    distance = (logits.softmax(-1) - noisy.softmax(-1)).abs().sum(-1).mean() / 2
    # A race changes at most twice the total variation distance, one token here; a CDF changed 41.
    assert 2 * distance * 2000 < 1.1
    assert (first != second).sum() <= 2


def test_settings_out_of_range_are_errors() -> None:
    logits = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"legal range \[0, 5\) must lie within 4"):
        sample_tokens(logits, states(2), 0, 5)
    with pytest.raises(ValueError, match="one state per row"):
        sample_tokens(logits, states(1), 0, 4)
    for wrong in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}):
        with pytest.raises(ValueError, match="need temperature >= 0"):
            sample_tokens(logits, states(2), 0, 4, **wrong)


def test_mixing_is_splitmix64() -> None:
    # First output of the published generator for state 1234567.
    assert _splitmix(torch.tensor(1234567)).item() == 6457827717110365317


def test_states_depend_on_the_four_names_alone() -> None:
    keys = torch.tensor([5, -7, 2**62, 0])
    rollouts, places = torch.arange(6), torch.arange(12).view(3, 4)
    whole = token_states(3, keys, rollouts, places)
    assert whole.shape == (4, 6, 3, 4) and whole.dtype == torch.int64
    part = token_states(3, keys[[2, 0]], rollouts[4:], places[1])
    assert torch.equal(part, whole[[2, 0]][:, 4:, 1])


def test_states_change_with_each_name() -> None:
    names = torch.arange(40)
    seeds = [-(2**63), -1, 0, 1, 2**62, 2**64 - 2]
    found = torch.stack([token_states(seed, names, names, names) for seed in seeds])
    assert found.unique().numel() == found.numel()


def test_the_number_of_an_id_depends_on_state_and_id_alone() -> None:
    names = token_states(0, torch.arange(5), torch.arange(3), torch.arange(2))
    whole = uniforms(names, 0, 100)
    assert whole.shape == (5, 3, 2, 100) and whole.dtype == torch.float32
    assert torch.equal(uniforms(names[2], 30, 70), whole[2, ..., 30:70])


def test_numbers_are_flat_and_uncorrelated_along_every_name() -> None:
    names = token_states(0, torch.arange(16), torch.arange(16), torch.arange(16))
    numbers = uniforms(names, 0, 128).double()
    assert numbers.min() > 0 and numbers.max() < 1
    counts = torch.histc(numbers, bins=64, min=0, max=1)
    expected = numbers.numel() / 64
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 63) < 4 * math.sqrt(2 * 63)
    centred = numbers - 0.5
    for axis in range(4):
        lagged = (centred * centred.roll(1, axis)).mean() * 12
        assert abs(lagged) < 4 / math.sqrt(numbers.numel())
