from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.training.predicted_context import continued, drawn_jump
from vidwm.training.token_windows import Clips
from vidwm.world_model.compressive_layout import CompressiveLayout
from vidwm.world_model.layout import Layout
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

SIZES = {
    "tokens_per_frame": 3,
    "codebook_size": 12,
    "action_dims": 2,
    "action_bins": 5,
    "horizon": 4,
}
LAYOUTS = {
    "single_step": Layout(**SIZES, context_frames=2),
    "multi_step": CompressiveLayout(
        **SIZES, context_frames=1, context_codebook_size=6, tokens_per_context_frame=5
    ),
}


@pytest.fixture(params=LAYOUTS)
def model(request):
    layout = LAYOUTS[request.param]
    transformer = Transformer(
        TransformerConfig(
            vocab_size=layout.vocab_size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=layout.bos,
            eos_token_id=layout.eos,
        )
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return SimpleNamespace(layout=layout, transformer=transformer, bins=lambda rows: rows.long())


@pytest.fixture
def clips(model):
    layout = model.layout
    if isinstance(layout, CompressiveLayout):
        full, last = torch.randint(0, 6, (6, 1, 5)), torch.randint(0, 12, (6, 3))
        context = layout.context(full, last)
    else:
        context = torch.randint(0, 12, (6, *layout.context_shape))
    tokens = torch.randint(0, 12, (6, 4, 3))
    return Clips(context, tokens, torch.randint(0, 5, (6, layout.num_frames, 2)).float())


@pytest.mark.parametrize("jump", [1, 3])
def test_clips_begin_later_after_what_the_model_predicts_there(model, clips, jump):
    later = continued(model, clips, jump, draw=7)
    imagined = generate(
        model.transformer,
        model.layout,
        clips.context,
        clips.actions.long(),
        group_size=1,
        keys=torch.arange(6),
        sampling=Sampling(seed=7),
    ).tokens[:, 0, :jump]
    assert torch.equal(later.context, model.layout.advanced(clips.context, imagined))
    assert torch.equal(model.layout.last_frame(later.context), imagined[:, -1])
    assert torch.equal(later.tokens, clips.tokens[:, jump:])
    assert torch.equal(later.actions, clips.actions[:, jump:])
    again, other = (continued(model, clips, jump, draw) for draw in (7, 8))
    assert torch.equal(again.context, later.context)
    assert not torch.equal(other.context, later.context)


def test_nothing_flows_back_through_imagined_frames(model, clips):
    later = continued(model, clips, 2, draw=0)
    assert not later.context.requires_grad
    assert all(parameter.requires_grad for parameter in model.transformer.parameters())


def test_all_jumps_are_alike_and_leave_a_frame_to_predict():
    counts = torch.tensor([drawn_jump(4, draw) for draw in range(600)]).bincount()
    assert counts.tolist()[0] == 0 and len(counts) == 4 and counts[1:].min() > 150
    assert drawn_jump(2, 5) == 1
