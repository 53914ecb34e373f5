"""Variants of a tokenised episode: what each of them shows, and which one a clip is taken from.

Variant 0 is the episode as it was recorded, the others are varied as clips are (`augment`), by one
draw for all frames of an episode. Draws depend on names and seeds alone, so every process, machine
and resumed run makes the same variants and takes the same ones.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from torch import Tensor

from vidwm.data.augment import changed, draw_change
from vidwm.data_config import VariantOptions


def variant_of(frames: Tensor, vary: VariantOptions | None, episode: str, variant: int) -> Tensor:
    """Frames (T, 3, H, W) uint8 of the episode of that name -> those of one of its variants."""
    if vary is None or variant == 0:
        return frames
    generator = np.random.default_rng(_digest(f"{vary.variant_seed}:{variant}:{episode}"))
    return changed(frames, draw_change(vary, generator))


def drawn_variant(draw: int, window: int, count: int) -> int:
    """Which of `count` variants a window is taken from, for random choices of that name."""
    return _digest(f"{draw}:{window}") % count


def _digest(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest(), "big")
