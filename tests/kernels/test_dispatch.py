from __future__ import annotations

import pytest
import torch
from vidwm_kernels import dispatch
from vidwm_kernels.dispatch import VARIABLE, pick
from vidwm_kernels.gate_up import fused, gate_up, reference
from vidwm_kernels.group_attention import cpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("choice", "device", "expected"),
    [
        ("auto", CPU, reference.gate_up),
        ("auto", CUDA, fused.gate_up),
        ("reference", CUDA, reference.gate_up),
        ("triton", CPU, fused.gate_up),
    ],
)
def test_the_choice_and_the_device_decide(
    monkeypatch: pytest.MonkeyPatch, choice: str, device: torch.device, expected: object
) -> None:
    monkeypatch.setenv(VARIABLE, choice)
    assert pick("gate_up", device) is expected


def test_on_a_cpu_auto_takes_what_was_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "auto")
    assert pick("group_attention", CPU) is cpu.group_attention


def test_without_a_choice_it_is_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert pick("gate_up", CPU) is reference.gate_up


def test_without_triton_auto_is_the_reference_and_triton_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    monkeypatch.setattr(dispatch, "_load", dispatch._load.__wrapped__)
    monkeypatch.setenv(VARIABLE, "auto")
    assert pick("gate_up", CUDA) is reference.gate_up
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(ValueError, match="triton is not installed"):
        pick("gate_up", CPU)


def test_an_unknown_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match="auto, reference, triton; got 'fast'"):
        gate_up(torch.zeros(1, 4), torch.zeros(4), torch.zeros(2, 4), eps=1e-6)
