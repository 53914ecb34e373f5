"""The per-frame tokenizer of released RLVR-World checkpoints: VQ-GAN around FSQ.

    frames (..., 3, H, W) in [0, 1] -> encoder -> 1x1 -> FSQ -> tokens (..., N), and back

Its directory is that of the package `diffusers`: `config.json` and
`diffusion_pytorch_model.safetensors` (RLVR-World's class is CNNFSQModel256). Frames need not have
the size it was trained at, but a multiple of its cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vidwm_kernels.embed_codes import embed_codes

from vidwm.errors import UserError
from vidwm.files import load_weights, read_json, save_weights, write_json
from vidwm.tokenizer.fsq import FSQ
from vidwm.tokenizer.vqgan import VQGANDecoder, VQGANEncoder

CLASS_NAME = "CNNFSQModel256"
WEIGHTS = "diffusion_pytorch_model.safetensors"
# `fsq_levels: 12` in released files stands for 2^12 codes, as FSQ's authors round it.
LEVELS_OF_BITS = {8: (8, 6, 5), 10: (8, 5, 5, 5), 12: (7, 5, 5, 5, 5), 14: (8, 8, 8, 6, 5)}


def levels_of(value: int | list[int]) -> tuple[int, ...]:
    """FSQ levels as released files spell them: bits, or a list. KeyError on other bits."""
    return LEVELS_OF_BITS[value] if isinstance(value, int) else tuple(value)


def spelled(levels: tuple[int, ...]) -> int | list[int]:
    """Inverse of `levels_of`."""
    bits = {known: bits for bits, known in LEVELS_OF_BITS.items()}
    return bits.get(levels, list(levels))


@dataclass(frozen=True, kw_only=True)
class VQGANConfig:
    """Shape of the network; sizes in pixels. The defaults are the released RT-1 tokenizer's."""

    height: int = 256
    width: int = 320
    widths: tuple[int, ...] = (128, 256, 256, 512, 768)
    blocks: int = 2
    groups: int = 32
    latent: int = 64
    fsq_levels: tuple[int, ...] = (7, 5, 5, 5, 5)

    def __post_init__(self) -> None:
        if self.height % self.downsample or self.width % self.downsample:
            raise UserError(
                f"A frame of {self.height}x{self.width} cannot be cut into cells of "
                f"{self.downsample}x{self.downsample} pixels; give another height and width."
            )

    @property
    def downsample(self) -> int:
        """Pixels per side of one token's cell."""
        return 2 ** (len(self.widths) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): rows and columns of tokens."""
        return self.height // self.downsample, self.width // self.downsample

    @classmethod
    def of_released(cls, values: dict[str, Any], height: int, width: int) -> VQGANConfig:
        """From the `config.json` of a released tokenizer; KeyError when a field is missing."""
        return cls(
            height=height,
            width=width,
            widths=tuple(values["block_out_channels"]),
            blocks=values["layers_per_block"],
            groups=values["norm_num_groups"],
            latent=values["latent_channels"],
            fsq_levels=levels_of(values["fsq_levels"]),
        )


class VQGANTokenizer(nn.Module):
    """Encoder, quantiser and decoder of single frames, with parameters as released."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.blocks, config.groups, config.latent)
        self.quantizer = FSQ(config.fsq_levels)
        self.encoder = VQGANEncoder(config.widths, *shape)
        # Not the encoder's mirror: a level later, and the first does not double.
        inputs = [*reversed(config.widths)]
        doubling = [False] + [True] * (len(inputs) - 1)
        self.decoder = VQGANDecoder(inputs, [*inputs[1:], inputs[-1]], doubling, *shape)
        self.quant_linear = nn.Conv2d(config.latent, self.quantizer.code_dim, 1)
        self.post_quant_linear = nn.Conv2d(self.quantizer.code_dim, config.latent, 1)
        self.height, self.width = config.height, config.width
        self.codebook_size = self.quantizer.codebook_size
        self.tokens_per_frame = config.grid[0] * config.grid[1]
        self.to(memory_format=torch.channels_last)

    def latents(self, frames: Tensor) -> Tensor:
        """frames (M, 3, H, W) in [0, 1] -> (M, code_dim, h, w), just before FSQ."""
        return self.quant_linear(self.encoder(frames.contiguous(memory_format=torch.channels_last)))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """frames (B, 3, H, W) in [0, 1] -> reconstruction (unclamped), tokens (B, N), loss 0."""
        codes, tokens, loss = self.quantizer(self.latents(frames))
        codes = codes.contiguous(memory_format=torch.channels_last)
        return self.decoder(self.post_quant_linear(codes)), tokens.flatten(1), loss

    def encode(self, frames: Tensor) -> Tensor:
        """frames (..., 3, H, W) float in [0, 1] -> tokens (..., N) int64."""
        _, tokens, _ = self.quantizer(self.latents(frames.flatten(0, -4)))
        return tokens.view(*frames.shape[:-3], self.tokens_per_frame)

    def pixels(self, tokens: Tensor) -> Tensor:
        """tokens (M, N) -> frames (M, 3, H, W), unclamped."""
        return self.decoder(embed_codes(tokens, self.code_table(), self.config.grid))

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens (..., N), 0..codebook_size-1 -> frames (..., 3, H, W) float32 in [0, 1]."""
        frames = self.pixels(tokens.flatten(0, -2)).float().clamp(0, 1)
        return frames.reshape(*tokens.shape[:-1], *frames.shape[1:])

    def code_table(self) -> Tensor:
        """(codebook_size, latent): what the decoder is given for each token."""
        every = torch.arange(self.codebook_size, device=self.post_quant_linear.weight.device)
        return self.post_quant_linear(self.quantizer.codes(every.view(-1, 1, 1)))[..., 0, 0]

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write it in the released form, with the size of its frames beside."""
        fields = released_fields(self.config) | {"fsq_levels": spelled(self.config.fsq_levels)}
        write_json(Path(directory) / "config.json", {"_class_name": CLASS_NAME, **fields})
        save_weights(self, Path(directory) / WEIGHTS, dtype)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> VQGANTokenizer:
        """Read what `save_pretrained` wrote."""
        return cls.from_released(directory, *saved_size(Path(directory) / "config.json"))

    @classmethod
    def from_released(cls, directory: str | Path, height: int, width: int) -> VQGANTokenizer:
        """Read a released folder; UserError names a missing, damaged or unlike file."""
        path = Path(directory) / "config.json"
        try:
            config = VQGANConfig.of_released(read_json(path), height, width)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path} does not describe a tokenizer of RLVR-World: {error}."
            ) from error
        tokenizer = cls(config)
        load_weights(tokenizer, Path(directory) / WEIGHTS)
        return tokenizer.eval()


def released_fields(config: Any) -> dict[str, Any]:
    """What the `config.json` of every released tokenizer says of its networks, and our size."""
    blocks = len(config.widths)
    return {
        "act_fn": "silu",
        "block_out_channels": list(config.widths),
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "height": config.height,
        "in_channels": 3,
        "latent_channels": config.latent,
        "layers_per_block": config.blocks,
        "norm_num_groups": config.groups,
        "norm_type": "group",
        "out_channels": 3,
        "resolution": 256,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "width": config.width,
    }


def saved_size(path: Path) -> tuple[int, int]:
    """(H, W) of a tokenizer's `config.json` as we write it; UserError where it has none."""
    values = read_json(path)
    if not all(isinstance(values.get(name), int) for name in ("height", "width")):
        raise UserError(
            f"{path} lacks height and width: import the released tokenizer with `vidwm import`."
        )
    return values["height"], values["width"]
