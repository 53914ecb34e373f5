from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidwm.errors import UserError
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.compressive_layout import CompressiveLayout

# K = 10 visual ids, Kc = 20 of context frames 10..29, 4 action ids 30..33, bos 34, eos 35.
LAYOUT = CompressiveLayout(
    tokens_per_frame=2,
    codebook_size=10,
    tokens_per_context_frame=3,
    context_codebook_size=20,
    action_dims=1,
    action_bins=4,
    context_frames=2,
    horizon=2,
)
FULL = torch.tensor([[[0, 1, 2], [17, 18, 19]]])
CONTEXT = LAYOUT.context(FULL, torch.tensor([[4, 5]]))
TOKENS = torch.tensor([[[6, 7], [8, 9]]])
BINS = torch.tensor([[[3], [0], [1], [2]]])
#         x0          x1          d1    a1  d2    a2  d3    a3
SEQUENCE = [10, 11, 12, 27, 28, 29, 4, 5, 30, 6, 7, 31, 8, 9, 32]


def test_sequence_is_the_one_in_the_drawing() -> None:
    assert LAYOUT.sequence(CONTEXT, TOKENS, BINS).tolist() == [SEQUENCE]
    assert LAYOUT.prompt(CONTEXT, BINS).tolist() == [SEQUENCE[:9]]
    assert LAYOUT.future(TOKENS, BINS).tolist() == [SEQUENCE[9:-1]]
    assert (LAYOUT.prompt_length, LAYOUT.future_length, LAYOUT.sequence_length) == (9, 5, 15)
    assert (LAYOUT.bos, LAYOUT.eos, LAYOUT.vocab_size) == (34, 35, 36)


def test_loss_is_on_tokens_of_predicted_frames_alone() -> None:
    labels = LAYOUT.labels(torch.tensor([SEQUENCE]))[0].tolist()
    assert labels == [SEQUENCE[i] if i in {9, 10, 12, 13} else -100 for i in range(15)]


def test_a_context_holds_its_parts_and_goes_on_with_the_newest_frame() -> None:
    assert torch.equal(LAYOUT.full(CONTEXT), FULL)
    assert LAYOUT.last_frame(CONTEXT).tolist() == [[4, 5]]
    after = LAYOUT.advanced(CONTEXT, TOKENS)
    assert torch.equal(LAYOUT.full(after), FULL) and LAYOUT.last_frame(after).tolist() == [[8, 9]]
    assert after.shape[1:] == LAYOUT.context_shape
    assert LAYOUT.of_context(CONTEXT[0]) == LAYOUT
    assert LAYOUT.of_context(CONTEXT[0, 3:]).context_frames == 1


def test_equals_the_reference_implementation(shared: Path) -> None:
    golden = load_file(shared / "golden" / "layout_io.safetensors")
    low, high = golden["action_ranges"].unbind(1)
    bins = ActionBins(low=low, high=high).encode(golden["multi_actions"][:, 1:])
    full, shown = (
        golden[f"multi_{kind}_tokens"].flatten(2).long() for kind in ("context", "dynamics")
    )
    layout = CompressiveLayout(
        tokens_per_frame=80,
        codebook_size=4375,
        tokens_per_context_frame=1280,
        context_codebook_size=4375,
        action_dims=13,
        context_frames=1,
        horizon=7,
        shared_action_ids=True,
    )
    ids = layout.sequence(layout.context(full, shown[:, 0]), shown[:, 1:], bins)
    assert torch.equal(ids, golden["multi_input_ids"].long())
    assert torch.equal(layout.labels(ids), golden["multi_labels"].long())
    assert (layout.vocab_size, layout.prompt_length, layout.sequence_length) == (9008, 1373, 2024)


def test_ids_and_shapes_of_another_model_are_errors() -> None:
    with pytest.raises(UserError, match=r"context tokens must lie in 0\.\.19, got 2\.\.21"):
        LAYOUT.prompt(LAYOUT.context(FULL + 2, torch.tensor([[4, 5]])), BINS)
    with pytest.raises(UserError, match=r"tokens must lie in 0\.\.9, got 9\.\.10"):
        LAYOUT.prompt(LAYOUT.context(FULL, torch.tensor([[9, 10]])), BINS)
    with pytest.raises(ValueError, match=r"a context must be \(B, 8\), got \(1, 7\)"):
        LAYOUT.prompt(CONTEXT[:, 1:], BINS)
    with pytest.raises(ValueError, match="must be 4 actions, got 3"):
        LAYOUT.sequence(CONTEXT, TOKENS, BINS[:, :3])
