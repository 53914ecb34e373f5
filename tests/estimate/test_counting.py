from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidwm.estimate.counting import cost
from vidwm.gradient_checkpointing import CheckpointedBlock, use_gradient_checkpointing
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

D, INNER, LAYERS, V, L = 16, 40, 2, 50, 12
CONFIG = TransformerConfig(
    vocab_size=V,
    hidden_size=D,
    intermediate_size=INNER,
    num_hidden_layers=LAYERS,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=V - 2,
    eos_token_id=V - 1,
)


def loss(transformer: Transformer, rows: int) -> torch.Tensor:
    return transformer(torch.zeros(rows, L, dtype=torch.int64)).float().sum()


def test_flops_of_a_transformer_are_those_of_the_formula() -> None:
    with torch.device("meta"):
        transformer = Transformer(CONFIG)
    weights = LAYERS * (4 * D * D + 3 * D * INNER) + D * V
    products, attention = 2 * L * weights, LAYERS * 4 * L * L * D
    forward = cost(transformer, loss)
    assert forward.of(3).flops == 3 * (products + attention)
    both = cost(transformer, loss, backward=True)
    # A product has two gradients, attention five products for its two; all are counted.
    assert both.of(3).flops == 3 * (3 * products + attention + 5 * attention // 2)
    assert forward.of(1).kept == 0 < both.of(1).kept


def test_bytes_hold_the_weights_once_and_every_row() -> None:
    layer = nn.Linear(8, 6, bias=False)
    found = cost(layer, lambda net, rows: net(torch.empty(rows, 5, 8)), half=False)
    assert found.of(4).bytes == 4 * (8 * 6 + 4 * 5 * (8 + 6))
    half = cost(layer, lambda net, rows: net(torch.empty(rows, 5, 8)))
    assert half.of(4).bytes == found.of(4).bytes / 2


@pytest.mark.parametrize("rows", [1, 4])
def test_what_is_kept_is_what_autograd_really_keeps(rows: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 2, 3))

    def run(net: nn.Module, count: int) -> torch.Tensor:
        return F.mse_loss(net(torch.zeros(count, 3, 10, 12)), torch.zeros(count, 2, 6, 8))

    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(network, rows)
    real = sum(size for size, _ in kept.values())
    assert cost(network, run, backward=True, half=False).of(rows).kept == real


class Block(CheckpointedBlock):
    """8 channels to 16 and back."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(8, 16, 1), nn.SiLU(), nn.Conv2d(16, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_checkpointed_block_keeps_its_input_and_is_computed_twice() -> None:
    def run(net: nn.Module, rows: int) -> torch.Tensor:
        return net(torch.empty(rows, 3, 4, 5)).sum()

    network = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), Block())
    usual = cost(network, run, backward=True, half=False).of(3)
    use_gradient_checkpointing(network)
    lean = cost(network, run, backward=True, half=False).of(3)
    places, inside = 3 * 4 * 5, 16 + 16  # what the SiLU sees and gives
    assert usual.kept == 4 * places * (3 + 8 + 8 + 2 * inside)
    assert lean.kept == 4 * places * (3 + 8 + 8 + inside)
    # The second product of a block keeps nothing of its result, so it is not computed again.
    assert lean.flops - usual.flops == 2 * places * 2 * 8 * 16
    network.eval()
    assert cost(network, run, backward=True, half=False).of(3) == usual
