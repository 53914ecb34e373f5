"""The shape of a compressive tokenizer's networks, and how its released config spells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidwm.errors import UserError
from vidwm.tokenizer.conditioning import GROUPS
from vidwm.tokenizer.vqgan_frame import levels_of

# Released positions are those of 256 x 320 frames.
RELEASED_SIZE = (256, 320)


@dataclass(frozen=True, kw_only=True)
class CompressiveConfig:
    """Shape of the networks; sizes in pixels. The defaults are the released RT-1 tokenizer's.

    patch: latents per side of a later frame's token; attention_height: maps of at most so many rows
    look at the context.
    """

    height: int = 256
    width: int = 320
    widths: tuple[int, ...] = (128, 256, 256, 512)
    blocks: int = 2
    groups: int = 32
    latent: int = 64
    context_levels: tuple[int, ...] = (7, 5, 5, 5, 5)
    fsq_levels: tuple[int, ...] = (7, 5, 5, 5, 5)
    patch: int = 4
    attention_height: int = 32

    def __post_init__(self) -> None:
        cell = self.downsample * self.patch
        if self.height % cell or self.width % cell:
            raise UserError(
                f"A frame of {self.height}x{self.width} cannot be cut into cells of {cell}x{cell} "
                f"pixels; give another height and width."
            )
        if odd := [w for w in self.widths if w % self.groups]:
            raise UserError(f"Widths must be multiples of the {self.groups} groups, got {odd[0]}.")
        if odd := [self.widths[i] for i in self.attending if self.widths[i] % GROUPS]:
            raise UserError(
                f"The widths of coarse levels, which look at the context, must be multiples of "
                f"{GROUPS}, got {odd[0]}."
            )

    @property
    def downsample(self) -> int:
        """Pixels per side of one latent, which is a context token's cell."""
        return 2 ** (len(self.widths) - 1)

    @property
    def latents(self) -> tuple[int, int]:
        """(h, w) of the latents, and of a context frame's tokens."""
        return self.height // self.downsample, self.width // self.downsample

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of a later frame's tokens."""
        return self.latents[0] // self.patch, self.latents[1] // self.patch

    def level_size(self, level: int, height: int, width: int) -> tuple[int, int]:
        """(h, w) of what an encoder's level gives, for frames of that size."""
        halved = 2 ** min(level + 1, len(self.widths) - 1)
        return height // halved, width // halved

    @property
    def attending(self) -> list[int]:
        """Levels of the encoder at whose end a later frame looks at the context."""
        return [
            level
            for level in range(len(self.widths))
            if self.level_size(level, *RELEASED_SIZE)[0] <= self.attention_height
        ]

    @classmethod
    def of_released(cls, values: dict[str, Any], height: int, width: int) -> CompressiveConfig:
        """From the `config.json` of a released tokenizer; KeyError when a field is missing."""
        return cls(
            height=height,
            width=width,
            widths=tuple(values["block_out_channels"]),
            blocks=values["layers_per_block"],
            groups=values["norm_num_groups"],
            latent=values["latent_channels"],
            context_levels=levels_of(values["vq_fsq_levels"]),
            fsq_levels=levels_of(values["dyn_fsq_levels"]),
            patch=values.get("patch_size", 4),
            attention_height=values["max_att_resolution"],
        )
