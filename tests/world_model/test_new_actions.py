"""A transformer for another layout: which rows its new ids start from."""

import pytest
import torch

from vidwm.errors import UserError
from vidwm.world_model.compressive_layout import CompressiveLayout
from vidwm.world_model.layout import Layout
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.new_actions import (
    for_layout,
    inherited_dimensions,
    inherited_ids,
    nearest_bins,
)
from vidwm.world_model.transformer import Transformer

OLD = Layout(
    tokens_per_frame=4,
    codebook_size=16,
    action_dims=2,
    action_bins=8,
    context_frames=1,
    horizon=2,
)


def layout(**changes) -> Layout:
    return Layout(**{**vars(OLD), **changes})


def transformer_of(old: Layout) -> Transformer:
    return Transformer(
        TransformerConfig(
            vocab_size=old.vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=old.sequence_length,
            bos_token_id=old.bos,
            eos_token_id=old.eos,
        )
    )


def test_every_new_bin_has_the_nearest_old_one():
    for old, new in ((8, 8), (8, 3), (3, 8), (256, 64), (1, 5), (5, 1)):
        value = (torch.arange(new) + 0.5) / new
        distance = (value[:, None] - (torch.arange(old) + 0.5) / old).abs()
        chosen = distance[torch.arange(new), nearest_bins(old, new)]
        assert torch.allclose(chosen, distance.min(dim=1).values)


def test_dimensions_are_found_by_name_and_else_by_place():
    assert inherited_dimensions(["x", "y", "grip"], ["grip", "a", "b", "c"]) == [2, 1, 2, 0]


def test_ids_of_own_and_of_shared_bins():
    new = layout(action_dims=3, tokens_per_frame=9)
    ids = inherited_ids(OLD, new, [1, 0, 1])
    first, second = torch.arange(16, 24), torch.arange(24, 32)
    expected = torch.cat([torch.arange(16), second, first, second, torch.tensor([32, 33])])
    assert torch.equal(ids, expected) and len(ids) == new.vocab_size
    shared = {"shared_action_ids": True}
    same = inherited_ids(layout(**shared), layout(**shared, action_dims=7), [0, 1, 0, 1, 0, 1, 0])
    assert torch.equal(same, torch.arange(same.numel()))  # one set of bins fits any robot


@pytest.mark.parametrize("shared", [False, True])
def test_a_layout_of_the_same_robot_changes_nothing(shared):
    old = layout(shared_action_ids=shared)
    transformer = transformer_of(old)
    copy = for_layout(transformer, old, old, ["x", "y"], ["x", "y"])
    ids = torch.randint(0, old.vocab_size, (2, old.sequence_length))
    assert torch.equal(copy(ids), transformer(ids))
    assert copy.lm_head.weight.data_ptr() != transformer.lm_head.weight.data_ptr()


def test_the_same_actions_on_other_ids_are_read_alike():
    """Two dimensions change places: the sequence reads the same, and so do the predictions."""
    new, transformer = layout(horizon=1), transformer_of(OLD)
    copy = for_layout(transformer, OLD, new, ["x", "y"], ["y", "x"])
    context, bins = torch.randint(0, 16, (3, 1, 4)), torch.randint(0, 8, (3, 2, 2))
    before = OLD.prompt(context, bins)
    after = new.prompt(context, bins.flip(-1))
    assert not torch.equal(before, after)
    after[:, 4:6] = after[:, 4:6].flip(-1)
    assert torch.equal(copy(after)[..., :16], transformer(before)[..., :16])


def test_longer_sequences_get_positions():
    new = layout(tokens_per_frame=30)
    copy = for_layout(transformer_of(OLD), OLD, new, ["x", "y"], ["x", "y"])
    assert copy.config.max_position_embeddings == new.sequence_length > OLD.sequence_length
    assert copy(torch.zeros(1, new.sequence_length, dtype=torch.long)).isfinite().all()


def test_another_codebook_or_kind_is_refused():
    other = layout(codebook_size=17)
    with pytest.raises(UserError, match=r"knows the 16 codes.* writes the 17"):
        for_layout(transformer_of(OLD), OLD, other, ["x", "y"], ["x", "y"])
    sizes = {**vars(OLD), "codebook_size": 8, "context_codebook_size": 8}
    multi = CompressiveLayout(**sizes, tokens_per_context_frame=4)
    with pytest.raises(UserError, match="codes of a compressive one"):
        for_layout(transformer_of(OLD), OLD, multi, ["x", "y"], ["x", "y"])


def test_the_codebook_of_context_frames_is_kept():
    sizes = {**vars(OLD), "context_codebook_size": 8, "tokens_per_context_frame": 4}
    old, new = CompressiveLayout(**sizes), CompressiveLayout(**{**sizes, "action_dims": 1})
    ids = inherited_ids(old, new, [1])
    assert ids[:24].tolist() == list(range(24)) and ids[24:32].tolist() == list(range(32, 40))
