"""Blocks that keep their inputs alone give the same numbers, of every kind of tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vidwm.gradient_checkpointing import use_gradient_checkpointing
from vidwm.reward.backbones import squeezenet
from vidwm.reward.perceptual import PerceptualNet
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import CompressiveConfig
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.tokenizer.vqgan_frame import VQGANConfig, VQGANTokenizer

SIZE = 32
SHAPE = {"height": SIZE, "width": SIZE, "blocks": 2}
VQGAN = {**SHAPE, "widths": (32, 32, 64), "groups": 8, "latent": 8}


def frame(quantizer: str) -> nn.Module:
    return FrameTokenizer(FrameTokenizerConfig(**SHAPE, widths=(16, 32), quantizer=quantizer))


def perceptual() -> nn.Module:
    widths = (64, 128, 256, 384, 384, 512, 512)
    return PerceptualNet(squeezenet(), [torch.rand(width) for width in widths])


def of_frames(tokenizer: nn.Module, clips: Tensor) -> Tensor:
    decoded, _, loss = tokenizer(clips.flatten(0, 1))
    return decoded.square().mean() + loss


def of_clips(tokenizer: nn.Module, clips: Tensor) -> Tensor:
    return sum(decoded.square().mean() for decoded, _ in tokenizer(clips))


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "frame": (lambda: frame("fsq"), of_frames),
    "frame, vq": (lambda: frame("vq"), of_frames),
    "vqgan": (lambda: VQGANTokenizer(VQGANConfig(**VQGAN)), of_frames),
    "compressive": (lambda: CompressiveTokenizer(CompressiveConfig(**VQGAN, patch=2)), of_clips),
}


def kept_bytes(network: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What `run` returns, and the bytes beside weights that autograd keeps of it."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    return result, sum(size for size, _ in kept.values())


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_gradients_and_buffers_are_the_same_to_the_bit(kind: str, half: bool) -> None:
    make, loss_of = KINDS[kind]
    plain = make().train()
    lean = copy.deepcopy(plain)
    use_gradient_checkpointing(lean)
    assert lean.state_dict().keys() == plain.state_dict().keys()
    clips, found = torch.rand(2, 3, 3, SIZE, SIZE), []
    for tokenizer in (plain, lean):
        torch.manual_seed(1)  # dead codes restart at random
        for part in clips.split(1):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = loss_of(tokenizer, part)
            loss.backward()
        found.append((loss, *(p.grad for p in tokenizer.parameters()), *tokenizer.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_perceptual_network_hands_on_the_same_gradients() -> None:
    network, pred, true = perceptual(), torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48)
    found = []
    for _ in range(2):
        frames = pred.clone().requires_grad_()
        distance, kept = kept_bytes(network, lambda frames=frames: network(frames, true))
        distance.sum().backward()
        found.append((distance, frames.grad, kept))
        use_gradient_checkpointing(network)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[1][2] == 2 * pred.nbytes < found[0][2] / 2


@pytest.mark.parametrize("kind", KINDS)
def test_less_than_half_is_kept_but_only_in_training(kind: str) -> None:
    make, loss_of = KINDS[kind]
    tokenizer, clips = make().train(), torch.rand(4, 3, 3, SIZE, SIZE)
    _, usual = kept_bytes(tokenizer, lambda: loss_of(tokenizer, clips))
    use_gradient_checkpointing(tokenizer)
    _, lean = kept_bytes(tokenizer, lambda: loss_of(tokenizer, clips))
    assert lean < usual / 2
    _, evaluated = kept_bytes(tokenizer, lambda: loss_of(tokenizer.eval(), clips))
    assert evaluated == usual
