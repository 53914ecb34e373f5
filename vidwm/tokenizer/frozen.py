"""Which part of a tokenizer training may change, once a transformer has learned its tokens.

A token means what the encoder writes it for. With FSQ the codebook never changes, yet an encoder
that learns on writes other tokens for the same frame; only with the encoder fixed do tokens keep
their meaning, and the decoder alone learns what the new frames look like.
"""

from __future__ import annotations

from torch import nn

from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.tokenizer.vq import VQ


def freeze_but(tokenizer: Tokenizer, trained: str) -> None:
    """Keep training from changing what is not `trained`.

    all: nothing is kept. networks: the codebook of a VQ is. decoder: the encoder as well.
    """
    if trained == "all":
        return
    if isinstance(tokenizer.quantizer, VQ):
        tokenizer.quantizer.learning = False
    if trained == "decoder":
        for module in _writing(tokenizer):
            module.requires_grad_(False)


def _writing(tokenizer: Tokenizer) -> list[nn.Module]:
    """What tokens depend on."""
    if isinstance(tokenizer, FrameTokenizer):
        return [tokenizer.encoder]
    if isinstance(tokenizer, CompressiveTokenizer):
        full = [tokenizer.encoder, tokenizer.quant_conv]
        return [*full, tokenizer.cond_encoder, tokenizer.quant_linear]
    return [tokenizer.encoder, tokenizer.quant_linear]
