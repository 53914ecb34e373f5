"""`vidwm data cache`: decode and resize recordings once, or tokenise them once.

It stands here and not in `vidwm.data`, because it knows the tokenizer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidwm.data.cache_folder import Contents, contents_of, missing_files
from vidwm.data.cache_parts import (
    MIXTURE,
    caches_of_frames,
    check_holds_caches,
    claim_folders,
)
from vidwm.data.cache_writer import CacheWork, write_cache
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined
from vidwm.data.mixture_file import is_mixture, read_mixture
from vidwm.data.recordings import check_beside, open_recordings
from vidwm.data.sampler import check_frame_size
from vidwm.data_config import CacheConfig, VariantOptions
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.open_tokenizer import FramewiseTokenizer, open_tokenizer


@dataclass(frozen=True)
class TokenizerFolder:
    """Frames to tokens, as `Encode`; opened by each process that calls it."""

    directory: Path
    device: torch.device

    @cached_property
    def tokenizer(self) -> FramewiseTokenizer:
        """UserError for one whose tokens depend on other frames."""
        tokenizer = open_tokenizer(self.directory)
        if isinstance(tokenizer, CompressiveTokenizer):
            raise UserError(
                f"{self.directory} is a compressive tokenizer: a frame's tokens depend on the "
                f"context it is seen with, which training draws anew; cache frames at its size "
                f"instead, with --height {tokenizer.height} --width {tokenizer.width} and no "
                f"--tokenizer."
            )
        return tokenizer.to(self.device)

    def __call__(self, frames: Tensor) -> Tensor:
        return self.tokenizer.encode(frames.to(self.device))

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "device": self.device}


def cache_command(config: CacheConfig) -> None:
    """Fill the cache, and say how much of it is there."""
    number, parts = config.share
    for work in cache_works(config):
        written = write_cache(work, workers=config.workers, shard=(number, parts))
        print(_line(work, written, config))
        number = (number - 1 - len(work.contents.files)) % parts + 1  # as if all were one list
    if is_mixture(config.data) and config.tokenizer is None:
        print(f"give {config.output_dir / MIXTURE} as --data to train on them")


def _line(work: CacheWork, written: int, config: CacheConfig) -> str:
    contents = work.contents
    missing = len(missing_files(work.folder, range(len(contents.files))))
    count = f"{len(contents.files) - missing:,} of {len(contents.files):,} files"
    variants = f" in {len(contents.names)} variants" if contents.vary else ""
    share = "" if config.share == (1, 1) else f", {written:,} of them by --shard {config.shard}"
    return (
        f"cache: {contents.kind} of {len(contents.lengths):,} episodes{variants}, "
        f"{sum(contents.lengths):,} frames at {contents.size[0]}x{contents.size[1]}; {count} are "
        f"there{share}: {work.folder}"
    )


def cache_works(config: CacheConfig) -> list[CacheWork]:
    """What is to be done, of each part and view; UserError when folders, sizes or the kind of
    tokenizer do not fit.
    """
    target = config.output_dir
    parts = read_mixture(config) if is_mixture(config.data) else {}
    dataset = open_recordings(config)
    check_beside(target, config, dataset)
    if config.tokenizer is not None:
        return _token_works(config, config.tokenizer, dataset)
    claim_folders(dataset, target, parts)
    works = []
    for single, folder in caches_of_frames(dataset, target):
        contents = contents_of(single, kind="frames", size=_size(config, single))
        works.append(CacheWork(dataset=single, contents=contents, folder=folder))
    return works


def _token_works(config: CacheConfig, tokenizer: Path, dataset: EpisodeDataset) -> list[CacheWork]:
    encode = TokenizerFolder(tokenizer, pick_device(config.device))
    size = encode.tokenizer.height, encode.tokenizer.width
    check_frame_size(dataset, size, resize=config.resize)
    several = isinstance(dataset, Joined)
    if several:
        check_holds_caches(config.output_dir)
    works = []
    for single, folder in caches_of_frames(dataset, config.output_dir):
        contents = token_contents(single, encode.tokenizer, tokenizer, config.cached_variants)
        if several:  # pretraining looks for each by its key
            folder = config.output_dir / contents.key
        works.append(CacheWork(dataset=single, contents=contents, folder=folder, encode=encode))
    return works


def token_contents(
    dataset: EpisodeDataset,
    tokenizer: FramewiseTokenizer,
    directory: Path,
    vary: VariantOptions | None = None,
) -> Contents:
    """What the cache of a dataset's tokens holds; the tokenizer is the one of that directory."""
    return contents_of(
        dataset,
        kind="tokens",
        size=(tokenizer.height, tokenizer.width),
        tokenizer=fingerprint(directory),
        tokens_per_frame=tokenizer.tokens_per_frame,
        vary=vary,
    )


def fingerprint(directory: Path) -> str:
    """Hash of a tokenizer's files."""
    digest = hashlib.sha256()
    for path in [directory / "config.json", *sorted(directory.glob("*.safetensors"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _size(config: CacheConfig, dataset: EpisodeDataset) -> tuple[int, int]:
    """As asked for; what is left open is as the first frame has it."""
    H, W = dataset.span(0, 0, 1).frames.shape[2:]
    return config.height or H, config.width or W
