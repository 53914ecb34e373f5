"""Frames to a context and tokens, and back: the border between tokenizer and layout.

A world model predicts tokens after a context. What a context is, and whether frames can be decoded
without it, depends on the tokenizer; this is the one place that tells kinds of them apart.

    single_step   every frame is written alike and decoded on its own (`FrameTokenizer`, VQGAN)
    multi_step    context frames are written in full, later ones given them (`CompressiveTokenizer`)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.open_tokenizer import FramewiseTokenizer, Tokenizer
from vidwm.world_model.compressive_layout import CompressiveLayout
from vidwm.world_model.layout import Layout

DecodeRows = Callable[[Tensor], Tensor]


class Codec(Protocol):
    """c is the layout's number of context frames, N its tokens per frame."""

    kind: str

    @property
    def layout(self) -> Layout: ...

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames (B, T >= c, 3, H, W) in [0, 1] -> context (B, ...), tokens (B, T - c, N) int64."""
        ...

    def decode(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens (B, ..., N) after contexts (B, ...) -> frames (B, ..., 3, H, W) in [0, 1]."""
        ...

    def decode_context(self, context: Tensor) -> Tensor:
        """The frames that contexts (B, ...) hold, in order of time: (B, .., 3, H, W) in [0, 1]."""
        ...

    def rows(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, DecodeRows]:
        """tokens (B, ..., N) -> rows (B, ..., R), and what decodes any (M, R) of them.

        Equal rows are equal frames. The work on a context is done here, once, not for every row.
        """
        ...


class FrameCodec:
    """Every frame on its own."""

    kind = "single_step"

    def __init__(self, tokenizer: FramewiseTokenizer, **sizes: Any) -> None:
        self.tokenizer = tokenizer
        self.layout = Layout(
            tokens_per_frame=tokenizer.tokens_per_frame,
            codebook_size=tokenizer.codebook_size,
            **sizes,
        )

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        tokens, c = self.tokenizer.encode(frames), self.layout.context_frames
        return tokens[:, :c], tokens[:, c:]

    def decode(self, tokens: Tensor, context: Tensor) -> Tensor:
        return self.tokenizer.decode(tokens)

    def decode_context(self, context: Tensor) -> Tensor:
        return self.tokenizer.decode(context)

    def rows(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, DecodeRows]:
        return tokens, self.tokenizer.decode


class CompressiveCodec:
    """Later frames given the context frames."""

    kind = "multi_step"

    def __init__(self, tokenizer: CompressiveTokenizer, **sizes: Any) -> None:
        self.tokenizer = tokenizer
        self.layout = CompressiveLayout(
            tokens_per_frame=tokenizer.tokens_per_frame,
            codebook_size=tokenizer.codebook_size,
            tokens_per_context_frame=tokenizer.tokens_per_context_frame,
            context_codebook_size=tokenizer.context_codebook_size,
            **sizes,
        )

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        c = self.layout.context_frames
        return self.encode_given(frames[:, :c], frames[:, c - 1 :])

    def encode_given(self, full: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Context frames (B, c, 3, H, W), which may be older than those shown (B, 1 + T, 3, H, W).

        The first frame shown belongs to the context, the others are the tokens (B, T, N).
        """
        whole, given = self.tokenizer.encode(torch.cat([full, shown], dim=1), full.shape[1])
        return self.layout.context(whole, given[:, 0]), given[:, 1:]

    def decode(self, tokens: Tensor, context: Tensor) -> Tensor:
        maps = self.tokenizer.context_maps(self.layout.full(context))
        flat = tokens.flatten(1, -2) if tokens.ndim > 2 else tokens[:, None]
        frames = self.tokenizer.decode_later(flat, maps).float().clamp(0, 1)
        return frames.view(*tokens.shape[:-1], *frames.shape[2:])

    def decode_context(self, context: Tensor) -> Tensor:
        """Those in full, then the last given them, which is the newest."""
        last = self.layout.last_frame(context)[:, None]
        return self.tokenizer.decode(self.layout.full(context), last)

    def rows(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, DecodeRows]:
        """A row begins with the number of its context."""
        numbers = torch.arange(len(tokens), device=tokens.device)
        numbers = numbers.view(-1, *[1] * (tokens.ndim - 1)).expand(*tokens.shape[:-1], 1)
        maps = self.tokenizer.context_maps(self.layout.full(context))
        return torch.cat([numbers, tokens], dim=-1), partial(self._decode_rows, maps)

    def _decode_rows(self, maps: Tensor, rows: Tensor) -> Tensor:
        numbers, counts = rows[:, 0].unique_consecutive(return_counts=True)
        parts = rows[:, 1:].split(counts.tolist())
        frames = [
            self.tokenizer.decode_later(part[None], maps[number : number + 1])[0]
            for number, part in zip(numbers.tolist(), parts, strict=True)
        ]
        return torch.cat(frames).float().clamp(0, 1)


def codec_of(tokenizer: Tokenizer, **sizes: Any) -> Codec:
    """The codec of a tokenizer; sizes are the fields of `Layout` that no tokenizer knows."""
    if isinstance(tokenizer, CompressiveTokenizer):
        return CompressiveCodec(tokenizer, **sizes)
    return FrameCodec(tokenizer, **sizes)
