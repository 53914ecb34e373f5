import pytest
import torch

from vidwm.world_model.copy_heads import start_copying
from vidwm.world_model.layout import Layout
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer


def new_transformer(layout: Layout, heads: int, kv_heads: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerConfig(
            vocab_size=layout.vocab_size,
            hidden_size=128,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=256,
            bos_token_id=layout.bos,
            eos_token_id=layout.eos,
        )
    )


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("horizon", [1, 3])
def test_a_new_model_looks_at_the_same_place_of_the_previous_frame(heads, kv_heads, horizon):
    layout = Layout(
        tokens_per_frame=16,
        codebook_size=40,
        action_dims=3,
        action_bins=8,
        context_frames=2,
        horizon=horizon,
    )
    transformer = new_transformer(layout, heads, kv_heads)
    tokens = torch.randint(0, 40, (8, layout.num_frames, 16))
    bins = torch.randint(0, 8, (8, layout.num_frames, 3))
    ids = layout.sequence(tokens[:, :2], tokens[:, 2:], bins)
    # The two heads are equally loud and a place apart, so the copy is one of the two likeliest.
    candidates = 1 if horizon == 1 or heads == 1 else 2

    def share_copied() -> torch.Tensor:
        """Of each predicted frame."""
        with torch.no_grad():
            logits = transformer(ids, layout.logit_positions())[..., :40]
        likeliest = logits.topk(candidates, dim=-1).indices.unflatten(1, (horizon, 16))
        hits = (likeliest == tokens[:, 1:-1, :, None]).any(dim=-1)
        return hits.float().mean(dim=(0, 2))

    assert share_copied().max() < 0.2
    start_copying(transformer, layout)
    # A single head of a longer horizon has the distance of the later frames.
    served = share_copied() if heads > 1 or horizon == 1 else share_copied()[1:]
    assert served.min() > 0.9


def test_every_weight_still_gets_a_gradient():
    layout = Layout(
        tokens_per_frame=4,
        codebook_size=20,
        action_dims=1,
        action_bins=4,
        context_frames=1,
        horizon=2,
    )
    transformer = new_transformer(layout, 2, 1)
    start_copying(transformer, layout)
    tokens, bins = torch.randint(0, 20, (4, 3, 4)), torch.randint(0, 4, (4, 3, 1))
    ids = layout.sequence(tokens[:, :1], tokens[:, 1:], bins)
    transformer(ids)[:, :-1].log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).mean().backward()
    for name, parameter in transformer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
