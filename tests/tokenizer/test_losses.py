import math

import torch

from vidwm.tokenizer.losses import (
    Discriminator,
    LossWeights,
    codebook_statistics,
    discriminator_loss,
    generator_loss,
    reconstruction_losses,
)


def test_reconstruction_parts_on_known_errors():
    frames = torch.full((2, 3, 4, 4), 0.5)
    reconstruction = frames + torch.tensor([0.1, -0.3]).view(2, 1, 1, 1)
    seen = []

    def distance(a, b):
        seen.append((a, b))
        return torch.tensor([2.0, 4.0])

    parts = reconstruction_losses(reconstruction, frames, LossWeights(), distance)
    assert math.isclose(parts["l1"], 0.2, rel_tol=1e-5)
    assert math.isclose(parts["mse"], (0.01 + 0.09) / 2, rel_tol=1e-5)
    assert parts["perceptual"] == 3.0 and torch.equal(seen[0][1], frames)


def test_perception_left_out_at_weight_zero():
    frames = torch.zeros(1, 3, 4, 4)
    parts = reconstruction_losses(frames, frames, LossWeights(perceptual=0.0), None)
    assert set(parts) == {"l1", "mse"}


def test_hinge_losses_on_hand_computed_logits():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_loss(real, fake) == (0 + 0.5) / 2 + (0 + 1) / 2
    assert generator_loss(fake) == 1.5


def test_discriminator_looks_at_patches():
    logits = Discriminator((4, 8))(torch.rand(2, 3, 16, 24))
    assert logits.shape == (2, 4, 6)


def test_usage_and_perplexity():
    uniform = codebook_statistics(torch.arange(4).repeat(5), 8)
    assert uniform["codebook_usage"] == 0.5 and math.isclose(uniform["perplexity"], 4, rel_tol=1e-6)
    single = codebook_statistics(torch.zeros(9, dtype=torch.long), 8)
    assert single["codebook_usage"] == 1 / 8 and math.isclose(single["perplexity"], 1)
