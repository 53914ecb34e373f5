"""Random numbers of a token: a function of its names alone, flat and uncorrelated."""

from __future__ import annotations

import math

import torch
from vidwm_kernels.sample_tokens import token_states
from vidwm_kernels.sample_tokens.counter import _splitmix, uniforms


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
