from __future__ import annotations

import pytest
import torch
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.embed_codes import embed_codes
from vidwm_kernels.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# M, (h, w), K, C; the last is wider and longer than a program's tile.
SHAPES = [(1, (1, 1), 1, 1), (3, (2, 5), 7, 5), (2, (3, 3), 20, 64), (5, (4, 1), 9, 300)]


@pytest.fixture(params=["reference", "triton"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with either."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "grid", "K", "C"), SHAPES)
def test_puts_the_rows_of_the_table_on_the_grid(
    M: int, grid: tuple[int, int], K: int, C: int, dtype: torch.dtype
) -> None:
    tokens, table = torch.randint(K, (M, grid[0] * grid[1])), torch.randn(K, C).to(dtype)
    maps = embed_codes(tokens, table, grid)
    assert maps.shape == (M, C, *grid) and maps.stride(1) == 1
    for m in range(M):
        for y in range(grid[0]):
            for x in range(grid[1]):
                row = table[tokens[m, y * grid[1] + x]]
                assert_close("embed_codes", maps[m, :, y, x], row, dtype)


def test_strides_are_free_and_nothing_is_fine() -> None:
    tokens, table = torch.randint(6, (8, 3)).T[:, ::2], torch.randn(4, 6).T
    expected = embed_codes(tokens.contiguous(), table.contiguous(), (2, 2))
    assert torch.equal(embed_codes(tokens, table, (2, 2)), expected)
    assert embed_codes(tokens[:0], table, (2, 2)).shape == (0, 4, 2, 2)


def test_gradients_of_the_table() -> None:
    tokens, table = torch.randint(5, (3, 4)), torch.randn(5, 2, requires_grad=True)
    outer = torch.randn(3, 2, 2, 2)
    embed_codes(tokens, table, (2, 2)).backward(outer)
    expected = torch.zeros(5, 2)
    for m in range(3):
        for place in range(4):
            expected[tokens[m, place]] += outer[m, :, place // 2, place % 2]
    torch.testing.assert_close(table.grad, expected)


def test_ids_that_are_not_in_the_table_do_not_read_elsewhere(implementation: str) -> None:
    table = torch.randn(5, 2)
    for bad in (-1, 5):
        tokens = torch.tensor([[0, bad]])
        if implementation == "reference":
            with pytest.raises(IndexError):
                embed_codes(tokens, table, (1, 2))
        else:
            assert embed_codes(tokens, table, (1, 2)).isnan()[0, 0].tolist() == [[False, True]]


def test_bad_arguments_are_named() -> None:
    table = torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"tokens must be \(M, 6\) int64"):
        embed_codes(torch.zeros(1, 5, dtype=torch.int64), table, (2, 3))
    with pytest.raises(ValueError, match="tokens must be"):
        embed_codes(torch.zeros(1, 6, dtype=torch.int32), table, (2, 3))
    with pytest.raises(ValueError, match="table must be"):
        embed_codes(torch.zeros(1, 6, dtype=torch.int64), table.double(), (2, 3))
