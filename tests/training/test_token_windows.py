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
    """A clip source whose frames and actions are their own numbers."""

    clip_frames = LAYOUT.num_frames + GAP
    windows = range(8)

    def batch(self, numbers: Any) -> ClipBatch:
        places = torch.arange(self.clip_frames)
        frames = places.byte().view(1, -1, 1, 1, 1).expand(len(numbers), -1, 3, 1, 1)
        actions = places.float().view(1, -1, 1).expand(len(numbers), -1, 1)
        return ClipBatch(frames=frames, actions=actions, keys=torch.zeros(len(numbers)).long())


class Reader:
    """A codec whose tokens are the numbers of the frames."""

    layout = LAYOUT

    def encode_given(self, full: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        full, shown = (255 * x[..., 0, 0, 0].round(decimals=6) for x in (full, shown))
        whole, given = (x.round().long()[..., None] for x in (full, shown))
        return LAYOUT.context(whole, given[:, 0]), given[:, 1:]


@pytest.fixture
def windows() -> EncodedWindows:
    return EncodedWindows(Numbered(), Reader(), torch.device("cpu"))  # type: ignore[arg-type]


def test_context_is_the_start_and_what_follows_begins_up_to_the_gap_later(windows) -> None:
    clips = windows.batch(range(200), draw=3)
    last = LAYOUT.last_frame(clips.context)[:, 0]
    assert (LAYOUT.full(clips.context)[..., 0] == torch.tensor([0, 1])).all()
    assert last.unique().tolist() == [1, 2, 3, 4, 5]  # c - 1, and up to GAP later
    assert torch.equal(clips.tokens[..., 0], last[:, None] + torch.arange(1, 4))
    # The action of the last context frame is the one taken at the frame that is shown first.
    assert torch.equal(clips.actions[:, 1:, 0].long(), last[:, None] + torch.arange(4))


def test_a_draw_is_repeated_to_the_bit_and_another_is_not(windows) -> None:
    first, again, other = (windows.batch(range(50), draw=draw) for draw in (3, 3, 4))
    assert torch.equal(first.context, again.context) and torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.context, other.context)
