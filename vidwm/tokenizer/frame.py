"""FrameTokenizer: every frame on its own becomes a row of N tokens, and comes back.

    frames (..., 3, H, W) in [0, 1]  --encoder-->  latents (h, w)  --quantiser-->  tokens (..., N)

Tokens run row by row over the h x w grid. The networks see and predict the difference to the mean
training frame: where a camera stands still, the background is there from the first step.
A directory of `config.json` and `model.safetensors` is its whole state.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from vidwm_kernels.embed_codes import embed_codes

from vidwm.errors import UserError
from vidwm.files import load_weights, read_json, save_weights, write_json
from vidwm.tokenizer.blocks import Decoder, Encoder
from vidwm.tokenizer.fsq import FSQ
from vidwm.tokenizer.vq import VQ


@dataclass(frozen=True, kw_only=True)
class FrameTokenizerConfig:
    """Shape of the network; sizes in pixels."""

    height: int
    width: int
    patch: int = 2
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: int = 2
    quantizer: str = "fsq"
    fsq_levels: tuple[int, ...] = (8, 5, 5, 5)
    codebook_size: int = 1024
    code_dim: int = 8

    def __post_init__(self) -> None:
        if self.quantizer not in ("fsq", "vq"):
            raise UserError(f"quantizer must be 'fsq' or 'vq', got {self.quantizer!r}.")
        if self.height % self.downsample or self.width % self.downsample:
            raise UserError(
                f"A frame of {self.height}x{self.width} cannot be cut into cells of "
                f"{self.downsample}x{self.downsample} pixels; give another height and width, or "
                f"another downsample."
            )

    @property
    def downsample(self) -> int:
        """Pixels per side of one token's cell."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): rows and columns of tokens."""
        return self.height // self.downsample, self.width // self.downsample


class FrameTokenizer(nn.Module):
    """Encoder, quantiser and decoder of single frames."""

    mean: Tensor

    def __init__(self, config: FrameTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer: FSQ | VQ
        if config.quantizer == "fsq":
            self.quantizer = FSQ(config.fsq_levels)
        else:
            self.quantizer = VQ(config.codebook_size, config.code_dim)
        shape = (config.patch, config.widths, config.blocks, self.quantizer.code_dim, config.grid)
        self.encoder = Encoder(*shape)
        self.decoder = Decoder(*shape)
        self.height, self.width = config.height, config.width
        self.register_buffer("mean", torch.full((3, config.height, config.width), 0.5))
        self.codebook_size = self.quantizer.codebook_size
        self.tokens_per_frame = config.grid[0] * config.grid[1]
        self.to(memory_format=torch.channels_last)

    def centre_on(self, mean: Tensor) -> None:
        """Set the mean training frame (3, H, W) in [0, 1]; before training only."""
        self.mean.copy_(mean)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """frames (B, 3, H, W) in [0, 1] -> reconstruction (unclamped), tokens (B, N), loss."""
        codes, tokens, loss = self.quantizer(self._latents(frames))
        return self._pixels(codes), tokens.flatten(1), loss

    def encode(self, frames: Tensor) -> Tensor:
        """frames (..., 3, H, W) float in [0, 1] -> tokens (..., N) int64."""
        if frames.shape[-3:] != (3, self.height, self.width):
            raise ValueError(
                f"The tokenizer takes frames (..., 3, {self.height}, {self.width}), "
                f"got {tuple(frames.shape)}."
            )
        _, tokens, _ = self.quantizer(self._latents(frames.reshape(-1, *frames.shape[-3:])))
        return tokens.view(*frames.shape[:-3], self.tokens_per_frame)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens (..., N), 0..codebook_size-1 -> frames (..., 3, H, W) float32 in [0, 1]."""
        every = torch.arange(self.codebook_size, device=tokens.device).view(-1, 1, 1)
        table = self.quantizer.codes(every)[..., 0, 0]
        codes = embed_codes(tokens.flatten(0, -2), table, self.config.grid)
        frames = self._pixels(codes).float().clamp(0, 1)
        return frames.view(*tokens.shape[:-1], 3, self.height, self.width)

    def _latents(self, frames: Tensor) -> Tensor:
        centred = 2 * (frames - self.mean)
        return self.encoder(centred.contiguous(memory_format=torch.channels_last))

    def _pixels(self, codes: Tensor) -> Tensor:
        codes = codes.contiguous(memory_format=torch.channels_last)
        return self.decoder(codes) / 2 + self.mean

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and, as `dtype`, model.safetensors into `directory`."""
        config = {"type": "frame", **dataclasses.asdict(self.config)}
        write_json(Path(directory) / "config.json", config)
        save_weights(self, Path(directory) / "model.safetensors", dtype)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> FrameTokenizer:
        """Read what `save_pretrained` wrote; UserError names a missing or damaged file."""
        path = Path(directory) / "config.json"
        values = read_json(path)
        known = {field.name for field in dataclasses.fields(FrameTokenizerConfig)}
        if values.pop("type", None) != "frame" or set(values) - known:
            raise UserError(f"{path} does not describe a frame tokenizer of vidwm.")
        for name in ("widths", "fsq_levels"):
            values[name] = tuple(values[name])
        tokenizer = cls(FrameTokenizerConfig(**values))
        load_weights(tokenizer, Path(directory) / "model.safetensors")
        return tokenizer.eval()
