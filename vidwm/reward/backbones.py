"""Convolutional trunks of the perceptual metrics, each cut into the stages whose ends are compared.

Five trunks: AlexNet, VGG16 and SqueezeNet 1.1 as LPIPS reads them (arXiv 1801.03924), and the
shift-tolerant AlexNet and VGG16 of ST-LPIPS (arXiv 2207.13686), in which every subsampling runs at
stride 1 and is followed by a blur of stride 2 (`vidwm.reward.blur`), so that a shift by one pixel
moves the features smoothly.

A trunk is a list of stages; stage i eats the output of stage i-1. `vidwm.reward.perceptual` fills
in the weights in the order in which the convolutions stand here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidwm.reward.blur import Blur


class Fire(nn.Module):
    """SqueezeNet's block: squeeze by 1x1, then expand by 1x1 and 3x3 side by side."""

    def __init__(self, width: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        squeezed = self.squeeze(maps).relu()
        return torch.cat([self.expand1(squeezed), self.expand3(squeezed)], dim=1).relu()


def _conv(
    width_in: int, width_out: int, size: int, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width_out, size, stride, padding), nn.ReLU(inplace=True)]


def _stages(*stages: list[nn.Module]) -> list[nn.Sequential]:
    return [nn.Sequential(*stage) for stage in stages]


def alexnet() -> list[nn.Sequential]:
    return _stages(
        _conv(3, 64, 11, stride=4, padding=2),
        [nn.MaxPool2d(3, 2), *_conv(64, 192, 5, padding=2)],
        [nn.MaxPool2d(3, 2), *_conv(192, 384, 3, padding=1)],
        _conv(384, 256, 3, padding=1),
        _conv(256, 256, 3, padding=1),
    )


def st_alexnet() -> list[nn.Sequential]:
    first, relu = _conv(3, 64, 11, padding=2)
    return _stages(
        [first, Blur(64), relu],
        [nn.MaxPool2d(3, 1), Blur(64), *_conv(64, 192, 5, padding=2)],
        [nn.MaxPool2d(3, 1), Blur(192), *_conv(192, 384, 3, padding=1)],
        _conv(384, 256, 3, padding=1),
        _conv(256, 256, 3, padding=1),
    )


VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _vgg16(shift_tolerant: bool) -> list[nn.Sequential]:
    stages: list[list[nn.Module]] = []
    width = 3
    for widths in VGG16_WIDTHS:
        stage: list[nn.Module] = []
        if stages:
            stage += [nn.MaxPool2d(2, 1), Blur(width)] if shift_tolerant else [nn.MaxPool2d(2, 2)]
        for width_out in widths:
            stage += _conv(width, width_out, 3, padding=1)
            width = width_out
        stages.append(stage)
    return _stages(*stages)


def vgg16() -> list[nn.Sequential]:
    return _vgg16(shift_tolerant=False)


def st_vgg16() -> list[nn.Sequential]:
    return _vgg16(shift_tolerant=True)


def squeezenet() -> list[nn.Sequential]:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return _stages(
        _conv(3, 64, 3, stride=2),
        [pool(), Fire(64, 16, 64), Fire(128, 16, 64)],
        [pool(), Fire(128, 32, 128), Fire(256, 32, 128)],
        [pool(), Fire(256, 48, 192)],
        [Fire(384, 48, 192)],
        [Fire(384, 64, 256)],
        [Fire(512, 64, 256)],
    )
