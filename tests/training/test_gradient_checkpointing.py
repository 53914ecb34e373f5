"""A run that recomputes activations makes the same tokenizer, and keeps less of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline import run, write_episodes

SHAPE = ("--widths", "[8, 32, 32]", "--blocks", 2, "--downsample", 4)
LATENTS = (*SHAPE, "--latent_dim", 4)
KINDS = {
    "vq": (*SHAPE, "--quantizer", "vq", "--codebook_size", 16),
    "vqgan": (*LATENTS, "--kind", "vqgan", "--micro_batch", 2),
    "compressive": (*LATENTS, "--kind", "compressive", "--later_frames", 2, "--micro_batch", 1),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("episodes") / "data", count=3)


def kept_by(words: tuple[object, ...]) -> int:
    """Bytes that a run of the tokenizer keeps for its backward passes."""
    kept = [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run("tokenizer", *words)
    return kept[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_ends_with_the_same_tokenizer(data: Path, tmp_path: Path, kind: str) -> None:
    words = (*KINDS[kind], "--data", data, "--steps", 2, "--batch_size", 2, "--heldout", 0)
    parts = ("--clip_frames", 4, "--perceptual_weight", 0, "--adversarial_weight", 0.1)
    found, kept = [], []
    for option in ("false", "true"):
        folder = tmp_path / option
        output = ("--sample_every", 0, "--output_dir", folder)
        kept.append(kept_by((*words, *parts, *output, "--gradient_checkpointing", option)))
        found.append(load_file(next(folder.glob("checkpoints/last/model/*.safetensors"))))
    assert kept[1] < 0.9 * kept[0]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_perceptual_network_is_recomputed_as_well(data: Path, tmp_path: Path) -> None:
    words = (*KINDS["vq"], "--data", data, "--steps", 1, "--batch_size", 2, "--heldout", 0)
    size = ("--height", 32, "--width", 32, "--sample_every", 0, "--gradient_checkpointing", "true")
    without, judged = (
        kept_by((*words, *size, "--perceptual_weight", weight, "--output_dir", tmp_path / weight))
        for weight in ("0", "1")
    )
    assert judged - without < 1e6  # 13e6 if only the tokenizer were
