"""Which tokenizer a training run starts from: a new network, or that of a folder."""

from __future__ import annotations

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
    size = (config.height or recorded[0], config.width or recorded[1])
    if config.kind == "frame":
        return FrameTokenizer(_frame_network(config, *size))
    if config.kind == "vqgan":
        return VQGANTokenizer(_vqgan_network(config, *size))
    tokenizer = CompressiveTokenizer(_compressive_network(config, *size))
    tokenizer.start_in_place()
    return tokenizer


def _frame_network(config: TokenizerConfig, height: int, width: int) -> FrameTokenizerConfig:
    return FrameTokenizerConfig(
        height=height,
        width=width,
        patch=config.patch,
        widths=tuple(config.widths),
        blocks=config.blocks,
        quantizer=config.quantizer,
        fsq_levels=tuple(config.fsq_levels),
        codebook_size=config.codebook_size,
        code_dim=config.code_dim,
    )


def _vqgan_network(config: TokenizerConfig, height: int, width: int) -> VQGANConfig:
    return VQGANConfig(
        height=height,
        width=width,
        widths=tuple(config.widths),
        blocks=config.blocks,
        groups=config.norm_groups,
        latent=config.latent_dim,
        fsq_levels=tuple(config.fsq_levels),
    )


def _compressive_network(config: TokenizerConfig, height: int, width: int) -> CompressiveConfig:
    """The two coarsest levels look at the context, as those of the released one."""
    coarse = len(config.widths) - 2
    return CompressiveConfig(
        height=height,
        width=width,
        widths=tuple(config.widths),
        blocks=config.blocks,
        groups=config.norm_groups,
        latent=config.latent_dim,
        context_levels=tuple(config.context_levels),
        fsq_levels=tuple(config.fsq_levels),
        patch=config.patch,
        attention_height=RELEASED_SIZE[0] // 2 ** (coarse + 1),
    )
