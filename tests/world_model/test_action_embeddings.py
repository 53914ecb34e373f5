import torch

from vidwm.world_model.action_embeddings import smooth_rows, start_smoothly
from vidwm.world_model.layout import Layout


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def test_neighbours_are_alike_and_ends_are_not():
    rows = smooth_rows(64, 256, 0.02)
    assert cosine(rows[:-1], rows[1:]).min() > 0.8
    assert cosine(rows[0], rows[-1]) < 0.5
    assert abs(rows.std().item() - 0.02) < 1e-4


def test_only_action_rows_change_and_dimensions_differ():
    layout = Layout(
        tokens_per_frame=2,
        codebook_size=10,
        action_dims=2,
        action_bins=32,
        context_frames=1,
        horizon=1,
    )
    table = torch.randn(layout.vocab_size, 32)
    before = table.clone()
    start_smoothly(table, layout)
    assert torch.equal(table[:10], before[:10]) and torch.equal(table[74:], before[74:])
    assert (
        cosine(table[10:41], table[11:42]).min() > 0.5 > cosine(before[10:41], before[11:42]).max()
    )
    assert cosine(table[10:42], table[42:74]).abs().mean() < 0.5
