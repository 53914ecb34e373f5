import pytest
import torch

from vidwm.training import runtime


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "cpu", "expected"),
    [
        (True, True, "Intel(R) Xeon(R) Platinum 8481C", "bf16"),
        (False, True, "Intel(R) Xeon(R) Processor", "fp32"),
        (False, True, "AMD EPYC 9R14", "bf16"),
        (False, False, "AMD EPYC 7B13", "fp32"),
    ],
)
def test_auto_precision_of_a_cpu_is_its_faster_one(monkeypatch, amx, avx512_bf16, cpu, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(runtime, "cpu_name", lambda: cpu)
    assert runtime.pick_precision("auto", torch.device("cpu")) == expected
    assert runtime.pick_precision("bf16", torch.device("cpu")) == "bf16"
