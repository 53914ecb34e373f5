"""Decoding and scoring the plain way: what one writes first, on the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidwm.reward.perceptual import SCALE, SHIFT, TRUNKS
from vidwm.reward.weights import load_weights
from vidwm.tokenizer.doubling import DoublingConv
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.vqgan_frame import VQGANTokenizer

MICRO_BATCH = 8


class PlainLPIPS(nn.Module):
    """LPIPS as the package `lpips` runs it: both frames through the network, map by map."""

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        tensors, heads = load_weights(name)
        self.stages = nn.ModuleList(TRUNKS[name]())
        for target, tensor in zip(self.stages.parameters(), tensors, strict=True):
            target.data.copy_(tensor)
        self.heads = nn.ModuleList(nn.Conv2d(len(head), 1, 1, bias=False) for head in heads)
        for conv, head in zip(self.heads, heads, strict=True):
            conv.weight.data.copy_(head.view(1, -1, 1, 1))  # type: ignore[operator]
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        a, b = ((2 * x - 1 - self.shift) / self.scale for x in (pred, true))
        total = torch.zeros(len(pred), device=pred.device)
        for stage, head in zip(self.stages, self.heads, strict=True):
            a, b = stage(a), stage(b)
            unit_a, unit_b = (
                x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for x in (a, b)
            )
            total += head((unit_a - unit_b).square()).mean(dim=(1, 2, 3))
        return total


def plain_ssim(pred: Tensor, true: Tensor) -> Tensor:
    """SSIM by five grouped convolutions with an 11 x 11 window, as torchmetrics and piqa do it."""
    taps = torch.exp(-(torch.arange(11.0) - 5).square() / (2 * 1.5**2))
    window = torch.outer(taps, taps) / taps.sum() ** 2
    planes = torch.cat([pred, true, pred * pred, true * true, pred * true])
    kernel = window.to(pred).expand(3, 1, 11, 11)
    x, y, xx, yy, xy = F.conv2d(planes, kernel, groups=3).chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * x * y + c1) / (x * x + y * y + c1)
    structure = (2 * (xy - x * y) + c2) / (xx - x * x + yy - y * y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def plain_decode(tokenizer: FrameTokenizer | VQGANTokenizer) -> Callable[[Tensor], Tensor]:
    """Tokens (M, N) -> frames (M, 3, H, W), by a copy of the tokenizer in NCHW."""
    plain = copy.deepcopy(tokenizer).to(memory_format=torch.contiguous_format)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, DoublingConv):
                module.register_module(name, _doubled_then_convolved(child))
    grid = tokenizer.config.grid

    def decode(tokens: Tensor) -> Tensor:
        codes = plain.quantizer.codes(tokens.view(-1, *grid)).contiguous()
        if isinstance(plain, VQGANTokenizer):
            return plain.decoder(plain.post_quant_linear(codes))
        return plain.decoder(codes) / 2 + plain.mean

    return decode


def _doubled_then_convolved(layer: DoublingConv) -> nn.Module:
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
    conv.load_state_dict(layer.state_dict())
    return nn.Sequential(nn.Upsample(scale_factor=2), conv)


def plain_score(
    decode: Callable[[Tensor], Tensor], perceptual: PlainLPIPS, tokens: Tensor, true: Tensor
) -> dict[str, Tensor]:
    """Tokens (B, G, T, N), true (B, T, 3, H, W) -> perceptual distance, mae, ssim (B, G, T).

    Frames are decoded 8 at a time and all kept; true frames are repeated for the group.
    """
    G = tokens.shape[1]
    pred = torch.cat([decode(rows).clamp(0, 1) for rows in tokens.flatten(0, 2).split(MICRO_BATCH)])
    truth = true[:, None].expand(-1, G, -1, -1, -1, -1).flatten(0, 2)
    pairs = list(zip(pred.split(MICRO_BATCH), truth.split(MICRO_BATCH), strict=True))
    scores = {
        "perceptual": torch.cat([perceptual(a, b) for a, b in pairs]),
        "mae": torch.cat([(a - b).abs().mean(dim=(1, 2, 3)) for a, b in pairs]),
        "ssim": torch.cat([plain_ssim(a, b) for a, b in pairs]),
    }
    return {name: value.view(tokens.shape[:3]) for name, value in scores.items()}
