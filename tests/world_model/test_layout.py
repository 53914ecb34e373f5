from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidwm.errors import UserError
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.layout import Layout

# K = 10 visual ids, 4 action ids 10..13, bos 14, eos 15.
LAYOUT = Layout(
    tokens_per_frame=2,
    codebook_size=10,
    action_dims=1,
    action_bins=4,
    context_frames=2,
    horizon=3,
)
CONTEXT, TOKENS = torch.arange(10).view(1, 5, 2).split([2, 3], dim=1)
BINS = torch.tensor([[[0], [1], [2], [3], [0]]])
#         z0    a0  z1    a1  bos z2    a2  z3    a3  z4    eos
SEQUENCE = [0, 1, 10, 2, 3, 11, 14, 4, 5, 12, 6, 7, 13, 8, 9, 15]


def test_sequence_is_the_one_in_the_drawing() -> None:
    assert LAYOUT.sequence(CONTEXT, TOKENS, BINS).tolist() == [SEQUENCE]
    assert LAYOUT.sequence_length == len(SEQUENCE)
    assert LAYOUT.vocab_size == 16


def test_prompt_and_future_are_its_parts() -> None:
    assert LAYOUT.prompt(CONTEXT, BINS).tolist() == [SEQUENCE[:7]]
    assert LAYOUT.future(TOKENS, BINS).tolist() == [SEQUENCE[7:-1]]
    assert (LAYOUT.prompt_length, LAYOUT.future_length) == (7, 8)


def test_loss_is_on_tokens_of_predicted_frames_alone() -> None:
    labels = LAYOUT.labels(torch.tensor([SEQUENCE]))[0].tolist()
    predicted = {7, 8, 10, 11, 13, 14}
    assert labels == [SEQUENCE[i] if i in predicted else -100 for i in range(16)]


def test_positions_of_frames_and_of_their_logits() -> None:
    assert [LAYOUT.frame_positions(i) for i in range(3)] == [
        slice(7, 9),
        slice(10, 12),
        slice(13, 15),
    ]
    assert LAYOUT.logit_positions().tolist() == [6, 7, 9, 10, 12, 13]
    with pytest.raises(ValueError, match=r"must be in 0\.\.2, got 3"):
        LAYOUT.frame_positions(3)


def test_every_dimension_has_ids_of_its_own_unless_they_are_shared() -> None:
    sizes = {"tokens_per_frame": 2, "codebook_size": 10, "context_frames": 1, "horizon": 1}
    own = Layout(**sizes, action_dims=3, action_bins=4)
    bins = torch.tensor([[[0, 1, 3]]])
    assert own.action_ids(bins).tolist() == [[[10, 15, 21]]]
    assert (own.bos, own.eos, own.vocab_size) == (22, 23, 24)
    shared = Layout(**sizes, action_dims=3, action_bins=4, shared_action_ids=True)
    assert shared.action_ids(bins).tolist() == [[[10, 11, 13]]]
    assert (shared.bos, shared.vocab_size) == (14, 16)


def test_equals_the_reference_implementation(shared: Path) -> None:
    golden = load_file(shared / "golden" / "layout_io.safetensors")
    low, high = golden["action_ranges"].unbind(1)
    bins = ActionBins(low=low, high=high).encode(golden["single_actions"])
    layout = Layout(
        tokens_per_frame=320,
        codebook_size=4375,
        action_dims=13,
        context_frames=4,
        horizon=1,
        shared_action_ids=True,
    )
    tokens = golden["single_frame_tokens"].flatten(2)
    ids = layout.sequence(tokens[:, :4], tokens[:, 4:], bins)
    assert torch.equal(ids, golden["single_input_ids"])
    # The reference also trains on bos and eos, which are forced here and carry no loss.
    theirs = golden["single_labels"]
    expected = theirs.where(theirs < layout.codebook_size, -100)
    assert torch.equal(layout.labels(ids), expected)
    assert layout.vocab_size == 4633 and layout.prompt_length == 1333


def test_ids_of_another_model_are_errors_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"tokens must lie in 0\.\.9, got 5\.\.10"):
        LAYOUT.sequence(CONTEXT, TOKENS + 1, BINS)
    with pytest.raises(UserError, match=r"action bins must lie in 0\.\.3, got -1\.\.0"):
        LAYOUT.sequence(CONTEXT, TOKENS, BINS - 1)


def test_shapes_of_another_layout_are_errors() -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(B, 3, 2\)"):
        LAYOUT.sequence(CONTEXT, TOKENS[:, :2], BINS)
    with pytest.raises(ValueError, match=r"action bins must be \(1, >= 4, 1\), got \(1, 3, 1\)"):
        LAYOUT.sequence(CONTEXT, TOKENS, BINS[:, :3])
    with pytest.raises(ValueError, match=r"action bins must be \(1, >= 2, 1\)"):
        LAYOUT.prompt(CONTEXT, BINS.expand(2, -1, -1))


@pytest.mark.parametrize("name", ["tokens_per_frame", "action_dims", "context_frames", "horizon"])
def test_sizes_below_one_are_errors(name: str) -> None:
    sizes = dict.fromkeys(
        ["tokens_per_frame", "codebook_size", "action_dims", "context_frames", "horizon"], 1
    )
    with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
        Layout(**(sizes | {name: 0}))
