"""Vector quantisation with a learned codebook: the classical alternative to FSQ.

The codebook follows the latents by exponential moving averages and codes that fall out of use are
restarted from the batch; `vector-quantize-pytorch` does both. This wrapper gives it FSQ's interface.

Source: van den Oord et al., arXiv 1711.00937, appendix A.1.
"""

from __future__ import annotations

from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize


class VQ(nn.Module):
    """Learned codebook of `codebook_size` rows and width `code_dim`."""

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.code_dim = code_dim
        self.quantize = VectorQuantize(
            dim=code_dim,
            codebook_size=codebook_size,
            decay=0.99,
            commitment_weight=0.25,
            kmeans_init=True,
            threshold_ema_dead_code=1,
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """latents (B, D, h, w) -> codes (B, D, h, w), tokens (B, h, w) int64, commitment loss."""
        B, D, h, w = latents.shape
        codes, tokens, loss = self.quantize(latents.float().flatten(2).transpose(1, 2))
        return codes.transpose(1, 2).reshape(B, D, h, w), tokens.view(B, h, w), loss.sum()

    def codes(self, tokens: Tensor) -> Tensor:
        """tokens (B, h, w), 0..codebook_size-1 -> codes (B, D, h, w)."""
        return self.quantize.get_codes_from_indices(tokens).movedim(-1, 1)
