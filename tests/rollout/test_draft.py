from __future__ import annotations

from typing import Any

import pytest
import torch

from vidwm.rollout.block_size import BLOCK_SIZES, BlockSize, StepCost
from vidwm.rollout.draft import DraftedDecoding
from vidwm.rollout.engine import Rollouts, generate
from vidwm.rollout.kv_cache import GroupCache
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.copy_heads import start_copying
from vidwm.world_model.layout import Layout
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

LAYOUT = Layout(
    tokens_per_frame=16, codebook_size=20, action_dims=2, action_bins=5, context_frames=2, horizon=3
)


def copying(strength: float) -> Transformer:
    """A model that repeats the previous frame, the more surely the larger `strength`."""
    torch.manual_seed(0)
    transformer = Transformer(
        TransformerConfig(
            vocab_size=LAYOUT.vocab_size,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=LAYOUT.sequence_length,
            bos_token_id=LAYOUT.bos,
            eos_token_id=LAYOUT.eos,
        )
    )
    start_copying(transformer, LAYOUT)
    with torch.no_grad():
        transformer.lm_head.weight.mul_(strength)
    return transformer


def rollouts(transformer: Transformer, **changes: Any) -> Rollouts:
    generator = torch.Generator().manual_seed(5)
    asked: dict[str, Any] = {
        "context": torch.randint(0, 20, (3, 1, 16), generator=generator).expand(-1, 2, -1),
        "bins": torch.randint(0, 5, (3, 4, 2), generator=generator),
        "keys": torch.arange(3),
        "group_size": 5,
        "sampling": Sampling(),
    }
    return generate(transformer, LAYOUT, **(asked | changes))


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0, 3.0])
def test_drafts_change_the_number_of_passes_and_nothing_else(strength: float) -> None:
    transformer = copying(strength)
    plain = rollouts(transformer, drafts=False)
    drafted = rollouts(transformer, drafts=True)
    assert torch.equal(drafted.tokens, plain.tokens)
    torch.testing.assert_close(drafted.logprobs, plain.logprobs, rtol=0, atol=1e-4)


def test_the_surer_the_copy_the_more_tokens_come_out_of_a_pass() -> None:
    found = [rollouts(copying(strength)).tokens_per_pass for strength in (0.0, 0.4, 1.0)]
    assert 1 <= found[0] < 1.2 < found[1] < 2 < found[2]
    plain = rollouts(copying(1.0), drafts=False).tokens_per_pass
    assert plain == pytest.approx((3 * 18 - 2 - 1) / (3 * 16 - 1))  # actions share a pass


def test_finished_rollouts_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    select = GroupCache.select

    def watched(cache: GroupCache, contexts: torch.Tensor, chosen: torch.Tensor) -> None:
        kept.append(chosen.shape)
        select(cache, contexts, chosen)

    monkeypatch.setattr(GroupCache, "select", watched)
    transformer = copying(0.7)
    drafted = rollouts(transformer)
    assert kept and all(2 * b * g <= 15 for b, g in kept)
    assert torch.equal(drafted.tokens, rollouts(transformer, drafts=False).tokens)


def chooser(overhead: float, apart: float = 0.0) -> BlockSize:
    return BlockSize(torch.full((4,), 0.7), StepCost(overhead, apart))


ROWS = torch.arange(4).view(2, 2)
ALL = torch.ones(2, 2, dtype=torch.bool)
NONE = torch.zeros(2, 2, dtype=torch.long)


def test_blocks_grow_with_agreement_and_shrink_without() -> None:
    sizes = []
    for right in (0, 2, 4):
        size = chooser(overhead=32)
        for _ in range(20):
            size.learn(ROWS, torch.full((2, 2), right), torch.full((2, 2), 4))
        sizes.append(size.choose(ROWS, ALL, 100, NONE, 0))
    assert sizes[0] == 1 and sizes == sorted(set(sizes)) and sizes[-1] == BLOCK_SIZES[-1]


def test_rows_that_cost_nothing_more_are_used() -> None:
    assert chooser(overhead=1e6).choose(ROWS, ALL, 100, NONE, 0) == BLOCK_SIZES[-1]
    assert (
        chooser(overhead=1e6).choose(ROWS, ALL, 5, NONE, 0) == 4
    )  # no further than there is to go
    assert chooser(overhead=0).choose(ROWS, ALL, 100, NONE, 0) == 1


def test_only_rollouts_that_go_on_have_a_say() -> None:
    size = chooser(overhead=32)
    right = torch.tensor([[40, 0], [0, 0]])
    size.learn(ROWS, right, torch.full((2, 2), 40))
    only_first = torch.tensor([[True, False], [False, False]])
    assert (
        size.choose(ROWS, only_first, 100, NONE, 0)
        > size.choose(ROWS, ~only_first, 100, NONE, 0)
        == 1
    )


def test_to_part_must_pay_for_ragged_rows() -> None:
    assert chooser(64, apart=0).choose(ROWS, ALL, 100, NONE, in_step=1) > 1
    assert chooser(64, apart=640).choose(ROWS, ALL, 100, NONE, in_step=1) == 1
    assert chooser(64, apart=640).choose(ROWS, ALL, 100, NONE, in_step=0) > 1  # already apart
    assert chooser(64, apart=640).choose(ROWS, ALL, 100, NONE + 6, in_step=7) == 7


def test_what_is_given_is_fed_in_one_block() -> None:
    size = chooser(overhead=32)
    for _ in range(20):
        size.learn(ROWS, torch.zeros(2, 2), torch.full((2, 2), 4))
    assert size.choose(ROWS, ALL, 100, NONE + 6, 0) == 7
    assert size.choose(ROWS, ALL, 5, NONE + 6, 0) == 4  # no further than there is to go
    assert size.choose(ROWS, ALL, 100, NONE + 40, 0) == BLOCK_SIZES[-1]


def test_a_moving_context_is_decoded_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    run = DraftedDecoding.run
    monkeypatch.setattr(DraftedDecoding, "run", lambda *a: started.append(1) or run(*a))
    moving = torch.arange(32).view(1, 2, 16).expand(3, -1, -1) % 20
    for prompt, drafts, expected in [(moving, True, 0), (None, False, 0), (None, True, 1)]:
        changes = {} if prompt is None else {"context": prompt}
        rollouts(copying(1.0), drafts=drafts, **changes)
        assert len(started) == expected


def test_where_nothing_agrees_drafts_take_no_more_passes_than_plain_decoding() -> None:
    transformer = copying(0.0)
    drafted = rollouts(transformer)
    plain = rollouts(transformer, drafts=False).tokens_per_pass
    assert drafted.tokens_per_pass >= plain - 1e-9
