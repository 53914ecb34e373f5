"""Which tokenizer a training run starts from: a new network, or that of a folder."""

from __future__ import annotations

from typing import Any

from vidwm.config import TokenizerConfig
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import RELEASED_SIZE, CompressiveConfig
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.tokenizer.open_tokenizer import Tokenizer, open_tokenizer
from vidwm.tokenizer.vqgan_frame import VQGANConfig, VQGANTokenizer


def starting_tokenizer(config: TokenizerConfig, recorded: tuple[int, int]) -> Tokenizer:
    """A new one, or the one to start from; recorded (H, W): the size of the data's frames."""
    if config.init_from:
        return open_tokenizer(config.init_from)
    shared: dict[str, Any] = {
        "height": config.height or recorded[0],
        "width": config.width or recorded[1],
        "widths": config.widths,
        "blocks": config.blocks,
        "fsq_levels": config.fsq_levels,
    }
    if config.kind == "frame":
        return FrameTokenizer(
            FrameTokenizerConfig(
                **shared,
                patch=config.patch,
                quantizer=config.quantizer,
                codebook_size=config.codebook_size,
                code_dim=config.code_dim,
            )
        )
    shared |= {"groups": config.norm_groups, "latent": config.latent_dim}
    if config.kind == "vqgan":
        return VQGANTokenizer(VQGANConfig(**shared))
    # The two coarsest levels look at the context, as those of the released one.
    coarse = len(config.widths) - 2
    tokenizer = CompressiveTokenizer(
        CompressiveConfig(
            **shared,
            context_levels=config.context_levels,
            patch=config.patch,
            attention_height=RELEASED_SIZE[0] // 2 ** (coarse + 1),
        )
    )
    tokenizer.start_in_place()
    return tokenizer
