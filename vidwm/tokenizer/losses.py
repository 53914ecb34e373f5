"""What a tokenizer is trained on: pixels, perception, and an optional critic.

    loss = l1_weight * |x - y| + mse_weight * (x - y)^2 + perceptual_weight * d(x, y)
         + adversarial_weight * -D(y) + quantiser loss

The perceptual distance d is handed in, so that this room knows nothing of reward networks.
The critic is a stack of strided spectral-norm convolutions with the hinge loss.
Source: Esser et al., arXiv 2012.09841, section 3.1; recipe of RLVR-World, appendix A.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the parts; 0 leaves a part out."""

    l1: float = 1.0
    mse: float = 0.0
    perceptual: float = 1.0
    adversarial: float = 0.0


def reconstruction_losses(
    reconstruction: Tensor, frames: Tensor, weights: LossWeights, distance: Distance | None
) -> dict[str, Tensor]:
    """Unweighted parts by name; frames and reconstruction (B, 3, H, W), frames in [0, 1].

    The perceptual part looks at the reconstruction clamped to [0, 1].
    """
    error = reconstruction.float() - frames
    losses = {"l1": error.abs().mean(), "mse": error.square().mean()}
    if weights.perceptual and distance is not None:
        losses["perceptual"] = distance(reconstruction.float().clamp(0, 1), frames).mean()
    return losses


class Discriminator(nn.Module):
    """Patch critic: frames (B, 3, H, W) in [0, 1] -> logits (B, h, w), positive = real."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers.append(spectral_norm(nn.Conv2d(before, width, 4, stride=2, padding=1)))
            layers.append(nn.LeakyReLU(0.2))
            before = width
        layers.append(nn.Conv2d(before, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(2 * frames - 1).squeeze(1)


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-E[D(y)]: the decoder's side of the hinge game."""
    return -fake_logits.mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(y))]: the critic's side."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def codebook_statistics(tokens: Tensor, codebook_size: int) -> dict[str, float]:
    """`codebook_usage` (share of codes seen) and `perplexity` (exp of the entropy of their use)."""
    counts = torch.bincount(tokens.flatten(), minlength=codebook_size).double()
    shares = counts / counts.sum()
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    return {
        "codebook_usage": float((counts > 0).double().mean()),
        "perplexity": float(entropy.exp()),
    }
