from __future__ import annotations

import pytest
import torch
from vidwm_kernels.dispatch import VARIABLE, pick
from vidwm_kernels.sample_tokens import sample_tokens

IMPLEMENTATIONS = {"reference": min}


def test_auto_and_reference_give_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert pick("op", IMPLEMENTATIONS) is min
    for choice in ("auto", "reference"):
        monkeypatch.setenv(VARIABLE, choice)
        assert pick("op", IMPLEMENTATIONS) is min


def test_a_forced_implementation_that_is_absent_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(ValueError, match="sample_tokens has no triton implementation"):
        sample_tokens(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long), 0, 4)


def test_an_unknown_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match="auto, reference, triton; got 'fast'"):
        pick("op", IMPLEMENTATIONS)
