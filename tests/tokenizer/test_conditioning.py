from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vidwm.tokenizer.conditioning import CrossAttention, resized_positions

WIDTH, GRID = 32, (3, 4)


@pytest.fixture
def block() -> CrossAttention:
    block = CrossAttention(WIDTH, GRID)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block.eval()


@pytest.mark.parametrize(("B", "F_", "c"), [(1, 1, 1), (2, 3, 1), (2, 2, 3)])
def test_is_attention_to_the_places_of_the_context(block, B, F_, c):
    z, context = torch.randn(B * F_, WIDTH, *GRID), torch.randn(B, c, WIDTH, *GRID)
    out = block(z, context)
    for i in range(B * F_):
        b = i // F_
        q = block.q_norm(z[i : i + 1]).flatten(2)[0].T + block.q_pos_emb
        kv = torch.cat(
            [block.kv_norm(m[None]).flatten(2)[0].T + block.kv_pos_emb for m in context[b]]
        )
        mixed, _ = block.att(q[None], kv[None], kv[None])
        expected = F.silu(z[i] + mixed[0].T.view(WIDTH, *GRID))
        torch.testing.assert_close(out[i], expected, rtol=1e-4, atol=1e-5)


def test_positions_of_another_grid_are_interpolated():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    table = torch.stack([y, x, y + x], dim=-1).view(-1, 3)
    assert torch.equal(resized_positions(table, (6, 8), (6, 8)), table)
    finer = resized_positions(table, (6, 8), (12, 16)).view(12, 16, 3)
    inside = finer[4:8, 4:12]
    torch.testing.assert_close(
        inside[..., 0], (torch.arange(4, 8) / 2 - 0.25)[:, None].expand(4, 8)
    )
    torch.testing.assert_close(inside[..., 2], inside[..., 0] + inside[..., 1])


def test_new_blocks_look_at_their_own_place():
    """A context that differs at one place changes the later frame there most of all."""
    torch.manual_seed(0)
    block = CrossAttention(96, (4, 4)).eval()
    block.start_in_place()
    z, context = torch.randn(1, 96, 4, 4), torch.randn(1, 1, 96, 4, 4)
    changed = context.clone()
    changed[..., 1, 2] = torch.randn(96)
    with torch.no_grad():
        moved = (block(z, changed) - block(z, context)).abs().mean(dim=1)[0]
    assert moved[1, 2] > 5 * moved.flatten().sort().values[-2]
