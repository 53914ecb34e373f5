"""CompressiveTokenizer: context frames in full, later frames as a few tokens given them.

    context  (B, c, 3, H, W) -> encoder -> FSQ -> Nc tokens a frame -> decoder -> frames
    later    (B, F, 3, H, W) -> cond_encoder, which sees the context encoder's maps
             -> patches of 4 x 4 latents -> FSQ -> Nd tokens a frame
             -> cond_decoder, which sees the context decoder's maps -> frames

Later frames need to tell only what is not in the context: 80 tokens instead of 1280 at 256 x 320.
Every later frame depends on the context alone, so rollouts are decoded in any order, and the maps
of a context are made once. Source: RLVR-World (arXiv 2505.13934), appendix A, whose class is
CompressiveVQModelFSQ; directories are those of the package `diffusers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vidwm.errors import UserError
from vidwm.files import load_tensors, load_weights_from, read_json, save_weights, write_json
from vidwm.tokenizer.compressive_config import RELEASED_SIZE, CompressiveConfig
from vidwm.tokenizer.conditioning import CrossAttention, resized_positions
from vidwm.tokenizer.fsq import FSQ
from vidwm.tokenizer.vqgan import VQGANDecoder, VQGANEncoder
from vidwm.tokenizer.vqgan_frame import (
    WEIGHTS,
    released_fields,
    saved_size,
    spelled,
)

CLASS_NAME = "CompressiveVQModelFSQ"


class ConditionedEncoder(VQGANEncoder):
    """An encoder whose coarse levels look at the context encoder's."""

    def __init__(self, config: CompressiveConfig) -> None:
        super().__init__(config.widths, config.blocks, config.groups, config.latent)
        self.attending = config.attending
        self.cross_att_blocks = nn.ModuleList(
            CrossAttention(
                config.widths[level], config.level_size(level, config.height, config.width)
            )
            for level in self.attending
        )

    def forward(self, frames: Tensor, contexts: list[Tensor]) -> Tensor:  # type: ignore[override]
        """frames (B * F, 3, H, W), maps (B, c, C, h, w) of the context for each attending level."""
        x = self.conv_in(frames)
        looks = iter(zip(self.cross_att_blocks, contexts, strict=True))
        for index, level in enumerate(self.down_blocks):
            x = level(x)
            if index in self.attending:
                look, context = next(looks)
                x = look(x, context)
        return self.finish(x)


