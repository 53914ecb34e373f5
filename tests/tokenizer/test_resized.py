"""A tokenizer for frames of another size, and which part of it training may change."""

import pytest
import torch

from vidwm.errors import UserError
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import CompressiveConfig
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.tokenizer.frozen import freeze_but
from vidwm.tokenizer.resized import resized
from vidwm.tokenizer.vqgan_frame import VQGANConfig, VQGANTokenizer

FRAME = FrameTokenizerConfig(height=16, width=16, patch=2, widths=(8, 8), blocks=1)
VQGAN = VQGANConfig(height=16, width=16, widths=(8, 8), blocks=1, groups=4, latent=4)
COMPRESSIVE = CompressiveConfig(
    height=16, width=16, widths=(32, 32), blocks=1, groups=8, latent=4, patch=2,
    attention_height=128, fsq_levels=(4, 4), context_levels=(4, 4),
)  # fmt: skip
KINDS = [(FrameTokenizer, FRAME), (VQGANTokenizer, VQGAN), (CompressiveTokenizer, COMPRESSIVE)]


def encoded(tokenizer, frames):
    tokens = tokenizer.encode(frames)
    return tokens if isinstance(tokens, tuple) else (tokens,)


def alike(before, after):
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_the_same_size_gives_the_same_tokens(kind, config):
    tokenizer = kind(config).eval()
    frames = torch.rand(2, 3, 3, 16, 16)
    assert alike(encoded(tokenizer, frames), encoded(resized(tokenizer, 16, 16), frames))


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_other_sizes_have_as_many_tokens_as_cells(kind, config):
    new = resized(kind(config), 24, 32)
    assert (new.height, new.width) == (24, 32) and not new.training
    assert new.tokens_per_frame == (24 // config.downsample) * (32 // config.downsample) // (
        getattr(config, "patch", 1) ** 2 if kind is CompressiveTokenizer else 1
    )
    encoded(new, torch.rand(1, 3, 3, 24, 32))
    with pytest.raises(UserError, match="cannot be cut into cells"):
        resized(new, 25, 32)


def test_maps_of_places_are_stretched_not_lost():
    tokenizer = FrameTokenizer(FRAME)
    slope = torch.linspace(0, 1, 16).expand(3, 16, 16)
    tokenizer.centre_on(slope)
    wide = resized(tokenizer, 16, 32)
    assert (wide.mean[0, 0].diff() >= 0).all() and wide.mean[0, 0, -1] == slope[0, 0, -1]
    assert torch.equal(tokenizer.mean, slope)
    compressive = CompressiveTokenizer(COMPRESSIVE)
    compressive.start_in_place()
    table = compressive.cond_decoder.cross_att_blocks[0].q_pos_emb
    places = resized(compressive, 16, 32).cond_decoder.cross_att_blocks[0].q_pos_emb
    assert places.shape == (2 * len(table), 32)
    assert torch.allclose(places.view(8, 16, 32).mean((0, 1)), table.mean(0), atol=1e-6)


def one_step(tokenizer, frames):
    """Names of what a step in training mode changes."""
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    if isinstance(tokenizer, CompressiveTokenizer):
        (context, _), (later, _) = tokenizer.train()(frames)
        loss = context.square().mean() + later.square().mean()
    else:
        decoded, _, commitment = tokenizer.train()(frames)
        loss = decoded.square().mean() + commitment
    loss.backward()
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad.sign() * 0.1
    return {n for n, v in tokenizer.eval().state_dict().items() if (v != before[n]).any()}


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_with_the_decoder_trained_alone_frames_keep_their_tokens(kind, config):
    frames = torch.rand(4, 3, 3, 16, 16)
    batch = frames if kind is CompressiveTokenizer else frames.flatten(0, 1)
    moved, kept = {}, {}
    for trained in ("networks", "decoder"):
        torch.manual_seed(0)
        tokenizer = kind(config)
        before = encoded(tokenizer.eval(), frames)
        freeze_but(tokenizer, trained)
        names = one_step(tokenizer, batch)
        assert any("decoder" in name for name in names)
        moved[trained] = any("encoder" in name for name in names)
        kept[trained] = alike(before, encoded(tokenizer, frames))
    assert kept == {"networks": False, "decoder": True}
    assert moved == {"networks": True, "decoder": False}


@pytest.mark.parametrize("trained", ["all", "networks", "decoder"])
def test_a_learned_codebook_moves_only_where_all_is_trained(trained):
    tokenizer = FrameTokenizer(
        FrameTokenizerConfig(
            height=16, width=16, widths=(8, 8), quantizer="vq", codebook_size=8, code_dim=4
        )
    )
    freeze_but(tokenizer, trained)
    moved = one_step(tokenizer, torch.rand(4, 3, 16, 16))
    assert ("quantizer.codebook" in moved) == (trained == "all")
    assert any(name.startswith("encoder") for name in moved) == (trained != "decoder")
