"""What scoring is timed on: a tokenizer, rollouts' tokens and what really happened.

`tiny` is the bundled model on tokens that are all different, `tiny-rollouts` on rollouts of
held-out contexts of the bundled data with the repetitions they have. `rt1` has the sizes of the
released RT-1 tokenizer, 104M parameters at 256 x 320, and random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidwm.data.sampler import evenly_spread
from vidwm.evaluation.sources import open_sources
from vidwm.finetune_config import FinetuneConfig
from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.vqgan_frame import VQGANConfig, VQGANTokenizer
from vidwm.world_model.world_model import WorldModel

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "assets" / "tiny"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """tokens (B, G, T, N) to decode, true (B, T, 3, H, W) in [0, 1], and the perceptual network."""

    tokenizer: FrameTokenizer | VQGANTokenizer
    tokens: Tensor
    true: Tensor
    perceptual: str


def tiny(contexts: int) -> Shape:
    """Bundled model, 16 futures of 8 frames, all different."""
    tokenizer = FrameTokenizer.from_pretrained(TINY / "tokenizer")
    shape = (contexts, 16, 8, tokenizer.tokens_per_frame)
    tokens = torch.randint(0, tokenizer.codebook_size, shape)
    true = tokenizer.decode(torch.randint(0, tokenizer.codebook_size, (contexts, 8, shape[-1])))
    return Shape(
        tokenizer=tokenizer,
        tokens=tokens,
        true=true,
        perceptual="st_lpips_alex",
    )


def tiny_rollouts(contexts: int) -> Shape:
    """Bundled model, 16 futures of as many frames as it predicts, of held-out contexts."""
    model = WorldModel.from_pretrained(TINY)
    assert isinstance(model.tokenizer, FrameTokenizer)
    config = FinetuneConfig(data=ROOT / "assets/sample", model=TINY, output_dir=Path("unused"))
    _, heldout = open_sources(config, model)
    assert heldout is not None
    batch = heldout.batch(evenly_spread(len(heldout.windows), contexts))
    frames, c = batch.float_frames(), model.setting.context_frames
    rollouts = generate(
        model.transformer,
        model.layout,
        model.context(frames),
        model.bins(batch.actions),
        group_size=16,
        keys=batch.keys,
        sampling=Sampling(),
    )
    return Shape(
        tokenizer=model.tokenizer,
        tokens=rollouts.tokens,
        true=frames[:, c:],
        perceptual="st_lpips_alex",
    )


def rt1(contexts: int) -> Shape:
    """The released tokenizer's sizes, 8 futures of one frame."""
    tokenizer = VQGANTokenizer(VQGANConfig()).eval().requires_grad_(False)
    N = tokenizer.tokens_per_frame
    return Shape(
        tokenizer=tokenizer,
        tokens=torch.randint(0, tokenizer.codebook_size, (contexts, 8, 1, N)),
        true=torch.rand(contexts, 1, 3, 256, 320),
        perceptual="st_lpips_vgg",
    )


SHAPES: dict[str, Callable[[int], Shape]] = {
    "tiny": tiny,
    "tiny-rollouts": tiny_rollouts,
    "rt1": rt1,
}