class ConditionedDecoder(VQGANDecoder):
    """A decoder that looks at the context decoder's maps before its first level."""

    def __init__(self, config: CompressiveConfig, *shape: Any) -> None:
        super().__init__(*shape)
        self.cross_att_blocks = nn.ModuleList([CrossAttention(config.widths[-1], config.latents)])

    def forward(self, latents: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        """latents (B * F, latent, h, w), the context decoder's middle (B, c, C, h, w)."""
        return self.finish(self.cross_att_blocks[0](self.middle(latents), context))


class CompressiveTokenizer(nn.Module):
    """Tokens of context frames and of the frames after them, and back; parameters as released."""

    def __init__(self, config: CompressiveConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [config.widths[-1], *reversed(config.widths[1:])]
        doubling = [True] * (len(inputs) - 1) + [False]
        decoder = (
            *(inputs, [*reversed(config.widths)], doubling, config.blocks + 1),
            *(config.groups, config.latent),
        )
        shape = (config.widths, config.blocks, config.groups, config.latent)
        self.encoder = VQGANEncoder(*shape, attention=False)
        self.decoder = VQGANDecoder(*decoder, attention=False)
        self.cond_encoder = ConditionedEncoder(config)
        self.cond_decoder = ConditionedDecoder(config, *decoder)
        self.context_quantizer, self.quantizer = FSQ(config.context_levels), FSQ(config.fsq_levels)
        patch = config.latent * config.patch**2
        self.quant_conv = nn.Conv2d(config.latent, self.context_quantizer.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(self.context_quantizer.code_dim, config.latent, 1)
        self.quant_linear = nn.Linear(patch, self.quantizer.code_dim)
        self.post_quant_linear = nn.Linear(self.quantizer.code_dim, patch)
        self.context_codebook_size = self.context_quantizer.codebook_size
        self.codebook_size = self.quantizer.codebook_size
        self.height, self.width = config.height, config.width
        self.tokens_per_context_frame = config.latents[0] * config.latents[1]
        self.tokens_per_frame = config.grid[0] * config.grid[1]
        self.to(memory_format=torch.channels_last)

    def start_in_place(self) -> None:
        """Before training: let every place of a later frame look at the same in the context."""
        for module in self.modules():
            if isinstance(module, CrossAttention):
                module.start_in_place()

    def forward(
        self, frames: Tensor, context_frames: int = 1
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """frames (B, T, 3, H, W) in [0, 1] -> of the first c, and of the others: frames
        (M, 3, H, W), unclamped, and tokens (M, N), differentiable through FSQ.
        """
        (codes, context), (later_codes, later) = self._quantised(frames, context_frames)
        maps = self._context_maps(codes).unflatten(0, (len(frames), context_frames))
        whole = self.decode_context(maps).flatten(0, 1)
        return (whole, context.flatten(1)), (self._later(later_codes, maps), later.flatten(1))

    def encode(self, frames: Tensor, context_frames: int = 1) -> tuple[Tensor, Tensor]:
        """frames (B, T, 3, H, W) in [0, 1] -> tokens of the first c (B, c, Nc) and of the others
        (B, T - c, Nd), int64, each counted from 0.
        """
        (_, context), (_, later) = self._quantised(frames, context_frames)
        B = len(frames)
        return (
            context.view(B, context_frames, -1),
            later.reshape(B, frames.shape[1] - context_frames, -1),
        )

    def _quantised(
        self, frames: Tensor, c: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Codes (M, code_dim, h, w) and tokens (M, h, w) of context frames, and of the others."""
        B = len(frames)
        levels = self.encoder.levels(_last(frames[:, :c].flatten(0, 1)))
        latents = self.quant_conv(self.encoder.finish(levels[-1]))
        context = self.context_quantizer(latents)
        seen = [levels[i].unflatten(0, (B, c)) for i in self.config.attending]
        latents = self.cond_encoder(_last(frames[:, c:].flatten(0, 1)), seen)
        p = self.config.patch
        patches = rearrange(latents, "m c (h p) (w q) -> m h w (p q c)", p=p, q=p)
        later = self.quantizer(self.quant_linear(patches).movedim(-1, 1))
        return context[:2], later[:2]

    def context_maps(self, context: Tensor) -> Tensor:
        """Tokens (B, c, Nc) -> the maps (B, c, C, h, w) that decoding of later frames looks at."""
        codes = self.context_quantizer.codes(context.reshape(-1, *self.config.latents))
        return self._context_maps(codes).unflatten(0, context.shape[:2])

    def _context_maps(self, codes: Tensor) -> Tensor:
        return self.decoder.middle(self.post_quant_conv(_last(codes)))

    def decode_context(self, maps: Tensor) -> Tensor:
        """`context_maps` -> frames (B, c, 3, H, W), unclamped."""
        return self.decoder.finish(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])

    def decode_later(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """Tokens (B, F, Nd) given `context_maps` -> frames (B, F, 3, H, W), unclamped."""
        codes = self.quantizer.codes(tokens.reshape(-1, *self.config.grid))
        return self._later(codes, maps).unflatten(0, tokens.shape[:2])

    def _later(self, codes: Tensor, maps: Tensor) -> Tensor:
        """Codes (B * F, code_dim, h, w) given maps (B, ...) -> frames (B * F, 3, H, W)."""
        patches, p = self.post_quant_linear(codes.movedim(1, -1)), self.config.patch
        latents = rearrange(patches, "m h w (p q c) -> m c (h p) (w q)", p=p, q=p)
        return self.cond_decoder(_last(latents), maps)

    def decode(self, context: Tensor, later: Tensor) -> Tensor:
        """Tokens (B, c, Nc) and (B, F, Nd) -> frames (B, c + F, 3, H, W) float32 in [0, 1]."""
        maps = self.context_maps(context)
        frames = torch.cat([self.decode_context(maps), self.decode_later(later, maps)], dim=1)
        return frames.float().clamp(0, 1)

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write it in the released form, with the size of its frames beside."""
        config = self.config
        fields = {
            "_class_name": CLASS_NAME,
            **released_fields(config),
            "context_length": 1,
            "dyn_fsq_levels": spelled(config.fsq_levels),
            "max_att_resolution": config.attention_height,
            "mid_block_add_attention": False,
            "patch_size": config.patch,
            "vq_fsq_levels": spelled(config.context_levels),
        }
        write_json(Path(directory) / "config.json", fields)
        save_weights(self, Path(directory) / WEIGHTS, dtype)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> CompressiveTokenizer:
        """Read what `save_pretrained` wrote."""
        return cls.from_released(directory, *saved_size(Path(directory) / "config.json"))

    @classmethod
    def from_released(cls, directory: str | Path, height: int, width: int) -> CompressiveTokenizer:
        """Read a released folder, for frames of any size that its cells divide.

        Positions learned at another size, 256 x 320 where the folder names none, are interpolated.
        UserError names a missing, damaged or unlike file.
        """
        path = Path(directory) / "config.json"
        values = read_json(path)
        try:
            config = CompressiveConfig.of_released(values, height, width)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path} does not describe a compressive tokenizer of RLVR-World: {error}."
            ) from error
        tokenizer = cls(config)
        tensors = load_tensors(Path(directory) / WEIGHTS)
        learned = (values.get("height", RELEASED_SIZE[0]), values.get("width", RELEASED_SIZE[1]))
        old = (learned[0] // config.downsample, learned[1] // config.downsample)
        for name, block in tokenizer.named_modules():
            if isinstance(block, CrossAttention):
                for table in (f"{name}.q_pos_emb", f"{name}.kv_pos_emb"):
                    if table in tensors and len(tensors[table]) == old[0] * old[1]:
                        tensors[table] = resized_positions(tensors[table], old, block.grid)
        load_weights_from(tokenizer, tensors, Path(directory) / WEIGHTS)
        return tokenizer.eval()


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
