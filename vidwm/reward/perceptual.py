"""Perceptual distance between frames: LPIPS and ST-LPIPS, as metric, reward and training loss.

Both frames run through a frozen trunk; at every stage the features are scaled to unit length per
pixel, their squared differences weighted per channel by learnt heads, averaged over pixels and
summed over stages (LPIPS, arXiv 1801.03924, eq. 1; ST-LPIPS, arXiv 2207.13686).

Features of true frames can be computed and made ready once, and compared many times; the comparison
is the operation `lpips_distance` of `vidwm_kernels`.
Everything runs in fp32, under autocast too. Weights: see `vidwm.reward.weights`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vidwm_kernels.lpips_distance import lpips_distance, unit

from vidwm.errors import UserError
from vidwm.gradient_checkpointing import CheckpointedBlock
from vidwm.reward import backbones
from vidwm.reward.blur import Blur, BlurredConv
from vidwm.reward.weights import load_weights, weights_at_hand

DEFAULT_PERCEPTUAL = "st_lpips_alex"
TRUNKS: dict[str, Callable[[], list[nn.Sequential]]] = {
    "st_lpips_alex": backbones.st_alexnet,
    "st_lpips_vgg": backbones.st_vgg16,
    "lpips_alex": backbones.alexnet,
    "lpips_vgg": backbones.vgg16,
    "lpips_squeeze": backbones.squeezenet,
}
# Colour statistics LPIPS was trained with, for frames in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Below this the deepest stage of some trunk has no pixel left.
MIN_SIZE = 32


class PerceptualNet(CheckpointedBlock):
    """Frozen trunk and heads; differentiable with respect to the frames alone.

    trunk: stages as in `vidwm.reward.backbones`; heads: one (width,) tensor >= 0 per stage.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, trunk: Sequence[nn.Sequential], heads: Sequence[Tensor]) -> None:
        super().__init__()
        stages = list(trunk)
        conv, second, *rest = stages[0]
        if isinstance(conv, nn.Conv2d) and isinstance(second, Blur):
            stages[0] = nn.Sequential(BlurredConv(conv), *rest)
        self.trunk = nn.ModuleList(stages)
        for index, head in enumerate(heads):
            if (head < 0).any():
                raise ValueError(f"head {index} has negative weights; a distance needs them >= 0")
            self.register_buffer(f"head{index}", head.float())
        scale, shift = torch.tensor(SCALE), torch.tensor(SHIFT)
        # One multiply-add takes frames from [0, 1] to the trunk's range: (2 x - 1 - shift) / scale.
        self.register_buffer("gain", (2 / scale)[:, None, None])
        self.register_buffer("offset", (-(1 + shift) / scale)[:, None, None])
        self.requires_grad_(False)
        # Channels last halves the time of pooling, blurring and normalising on a CPU.
        self.to(memory_format=torch.channels_last)

    @property
    def heads(self) -> list[Tensor]:
        """Weights (width,) of each stage's channels."""
        return [self.get_buffer(f"head{index}") for index in range(len(self.trunk))]

    def features(self, frames: Tensor) -> list[Tensor]:
        """Features of frames (M, 3, H, W) in [0, 1]: one map (M, width, h, w) fp32 per stage.

        Values outside [0, 1] (an unclamped decoder) are not refused.
        """
        if min(frames.shape[-2:]) < MIN_SIZE:
            raise UserError(
                f"Perceptual metrics need frames of at least {MIN_SIZE} x {MIN_SIZE} pixels, "
                f"got {frames.shape[-2]} x {frames.shape[-1]}: use larger frames, or mae or mse."
            )
        frames = frames.contiguous(memory_format=torch.channels_last)
        features = []
        with torch.autocast(frames.device.type, enabled=False):
            maps = torch.addcmul(self.offset, frames.float(), self.gain)
            for stage in self.trunk:
                maps = stage(maps)
                features.append(maps)
        return features

    def true_features(self, frames: Tensor) -> list[Tensor]:
        """As `features`, with unit length at every place: what predictions are compared with."""
        return [unit(maps) for maps in self.features(frames)]

    def distance(self, pred: Sequence[Tensor], true: Sequence[Tensor], index: Tensor) -> Tensor:
        """Distance (M,) >= 0 of `features` pred to frames index (M,) of `true_features` true."""
        return lpips_distance(pred, true, self.heads, index)

    def distance_map(
        self, pred: Sequence[Tensor], true: Sequence[Tensor], index: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Where `distance` comes from: (M, *grid), the share of each cell; their mean is it.

        Stages whose cells do not divide into the grid are spread by area.
        """
        cells = []
        for a, b, head in zip(pred, true, self.heads, strict=True):
            squares = (unit(a) - b[index]).square()
            errors = torch.einsum("mchw,c->mhw", squares, head)[:, None]
            spread = F.interpolate(errors, size=grid, mode="area")
            missing = errors.mean(dim=(2, 3), keepdim=True) - spread.mean(dim=(2, 3), keepdim=True)
            cells.append((spread + missing).squeeze(1))
        return torch.stack(cells).sum(dim=0)

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Distance (M,) between frames (M, 3, H, W) in [0, 1]; no gradient flows into `true`."""
        with torch.no_grad():
            ready = self.true_features(true)
        same = torch.arange(len(pred), device=pred.device)
        return self.distance(self.features(pred), ready, same)


def load_perceptual(name: str = DEFAULT_PERCEPTUAL) -> PerceptualNet:
    """The named network with its trained weights, on the CPU.

    UserError on an unknown name, or when its weights are not on this machine.
    """
    if name not in TRUNKS:
        near = difflib.get_close_matches(name, TRUNKS, n=1, cutoff=0)[0]
        raise UserError(
            f"Unknown perceptual metric {name!r}: did you mean {near!r}? "
            f"Known are {', '.join(TRUNKS)}."
        )
    trunk_weights, heads = load_weights(name)
    trunk = TRUNKS[name]()
    targets = list(nn.ModuleList(trunk).parameters())
    if [t.shape for t in targets] != [w.shape for w in trunk_weights] or len(heads) != len(trunk):
        raise UserError(
            f"The weight files of {name} do not hold the expected network: "
            f"delete them and fetch them again."
        )
    with torch.no_grad():
        for target, weight in zip(targets, trunk_weights, strict=True):
            target.copy_(weight)
    return PerceptualNet(trunk, heads)


def available_perceptual() -> list[str]:
    """Names of the perceptual metrics whose weights are on this machine."""
    return [name for name in TRUNKS if weights_at_hand(name)]
