"""Vector quantisation with a learned codebook: the classical alternative to FSQ.

The codebook follows the latents by exponential moving averages instead of gradients; codes that
fall out of use restart at a latent of the present batch. Same interface as `FSQ`.
Source: van den Oord et al., arXiv 1711.00937, appendix A.1; restarts: Dhariwal et al.,
arXiv 2005.00341, section 3.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DECAY = 0.99
COMMITMENT = 0.25
DEAD_BELOW = 0.1  # latents per step, on average
SMOOTHING = 1e-5


class VQ(nn.Module):
    """Learned codebook of `codebook_size` rows and width `code_dim`.

    `learning`: whether it follows the latents in training.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.codebook_size, self.code_dim = codebook_size, code_dim
        self.learning = True
        self.register_buffer("codebook", torch.randn(codebook_size, code_dim))
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("started", torch.tensor(False))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """latents (B, D, h, w) -> codes (B, D, h, w), tokens (B, h, w) int64, commitment loss.

        Gradients pass straight through; in training the codebook follows the latents.
        """
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float().movedim(1, -1)
            flat = latents.detach().flatten(0, 2)
            following = self.training and self.learning
            if following and not self.started:
                self._restart(torch.ones_like(self.counts, dtype=torch.bool), flat)
                self.started.fill_(True)
            tokens = nearest_code(flat, self.codebook)
            codes = self.codebook[tokens].view(latents.shape)
            loss = COMMITMENT * F.mse_loss(latents, codes)
            if following:
                self._follow(flat, tokens)
            codes = latents + (codes - latents).detach()
        return codes.movedim(-1, 1), tokens.view(latents.shape[:-1]), loss

    def codes(self, tokens: Tensor) -> Tensor:
        """tokens (B, h, w), 0..codebook_size-1 -> codes (B, D, h, w)."""
        return self.codebook[tokens].movedim(-1, 1)

    @torch.no_grad()
    def _follow(self, flat: Tensor, tokens: Tensor) -> None:
        counts = torch.bincount(tokens, minlength=self.codebook_size).float()
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, flat)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        self.codebook.copy_(self.sums / self.counts.clamp_min(SMOOTHING)[:, None])
        self._restart(self.counts < DEAD_BELOW, flat)

    @torch.no_grad()
    def _restart(self, dead: Tensor, flat: Tensor) -> None:
        """Put the codes marked in `dead` (K,) on random latents of flat (M, D)."""
        rows = flat[torch.randint(len(flat), (self.codebook_size,), device=flat.device)]
        self.codebook.copy_(torch.where(dead[:, None], rows, self.codebook))
        self.counts.copy_(torch.where(dead, 1.0, self.counts))
        self.sums.copy_(torch.where(dead[:, None], rows, self.sums))


def nearest_code(latents: Tensor, codebook: Tensor) -> Tensor:
    """Token (row index) of the nearest code by squared distance; ties go to the lower token.

    latents (M, D) and codebook (K, D), float32 -> (M,) int64.
    """
    distances = codebook.square().sum(1) - 2 * latents @ codebook.T
    return distances.argmin(dim=1)
