"""Tiny untrained models and recorded episodes in memory, so that nothing here reads an asset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vidwm.data.clip import Episode
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import Setting, WorldModel, codec_for

ACTIONS = 2


class MemoryDataset:
    """Episodes given as arrays."""

    format = "memory"
    fps = 10.0
    cameras = ("main",)
    camera = "main"
    action_names = ("x", "y")

    def __init__(self, videos: list[np.ndarray], ids: list[str] | None = None) -> None:
        self.path = Path("memory")
        self.videos = videos
        self.episode_ids = ids or [f"episode/{i}" for i in range(len(videos))]
        self.lengths = [len(video) for video in videos]

    def __len__(self) -> int:
        return len(self.videos)

    def episode(self, index: int) -> Episode:
        frames = self.videos[index]
        steps = np.arange(len(frames) * ACTIONS, dtype=np.float32).reshape(-1, ACTIONS)
        actions = np.sin(steps + 7 * index)
        return Episode(id=self.episode_ids[index], frames=frames, actions=actions, fps=self.fps)

    def span(self, index: int, start: int, stop: int) -> Episode:
        return self.episode(index).cut(start, stop)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., MemoryDataset]:
    """Noise in which a bright square moves, or stands still if `static`."""

    def make(
        lengths: tuple[int, ...] = (14,) * 8, size: int = 16, *, static: bool = False
    ) -> MemoryDataset:
        generator = np.random.default_rng(0)
        videos = []
        for length in lengths:
            still = generator.integers(0, 120, (3, size, size), dtype=np.uint8)
            video = np.repeat(still[None], length, axis=0)
            for t in range(length):
                at = 0 if static else t % (size - 4)
                video[t, :, 4:8, at : at + 4] = 250
            videos.append(video)
        return MemoryDataset(videos)

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable[..., WorldModel]:
    """An untrained model with 2 context frames, by default 3 predicted ones and every 2nd frame."""

    def make(seed: int = 0, size: int = 16, horizon: int = 3, frame_skip: int = 2) -> WorldModel:
        torch.manual_seed(0)  # the tokenizer is the same whatever the seed
        shape = FrameTokenizerConfig(
            height=size, width=size, patch=8, widths=(8,), blocks=0, fsq_levels=(4, 4)
        )
        tokenizer = FrameTokenizer(shape)
        actions = ActionBins.fit(torch.rand(64, ACTIONS * frame_skip) * 2 - 1, bins=8)
        setting = Setting(
            context_frames=2,
            horizon=horizon,
            frame_skip=frame_skip,
            fps=10.0,
            action_names=tuple(f"a{i}" for i in range(ACTIONS * frame_skip)),
            heldout=0.5,
            split_seed=0,
        )
        layout = codec_for(tokenizer, actions, setting).layout
        torch.manual_seed(seed)
        transformer = Transformer(
            TransformerConfig(
                vocab_size=layout.vocab_size,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=layout.sequence_length,
                bos_token_id=layout.bos,
                eos_token_id=layout.eos,
            )
        )
        # Larger than initial weights, so that what is told about the actions shows in the tokens.
        for parameter in transformer.parameters():
            parameter.data.mul_(8) if parameter.ndim > 1 else None
        return WorldModel(tokenizer, transformer, actions, setting).eval()

    return make
