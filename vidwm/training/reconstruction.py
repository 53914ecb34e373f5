"""What a tokenizer makes of clips while it is trained, in parts that are each judged alike.

A per-frame tokenizer has one part, single frames. A compressive one has two of equal weight, as in
RLVR-World (arXiv 2505.13934, appendix A): context frames, and later frames given them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.open_tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Part:
    """frames (M, 3, H, W) in [0, 1], decoded (M, 3, H, W) unclamped, tokens (M, N).

    prefix: of its names in the log; loss: the quantiser's.
    """

    prefix: str
    frames: Tensor
    decoded: Tensor
    tokens: Tensor
    codebook_size: int
    loss: Tensor


def reconstructed(tokenizer: Tokenizer, clips: Tensor, context_frames: int = 1) -> list[Part]:
    """Clips (B, T, 3, H, W) in [0, 1], of which a compressive tokenizer is given the first c."""
    if not isinstance(tokenizer, CompressiveTokenizer):
        frames = clips.flatten(0, 1)
        decoded, tokens, loss = tokenizer(frames)
        size = tokenizer.codebook_size
        return [
            Part(
                prefix="",
                frames=frames,
                decoded=decoded,
                tokens=tokens,
                codebook_size=size,
                loss=loss,
            )
        ]
    context, later = tokenizer(clips, context_frames)
    sizes = (tokenizer.context_codebook_size, tokenizer.codebook_size)
    given = (clips[:, :context_frames], clips[:, context_frames:])
    return [
        Part(
            prefix=prefix,
            frames=frames.flatten(0, 1),
            decoded=decoded,
            tokens=tokens,
            codebook_size=size,
            loss=decoded.new_zeros(()),
        )
        for prefix, frames, (decoded, tokens), size in zip(
            ("context_", ""), given, (context, later), sizes, strict=True
        )
    ]
