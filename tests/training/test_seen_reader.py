"""What a step of GRPO sees, as recorded and varied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vidwm.data.clip import ClipBatch
from vidwm.data_config import AugmentOptions
from vidwm.finetune_config import FinetuneConfig
from vidwm.training.adapt_stages import finetune_stage, pretrain_stage, tokenizer_stage
from vidwm.training.older_context import SeenReader

STILL = AugmentOptions()
VARY = AugmentOptions(crop=0.5, brightness=0.4)


class Stills:
    """A clip source of episodes in which nothing moves; window i is of episode i."""

    pictures = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))

    def first_frames(self, numbers: Any, count: int, back: Any) -> Tensor:
        return self.pictures[[*numbers]].byte()[:, None].expand(-1, count, -1, -1, -1)

    def batch(self, numbers: Any) -> ClipBatch:
        return ClipBatch(
            frames=self.first_frames(numbers, 5, None),
            actions=torch.zeros(len(numbers), 5, 1),
            keys=torch.tensor([*numbers]),
        )

    def steps_before(self, numbers: Any) -> list[int]:
        return [3] * len(numbers)


def reader(gap: int, vary: AugmentOptions, seed: int = 0) -> SeenReader:
    return SeenReader(Stills(), 2, gap, seed, vary)  # type: ignore[arg-type]


@pytest.mark.parametrize("gap", [0, 3])
def test_all_frames_of_a_clip_are_varied_alike(gap: int) -> None:
    recorded = Stills().batch([0, 2])
    clips, older = reader(gap, VARY)([0, 2], 5)
    assert (older is None) == (gap == 0)
    frames = clips.frames if older is None else torch.cat([older, clips.frames], dim=1)
    assert frames.shape[1] == (5 if gap == 0 else 7)
    assert (frames == frames[:, :1]).all()
    assert (clips.frames != recorded.frames).flatten(1).any(dim=1).all()
    assert clips.actions.equal(recorded.actions) and clips.keys.equal(recorded.keys)


class Counted(Stills):
    """Frames are numbered, and those that are older from 100 on."""

    def first_frames(self, numbers: Any, count: int, back: Any) -> Tensor:
        first = 0 if back is None else 100
        numbered = torch.arange(first, first + count).byte()[:, None, None, None]
        return numbered.expand(len(numbers), -1, 3, 8, 8)


def test_older_frames_are_those_of_the_context() -> None:
    seen = SeenReader(Counted(), 2, 3, 0, STILL)([0, 1], 5)  # type: ignore[arg-type]
    assert seen.older is not None
    assert seen.older[:, :, 0, 0, 0].tolist() == [[100, 101]] * 2
    assert seen.clips.frames[:, :, 0, 0, 0].tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("gap", [0, 3])
def test_the_seed_and_the_step_say_how(gap: int) -> None:
    def frames(seed: int, step: int) -> Tensor:
        return reader(gap, VARY, seed)([0, 1], step).clips.frames

    assert frames(1, 5).equal(frames(1, 5))
    assert not frames(1, 5).equal(frames(1, 6))
    assert not frames(1, 5).equal(frames(2, 5))
    assert reader(gap, STILL)([0, 1], 5).clips.frames.equal(Stills().batch([0, 1]).frames)


def test_an_adaptation_varies_the_clips_of_all_its_stages() -> None:
    config = FinetuneConfig(
        data=Path("d"),
        from_=Path("m"),
        output_dir=Path("o"),
        tokenizer_steps=1,
        crop=0.9,
        hue=0.1,
        tokenizer_gradient_checkpointing=True,
    )
    stages = (
        tokenizer_stage(config, Path("m"), 3),
        pretrain_stage(config, Path("m"), None),
        finetune_stage(config, Path("m")),
    )
    assert [(s.crop, s.hue) for s in stages if s is not None] == [(0.9, 0.1)] * 3
    assert stages[0] is not None and stages[0].gradient_checkpointing
