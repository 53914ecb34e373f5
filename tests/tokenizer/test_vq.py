import torch

from vidwm.tokenizer.vq import DECAY, VQ, nearest_code


def test_nearest_code_by_hand():
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    latents = torch.tensor([[0.4, 0.0], [0.6, 0.1], [0.1, 1.6], [0.5, 0.0]])
    assert nearest_code(latents, codebook).tolist() == [0, 1, 2, 0]


def test_gradient_passes_straight_through():
    vq = VQ(8, 3).eval()
    latents = torch.randn(2, 3, 2, 2, requires_grad=True)
    codes, tokens, _ = vq(latents)
    assert torch.allclose(codes, vq.codes(tokens))
    codes.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))


def test_codebook_is_an_average_of_its_latents():
    vq = VQ(2, 1).train()
    vq.started.fill_(True)
    vq.codebook.copy_(torch.tensor([[0.0], [10.0]]))
    vq.sums.copy_(vq.codebook)
    vq(torch.tensor([1.0, 2.0, 11.0]).view(1, 1, 1, 3))
    assert torch.allclose(vq.counts, torch.tensor([DECAY + 0.02, 1.0]))
    expected = torch.tensor([[0.03 / (DECAY + 0.02)], [DECAY * 10 + 0.11]])
    assert torch.allclose(vq.codebook, expected)


def test_dead_codes_restart_on_latents():
    vq = VQ(16, 2).train()
    for _ in range(3):
        vq(torch.randn(4, 2, 4, 4))
    vq.codebook[3] = 1e3  # nothing is near
    vq.sums[3] = 1e3 * 0.2
    vq.counts[3] = 0.2
    for _ in range(100):
        vq(torch.randn(4, 2, 4, 4))
    assert vq.codebook[3].abs().max() < 10


def test_first_batch_places_the_codebook():
    vq = VQ(4, 2).train()
    vq(torch.full((1, 2, 3, 3), 7.0))
    assert torch.allclose(vq.codebook, torch.full((4, 2), 7.0))
    frozen = VQ(4, 2).eval()
    before = frozen.codebook.clone()
    frozen(torch.full((1, 2, 3, 3), 7.0))
    assert torch.equal(frozen.codebook, before)
