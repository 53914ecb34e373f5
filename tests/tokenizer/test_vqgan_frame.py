from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidwm.errors import UserError
from vidwm.files import save_weights
from vidwm.tokenizer.vqgan_frame import WEIGHTS, VQGANConfig, VQGANTokenizer

SMALL = VQGANConfig(height=32, width=48, widths=(8, 8, 16), groups=4, latent=6, fsq_levels=(5, 3))


def test_the_released_sizes_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        tokenizer = VQGANTokenizer(VQGANConfig())
    count = sum(p.numel() for p in tokenizer.parameters())
    assert round(count / 1e6, 1) == 104.4
    assert tokenizer.tokens_per_frame == 320 and tokenizer.codebook_size == 4375


def test_frames_to_tokens_and_back() -> None:
    tokenizer = VQGANTokenizer(SMALL)
    frames = torch.rand(2, 3, 3, 32, 48)
    tokens = tokenizer.encode(frames)
    assert tokens.shape == (2, 3, 8 * 12) and tokens.max() < 15
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == frames.shape and decoded.min() >= 0 and decoded.max() <= 1
    codes = tokenizer.quantizer.codes(tokens[1, 2].view(1, 8, 12))
    expected = tokenizer.decoder(tokenizer.post_quant_linear(codes)).clamp(0, 1)
    torch.testing.assert_close(decoded[1, 2], expected[0], rtol=0, atol=1e-5)


def test_what_training_sees_is_what_decoding_gives() -> None:
    tokenizer = VQGANTokenizer(SMALL)
    frames = torch.rand(3, 3, 32, 48)
    decoded, tokens, loss = tokenizer(frames)
    assert torch.equal(tokens, tokenizer.encode(frames)) and loss == 0
    torch.testing.assert_close(decoded, tokenizer.pixels(tokens), rtol=0, atol=1e-5)
    decoded.square().mean().backward()
    assert tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0  # straight through FSQ


def test_golden_parity(shared: Path) -> None:
    golden = load_file(shared / "golden" / "frame_tokenizer_io.safetensors")
    tokenizer = VQGANTokenizer.from_released(shared / "golden" / "frame_tokenizer", 256, 320)
    with torch.no_grad():
        frames = golden["pixels"].float()
        latents = tokenizer.latents(frames[0])
        torch.testing.assert_close(latents, golden["pre_quant"], rtol=0, atol=1e-4)
        indices = golden["indices"].flatten(2).long()
        assert (tokenizer.encode(frames) == indices).float().mean() > 0.995
        pixels = tokenizer.pixels(indices.flatten(0, 1)).view(golden["decoded"].shape)
    torch.testing.assert_close(pixels, golden["decoded"], rtol=0, atol=1e-3)


def released(folder: Path, **changes: object) -> Path:
    """A folder as `diffusers` writes it."""
    config = {
        "_class_name": "CNNFSQModel256",
        "block_out_channels": list(SMALL.widths),
        "layers_per_block": SMALL.blocks,
        "norm_num_groups": SMALL.groups,
        "latent_channels": SMALL.latent,
        "fsq_levels": list(SMALL.fsq_levels),
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_weights(VQGANTokenizer(SMALL), folder / WEIGHTS)
    return folder


def test_reads_a_released_folder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    folder = released(tmp_path / "tokenizer")
    torch.manual_seed(3)
    written = VQGANTokenizer(SMALL)
    read = VQGANTokenizer.from_released(folder, 32, 48)
    frames = torch.rand(1, 3, 32, 48)
    assert not read.training and torch.equal(read.encode(frames), written.encode(frames))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsq_levels": 13}, "does not describe a tokenizer"),
        ({"block_out_channels": None}, "does not describe a tokenizer"),
        ({"latent_channels": 7}, "has shape"),
        ({"layers_per_block": 1}, "unexpected"),
    ],
)
def test_other_checkpoints_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = released(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        VQGANTokenizer.from_released(folder, 32, 48)


def test_sizes_that_cannot_be_cut_into_cells_are_refused() -> None:
    with pytest.raises(UserError, match="33x48"):
        VQGANConfig(height=33, width=48)
