from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidwm.errors import UserError
from vidwm.files import save_weights
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import CompressiveConfig
from vidwm.tokenizer.vqgan_frame import WEIGHTS

# Latents of 8 x 16, which attend at the two coarse levels as the released one does.
SMALL = CompressiveConfig(
    height=64,
    width=128,
    widths=(8, 8, 32, 32),
    blocks=1,
    groups=4,
    latent=6,
    context_levels=(5, 3),
    fsq_levels=(5, 4, 3),
)


@pytest.fixture(scope="module")
def tokenizer() -> CompressiveTokenizer:
    torch.manual_seed(0)
    found = CompressiveTokenizer(SMALL).eval().requires_grad_(False)
    for block in (*found.cond_encoder.cross_att_blocks, *found.cond_decoder.cross_att_blocks):
        torch.nn.init.normal_(block.q_pos_emb)
        torch.nn.init.normal_(block.kv_pos_emb)
    return found


def test_the_released_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        tokenizer = CompressiveTokenizer(CompressiveConfig())
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 1) == 129.4
    assert (tokenizer.tokens_per_context_frame, tokenizer.tokens_per_frame) == (1280, 80)


def test_golden_parity(shared: Path):
    golden = load_file(shared / "golden/compressive_tokenizer_io.safetensors")
    folder = shared / "golden/compressive_tokenizer"
    tokenizer = CompressiveTokenizer.from_released(folder, 256, 320)
    context = golden["context_indices"].flatten(2).long()
    later = golden["dynamics_indices"].flatten(2).long()
    with torch.no_grad():
        found = tokenizer.encode(golden["pixels"].float())
        maps = tokenizer.context_maps(context)
        frames = [tokenizer.decode_context(maps), tokenizer.decode_later(later, maps)]
    for tokens, expected in zip(found, (context, later), strict=True):
        assert (tokens == expected).float().mean() > 0.995
    # The golden frames are rounded to half precision, up to 0.004 at their largest values.
    decoded = golden["decoded"].float()
    torch.testing.assert_close(torch.cat(frames, dim=1), decoded, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("c", [1, 2])
def test_frames_to_tokens_and_back(tokenizer, c):
    frames = torch.rand(2, c + 3, 3, 64, 128)
    context, later = tokenizer.encode(frames, c)
    assert context.shape == (2, c, 128) and later.shape == (2, 3, 8)
    assert context.max() < 15 and later.max() < 60
    decoded = tokenizer.decode(context, later)
    assert decoded.shape == frames.shape and decoded.min() >= 0 and decoded.max() <= 1


def test_every_later_frame_depends_on_the_context_and_itself_alone(tokenizer):
    frames = torch.rand(2, 4, 3, 64, 128)
    context, later = tokenizer.encode(frames)
    alone = tokenizer.encode(frames[1:, [0, 3]])
    assert torch.equal(alone[0], context[1:])
    assert (alone[1][0, 0] == later[1, 2]).float().mean() > 0.9  # other batches round differently
    together = tokenizer.decode(context, later)
    torch.testing.assert_close(
        tokenizer.decode(context[1:], later[1:, 2:])[0, 1], together[1, 3], rtol=0, atol=1e-4
    )
    other = tokenizer.decode(context.flip(0), later)
    assert (other[:, 1:] - together[:, 1:]).abs().max() > 1e-3


def test_a_context_is_decoded_once_for_all_its_futures(tokenizer, monkeypatch):
    calls = []
    middle = tokenizer.decoder.middle
    monkeypatch.setattr(tokenizer.decoder, "middle", lambda x: calls.append(len(x)) or middle(x))
    maps = tokenizer.context_maps(torch.randint(15, (2, 1, 128)))
    for _ in range(3):
        tokenizer.decode_later(torch.randint(60, (2, 16, 8)), maps)
    assert calls == [2]


def released(folder: Path, **changes: object) -> Path:
    """A folder as `diffusers` writes it."""
    config = {
        "_class_name": "CompressiveVQModelFSQ",
        "block_out_channels": list(SMALL.widths),
        "layers_per_block": SMALL.blocks,
        "norm_num_groups": SMALL.groups,
        "latent_channels": SMALL.latent,
        "vq_fsq_levels": list(SMALL.context_levels),
        "dyn_fsq_levels": list(SMALL.fsq_levels),
        "max_att_resolution": 32,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_reads_a_released_folder_at_any_size(tmp_path):
    big = CompressiveConfig(**(vars(SMALL) | {"height": 256, "width": 320}))
    written = CompressiveTokenizer(big)
    save_weights(written, released(tmp_path) / WEIGHTS)
    same = CompressiveTokenizer.from_released(tmp_path, 256, 320)
    for name, tensor in written.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
    other = CompressiveTokenizer.from_released(tmp_path, 64, 128)
    assert other.cond_decoder.cross_att_blocks[0].q_pos_emb.shape == (8 * 16, 32)
    assert other.decode(*other.encode(torch.rand(1, 2, 3, 64, 128))).shape == (1, 2, 3, 64, 128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dyn_fsq_levels": 13}, "does not describe a compressive tokenizer"),
        ({"latent_channels": 7}, "has shape"),
        ({"layers_per_block": 2}, "missing cond_decoder"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, changes, message):
    big = CompressiveConfig(**(vars(SMALL) | {"height": 256, "width": 320}))
    save_weights(CompressiveTokenizer(big), released(tmp_path, **changes) / WEIGHTS)
    with pytest.raises(UserError, match=message):
        CompressiveTokenizer.from_released(tmp_path, 256, 320)


def test_sizes_that_cannot_be_cut_into_cells_are_refused():
    with pytest.raises(UserError, match="64x120"):
        CompressiveConfig(height=64, width=120)


@torch.no_grad()
def test_the_training_pass_is_encoding_and_decoding(tokenizer):
    frames = torch.rand(2, 4, 3, 64, 128)
    (whole, context), (later, tokens) = tokenizer(frames, context_frames=1)
    full, given = tokenizer.encode(frames)
    assert torch.equal(context.view(2, 1, -1), full) and torch.equal(tokens.view(2, 3, -1), given)
    maps = tokenizer.context_maps(full)
    torch.testing.assert_close(whole, tokenizer.decode_context(maps).flatten(0, 1))
    torch.testing.assert_close(later, tokenizer.decode_later(given, maps).flatten(0, 1))


def test_every_weight_of_the_four_towers_gets_a_gradient():
    torch.manual_seed(0)
    tokenizer = CompressiveTokenizer(SMALL)
    tokenizer.start_in_place()
    (whole, _), (later, _) = tokenizer(torch.rand(1, 3, 3, 64, 128))
    (whole.square().mean() + later.square().mean()).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_saved_in_the_released_form_and_opened_again(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CompressiveTokenizer.from_pretrained(tmp_path)
    assert again.config == SMALL
    frames = torch.rand(1, 2, 3, 64, 128)
    for found, before in zip(again.encode(frames), tokenizer.encode(frames), strict=True):
        assert torch.equal(found, before)


@pytest.mark.parametrize("size", [(64, 128), (320, 256)])
def test_what_was_saved_opens_as_it_was_at_any_size(tmp_path, size):
    # 320 x 256 has as many places as the released 256 x 320, but not the same ones.
    config = CompressiveConfig(**(vars(SMALL) | {"height": size[0], "width": size[1]}))
    written = CompressiveTokenizer(config)
    written.start_in_place()
    written.save_pretrained(tmp_path)
    again = CompressiveTokenizer.from_pretrained(tmp_path).state_dict()
    assert not [n for n, v in written.state_dict().items() if not torch.equal(again[n], v)]


def test_positions_of_a_saved_one_are_interpolated_from_its_own_size(tmp_path):
    written = CompressiveTokenizer(SMALL)
    ramp = torch.arange(8.0)[:, None].expand(8, 16).flatten()  # by row, 8 of them
    with torch.no_grad():
        written.cond_decoder.cross_att_blocks[0].q_pos_emb.copy_(ramp[:, None])
    written.save_pretrained(tmp_path)
    wider = CompressiveTokenizer.from_released(tmp_path, 64, 256)
    table = wider.cond_decoder.cross_att_blocks[0].q_pos_emb.view(8, 32, -1)
    torch.testing.assert_close(table, torch.arange(8.0).view(8, 1, 1).expand_as(table))
