"""Tokenise once, read many times.

Encoding frames costs more than training the transformer on them, so the tokens of every episode are
written to safetensors shards beside its actions. The folder's name is a hash of the tokenizer and
of the data (names, sizes and times of its files, episodes, camera), so a changed tokenizer never
meets old tokens, nor a changed recording its old ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from vidwm.data.clip import EpisodeDataset
from vidwm.data.sampler import chunk_actions, resize
from vidwm.errors import UserError

EPISODES_PER_SHARD = 64
FRAMES_PER_CALL = 64

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TokenClips:
    """Tokenised episodes: tokens[i] (T, N) int32, actions[i] (T, A) float32, by episode index."""

    tokens: Sequence[Tensor]
    actions: Sequence[Tensor]

    def clip(
        self, episode: int, start: int, clip_frames: int, frame_skip: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens (T, N) int64 and chunked actions (T, A * frame_skip) of one window."""
        stop = start + (clip_frames - 1) * frame_skip + 1
        tokens = self.tokens[episode][start:stop:frame_skip].long()
        return tokens, chunk_actions(self.actions[episode], start, clip_frames, frame_skip)


def tokenise(
    dataset: EpisodeDataset,
    encode: Encode,
    *,
    size: tuple[int, int],
    fingerprint: str,
    directory: Path,
) -> TokenClips:
    """Tokens of all episodes, from the cache below `directory` where they are there already.

    encode: frames (M, 3, H, W) float in [0, 1] -> tokens (M, N); `fingerprint` names its weights.
    """
    folder = directory / _key(dataset, size, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    clips: list[dict[str, Tensor]] = []
    starts = range(0, len(dataset), EPISODES_PER_SHARD)
    for first in tqdm(starts, desc="tokens", unit="shard", leave=False, disable=None):
        path = folder / f"tokens-{first // EPISODES_PER_SHARD:05d}.safetensors"
        if not path.exists():
            last = min(first + EPISODES_PER_SHARD, len(dataset))
            _write_shard(dataset, range(first, last), encode, size, path)
        clips.append(_read_shard(path))
    merged = {name: value for shard in clips for name, value in shard.items()}
    return TokenClips(
        tokens=[merged[f"{i}/tokens"] for i in range(len(dataset))],
        actions=[merged[f"{i}/actions"] for i in range(len(dataset))],
    )


def _key(dataset: EpisodeDataset, size: tuple[int, int], fingerprint: str) -> str:
    root = dataset.path
    commit = getattr(dataset, "commit", None)
    if commit is not None:  # its files come as they are read, so a listing would change
        listing: object = commit
    else:
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        stats = [(p.relative_to(root.parent).as_posix(), p.stat()) for p in files]
        listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    camera = getattr(dataset, "camera", None)
    facts = [listing, list(dataset.episode_ids), list(dataset.lengths), camera, size, fingerprint]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _write_shard(
    dataset: EpisodeDataset, episodes: range, encode: Encode, size: tuple[int, int], path: Path
) -> None:
    tensors: dict[str, Tensor] = {}
    for index in tqdm(episodes, desc="encode", unit="episode", leave=False, disable=None):
        episode = dataset.episode(index)
        frames = resize(torch.from_numpy(episode.frames), size)
        with torch.no_grad():
            parts = [encode(part.float() / 255).cpu() for part in frames.split(FRAMES_PER_CALL)]
        tensors[f"{index}/tokens"] = torch.cat(parts).int()
        tensors[f"{index}/actions"] = torch.from_numpy(episode.actions)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file(tensors, partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Cannot write the token cache {path}: {error}.") from None
    finally:
        partial.unlink(missing_ok=True)


def _read_shard(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Token cache {path} is damaged ({error}); delete the file.") from None
