from __future__ import annotations

import torch

from vidwm.reward.live_memory import peak_bytes

MB = 10**6


def megabyte() -> torch.Tensor:
    return torch.zeros(MB, dtype=torch.uint8)


def test_counts_what_lives_at_the_same_time() -> None:
    def one_after_the_other() -> None:
        for _ in range(5):
            megabyte()

    def together() -> None:
        kept = [megabyte() for _ in range(5)]
        del kept
        megabyte()

    assert peak_bytes(one_after_the_other) == MB
    assert peak_bytes(together) == 5 * MB


def test_views_and_work_in_place_take_nothing() -> None:
    given = megabyte()

    def work() -> None:
        given[1:].add_(1)
        x = megabyte()
        x.view(1000, -1)[5].fill_(1)

    assert peak_bytes(work) == MB
    with torch.inference_mode():
        assert peak_bytes(work) == MB
