import pytest
import torch

from vidwm.errors import UserError
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig

SMALL = {"height": 16, "width": 24, "patch": 2, "widths": (8, 16), "blocks": 1, "code_dim": 4}


def small(quantizer: str = "fsq") -> FrameTokenizer:
    torch.manual_seed(0)
    return FrameTokenizer(FrameTokenizerConfig(quantizer=quantizer, codebook_size=32, **SMALL))


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_shapes_and_ranges(quantizer):
    tokenizer = small(quantizer).eval()
    frames = torch.rand(2, 3, 3, 16, 24)
    tokens = tokenizer.encode(frames)
    decoded = tokenizer.decode(tokens)
    assert tokens.shape == (2, 3, tokenizer.tokens_per_frame) == (2, 3, 4 * 6)
    assert tokens.dtype == torch.int64 and tokens.max() < tokenizer.codebook_size
    assert decoded.shape == frames.shape
    assert decoded.min() >= 0 and decoded.max() <= 1


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_decode_of_tokens_is_the_forward_pass(quantizer):
    tokenizer = small(quantizer).eval()
    frames = torch.rand(4, 3, 16, 24)
    reconstruction, tokens, _ = tokenizer(frames)
    assert torch.equal(tokens, tokenizer.encode(frames))
    assert torch.allclose(tokenizer.decode(tokens), reconstruction.clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_directory_round_trip(tmp_path, quantizer):
    tokenizer = small(quantizer).eval()
    frames = torch.rand(4, 3, 16, 24)
    tokenizer.train()(frames)  # a vq codebook is drawn from its first batch
    tokenizer.eval().save_pretrained(tmp_path)
    again = FrameTokenizer.from_pretrained(tmp_path)
    assert torch.equal(again.encode(frames), tokenizer.encode(frames))
    tokens = tokenizer.encode(frames)
    assert torch.equal(again.decode(tokens), tokenizer.decode(tokens))


def test_vq_codebook_follows_the_latents():
    tokenizer = small("vq").train()
    frames = torch.rand(8, 3, 16, 24)
    before = tokenizer.quantizer.codes(torch.arange(32).view(1, 1, -1)).clone()
    loss = tokenizer(frames)[2]
    after = tokenizer.quantizer.codes(torch.arange(32).view(1, 1, -1))
    assert loss > 0 and not torch.equal(before, after)


def test_gradients_reach_the_first_layer():
    tokenizer = small()
    tokenizer(torch.rand(2, 3, 16, 24))[0].square().mean().backward()
    assert tokenizer.encoder.layers[1].weight.grad.abs().max() > 0


def test_latents_depend_on_their_own_and_the_next_cells_alone():
    tokenizer = small().eval()
    frames = torch.rand(1, 3, 16, 24)
    changed = frames.clone()
    changed[..., :4, :4] = 1 - changed[..., :4, :4]  # the first cell
    same = (tokenizer._latents(frames) == tokenizer._latents(changed)).all(dim=1)[0]
    assert not same[:2, :2].any()
    assert same[2:].all() and same[:, 2:].all()


def test_frames_are_seen_as_differences_to_the_mean_frame(tmp_path):
    tokenizer = small().eval()
    frames = torch.rand(2, 3, 16, 24) / 2
    shift = torch.rand(3, 16, 24) / 2
    tokens, decoded = tokenizer.encode(frames), tokenizer._pixels(torch.zeros(1, 4, 4, 6))
    tokenizer.centre_on(tokenizer.mean + shift)
    assert torch.equal(tokenizer.encode(frames + shift), tokens)
    assert torch.allclose(
        tokenizer._pixels(torch.zeros(1, 4, 4, 6)), decoded + shift, rtol=0, atol=1e-6
    )
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(FrameTokenizer.from_pretrained(tmp_path).mean, tokenizer.mean)


def test_wrong_resolution_is_named():
    with pytest.raises(ValueError, match="3, 16, 24"):
        small().encode(torch.rand(1, 3, 16, 16))


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="18x24"):
        FrameTokenizerConfig(**{**SMALL, "height": 18})


def test_missing_and_damaged_files_are_named(tmp_path):
    small().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        FrameTokenizer.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        FrameTokenizer.from_pretrained(tmp_path)


def test_weights_of_another_network_list_the_differences(tmp_path):
    small().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"blocks": 1', '"blocks": 2')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="missing"):
        FrameTokenizer.from_pretrained(tmp_path)
