from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vidwm.data.clip import ClipBatch
from vidwm.training.token_windows import EncodedWindows
from vidwm.world_model.compressive_layout import CompressiveLayout

LAYOUT = CompressiveLayout(
    tokens_per_frame=1,
    codebook_size=100,
    tokens_per_context_frame=1,
    context_codebook_size=100,
    action_dims=1,
    context_frames=2,
    horizon=3,
)
GAP = 4


class Numbered:
    """A clip source whose frames and actions are their own numbers; window i starts at i."""

    windows = range(8)

    def batch(self, numbers: Any) -> ClipBatch:
        places = torch.tensor([*numbers])[:, None] + torch.arange(LAYOUT.num_frames)
        return ClipBatch(
            frames=pictures(places),
            actions=places.float()[..., None],
            keys=torch.zeros(len(places)).long(),
        )

    def steps_before(self, numbers: Any) -> list[int]:
        return [*numbers]

    def first_frames(self, numbers: Any, count: int, back: Any) -> Tensor:
        return pictures(
            (torch.tensor([*numbers]) - torch.tensor(back))[:, None] + torch.arange(count)
        )


def pictures(numbers: Tensor) -> Tensor:
    return numbers.byte()[..., None, None, None].expand(*numbers.shape, 3, 1, 1)


class Reader:
    """A codec whose tokens are the numbers of the frames."""

    layout = LAYOUT

    def encode_given(self, full: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        full, shown = (255 * x[..., 0, 0, 0].round(decimals=6) for x in (full, shown))
        whole, given = (x.round().long()[..., None] for x in (full, shown))
        return LAYOUT.context(whole, given[:, 0]), given[:, 1:]


@pytest.fixture
def windows() -> EncodedWindows:
    return EncodedWindows(Numbered(), Reader(), torch.device("cpu"), GAP)  # type: ignore[arg-type]


def test_frames_in_full_come_from_up_to_the_gap_back_as_far_as_there_are_frames(windows) -> None:
    clips = windows.batch([7] * 300 + [2] * 300 + [0] * 3, draw=3)
    full, last = LAYOUT.full(clips.context)[..., 0], LAYOUT.last_frame(clips.context)[:, 0]
    assert torch.equal(full[:, 1], full[:, 0] + 1)
    assert last.tolist() == [8] * 300 + [3] * 300 + [1] * 3  # c - 1 frames on, whatever the gap
    far, near = (7 - full[:300, 0]).bincount(), (2 - full[300:600, 0]).bincount()
    assert len(far) == GAP + 1 and far.min() > 40
    assert len(near) == 3 and near.min() > 70 and (full[600:, 0] == 0).all()
    assert torch.equal(clips.tokens[..., 0], last[:, None] + torch.arange(1, 4))
    assert torch.equal(clips.actions[:, 1:, 0].long(), last[:, None] + torch.arange(4))


def test_a_draw_is_repeated_to_the_bit_and_another_is_not(windows) -> None:
    first, again, other = (windows.batch([6] * 50, draw=draw) for draw in (3, 3, 4))
    assert torch.equal(first.context, again.context) and torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.context, other.context)
