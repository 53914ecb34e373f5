from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidwm.world_model.layout import Layout
from vidwm.world_model.likelihood import sequence_logprobs
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

LAYOUT = Layout(
    tokens_per_frame=3, codebook_size=12, action_dims=2, action_bins=5, context_frames=2, horizon=3
)


@pytest.fixture
def transformer() -> Transformer:
    """Weights large enough for the distributions to be far from flat."""
    transformer = Transformer(
        TransformerConfig(
            vocab_size=LAYOUT.vocab_size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=LAYOUT.sequence_length,
            bos_token_id=LAYOUT.bos,
            eos_token_id=LAYOUT.eos,
        )
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return transformer


@pytest.fixture
def futures() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of 3 contexts with 4 futures each, context tokens and action bins."""
    tokens = torch.randint(0, 12, (3, 4, 3, 3))
    return tokens, torch.randint(0, 12, (3, 2, 3)), torch.randint(0, 5, (3, 5, 2))


def plain(
    transformer: Transformer, futures: tuple[Tensor, Tensor, Tensor], temperature: float
) -> Tensor:
    """All positions and ids, one whole sequence per future; illegal ids masked afterwards."""
    tokens, context, bins = futures
    repeated = (part.repeat_interleave(4, dim=0) for part in (context, bins))
    ids = LAYOUT.sequence(next(repeated), tokens.flatten(0, 1), next(repeated))
    logits = transformer(ids)
    logits[..., LAYOUT.codebook_size :] = float("-inf")
    labels = LAYOUT.labels(ids)[:, 1:]
    logprobs = (logits[:, :-1] / temperature).log_softmax(dim=-1)
    chosen = logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return chosen[labels != -100].view(tokens.shape)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_equals_the_plain_forward_in_values_and_gradients(
    transformer: Transformer,
    futures: tuple[Tensor, Tensor, Tensor],
    temperature: float,
    micro_batch: int | None,
) -> None:
    weight = torch.randn(3, 4, 3, 3)
    expected = plain(transformer, futures, temperature)
    wanted = torch.autograd.grad((expected * weight).sum(), list(transformer.parameters()))
    found, _ = sequence_logprobs(
        transformer, LAYOUT, *futures, temperature=temperature, micro_batch=micro_batch
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad((found * weight).sum(), list(transformer.parameters()))
    for ours, theirs in zip(gradients, wanted, strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=2e-5)


def test_entropy_is_that_of_the_legal_ids(
    transformer: Transformer, futures: tuple[Tensor, Tensor, Tensor]
) -> None:
    _, entropy = sequence_logprobs(transformer, LAYOUT, *futures)
    assert not entropy.requires_grad and entropy.shape == (3, 4, 3, 3)
    total = torch.zeros(())
    for token in range(12):
        tokens = futures[0].clone()
        tokens[:, :, 0, 0] = token
        logprobs, _ = sequence_logprobs(transformer, LAYOUT, tokens, *futures[1:])
        first = logprobs[0, 0, 0, 0].detach()
        total = total - first.exp() * first
    torch.testing.assert_close(entropy[0, 0, 0, 0], total)


@torch.no_grad()
def test_a_later_frame_changes_no_earlier_logprobs(
    transformer: Transformer, futures: tuple[Tensor, Tensor, Tensor]
) -> None:
    before, _ = sequence_logprobs(transformer, LAYOUT, *futures)
    tokens = futures[0].clone()
    tokens[:, :, 2] = (tokens[:, :, 2] + 1) % 12
    after, _ = sequence_logprobs(transformer, LAYOUT, tokens, *futures[1:])
    assert torch.equal(after[:, :, :2], before[:, :, :2])
    assert (after[:, :, 2] != before[:, :, 2]).all()


def test_other_sizes_are_errors(
    transformer: Transformer, futures: tuple[Tensor, Tensor, Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(B, 3, 3\)"):
        sequence_logprobs(transformer, LAYOUT, futures[0].repeat(1, 1, 2, 1), *futures[1:])


@torch.no_grad()
def test_fewer_frames_are_as_likely_as_they_are_before_others(
    transformer: Transformer, futures: tuple[Tensor, Tensor, Tensor]
) -> None:
    whole, _ = sequence_logprobs(transformer, LAYOUT, *futures)
    for frames in (1, 2):
        some, _ = sequence_logprobs(transformer, LAYOUT, futures[0][:, :, :frames], *futures[1:])
        torch.testing.assert_close(some, whole[:, :, :frames], rtol=1e-4, atol=1e-5)
