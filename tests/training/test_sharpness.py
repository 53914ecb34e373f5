import torch

from vidwm.training.sharpness import Sharpness
from vidwm.world_model.layout import Layout
from vidwm.world_model.likelihood import sequence_logprobs
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

LAYOUT = Layout(
    tokens_per_frame=3, codebook_size=12, action_dims=2, action_bins=5, context_frames=2, horizon=3
)
TOKENS = torch.arange(18).view(1, 2, 3, 3) % 12
PROMPT = torch.arange(6).view(1, 2, 3)
BINS = torch.zeros(1, 5, 2, dtype=torch.long)


def small() -> Transformer:
    transformer = Transformer(
        TransformerConfig(
            vocab_size=LAYOUT.vocab_size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            bos_token_id=LAYOUT.bos,
            eos_token_id=LAYOUT.eos,
        )
    )
    torch.nn.init.normal_(transformer.lm_head.weight)
    return transformer


def test_in_the_weights_and_as_a_temperature_it_means_the_same():
    transformer, sharpness = small(), Sharpness()
    with torch.no_grad():
        sharpness.log_scale.fill_(0.7)
    before = transformer.model.norm.weight.clone()
    plain, _ = sequence_logprobs(transformer, LAYOUT, TOKENS, PROMPT, BINS)
    cooled = sequence_logprobs(
        transformer, LAYOUT, TOKENS, PROMPT, BINS, temperature=sharpness.temperature(1.5)
    )
    with sharpness.folded_into(transformer):
        folded = sequence_logprobs(transformer, LAYOUT, TOKENS, PROMPT, BINS, temperature=1.5)
    for ours, theirs in zip(cooled, folded, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (cooled[0] - plain).abs().max() > 0.1
    assert torch.equal(transformer.model.norm.weight, before)


def test_the_weights_are_given_back_after_an_error():
    transformer, sharpness = small(), Sharpness()
    with torch.no_grad():
        sharpness.log_scale.fill_(0.7)
    before = transformer.model.norm.weight.clone()
    try:
        with sharpness.folded_into(transformer):
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(transformer.model.norm.weight, before)


def test_it_learns_to_be_surer_of_what_was_likely():
    transformer, sharpness = small(), Sharpness()
    logprobs, entropy = sequence_logprobs(
        transformer, LAYOUT, TOKENS, PROMPT, BINS, temperature=sharpness.temperature(1.0)
    )
    likely = logprobs > -entropy  # likelier than a draw is on average
    assert likely.any() and not likely.all()
    (gained,) = torch.autograd.grad(logprobs[likely].sum(), sharpness.log_scale, retain_graph=True)
    (lost,) = torch.autograd.grad(logprobs[~likely].sum(), sharpness.log_scale)
    assert gained > 0 > lost
