import pytest
import torch

from vidwm.tokenizer.fsq import FSQ


@pytest.mark.parametrize("levels", [(8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (2, 3)])
def test_codes_and_tokens_are_a_bijection(levels):
    fsq = FSQ(levels)
    tokens = torch.arange(fsq.codebook_size).view(1, 1, -1)
    codes = fsq.codes(tokens)
    assert len(codes.movedim(1, -1).reshape(-1, len(levels)).unique(dim=0)) == fsq.codebook_size
    digits = (codes.movedim(1, -1) * (fsq.levels // 2)).round().long() + fsq.levels // 2
    assert torch.equal((digits * fsq.basis).sum(-1), tokens)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (7, 5, 5, 5, 5)])
def test_every_level_is_reached_and_codes_match_tokens(levels):
    fsq = FSQ(levels)
    latents = torch.randn(64, len(levels), 8, 8, generator=torch.Generator().manual_seed(0)) * 4
    codes, tokens, loss = fsq(latents)
    assert torch.allclose(codes, fsq.codes(tokens), atol=1e-6)
    assert tokens.min() >= 0 and tokens.max() < fsq.codebook_size and loss == 0
    for channel, count in enumerate(levels):
        assert len(fsq.codes(tokens)[:, channel].unique()) == count


def test_formula_on_hand_computed_values():
    latents = torch.tensor([[0.0, 0.0], [9.0, 9.0], [-9.0, -9.0]]).view(3, 2, 1, 1)
    codes, tokens, _ = FSQ((5, 4))(latents)
    # 5 levels: -2..2; 4 levels: -2..1, and a latent of 0 stays at 0.
    assert torch.allclose(codes.flatten(1), torch.tensor([[0.0, 0.0], [1.0, 0.5], [-1.0, -1.0]]))
    assert tokens.flatten().tolist() == [2 + 5 * 2, 4 + 5 * 3, 0]


def test_gradient_passes_the_rounding():
    latents = torch.zeros(1, 2, 1, 1, requires_grad=True)
    FSQ((5, 5))(latents)[0].sum().backward()
    # d/dz of tanh(z) * half / (5 // 2) at 0
    assert torch.allclose(latents.grad, torch.full_like(latents, 2 * 1.001 / 2))


def test_autocast_does_not_touch_it():
    latents = torch.randn(2, 4, 4, 4)
    fsq = FSQ((8, 5, 5, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes, tokens, _ = fsq(latents)
    assert codes.dtype == torch.float32 and torch.equal(tokens, fsq(latents)[1])


def test_levels_below_two_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        FSQ((8, 1))
