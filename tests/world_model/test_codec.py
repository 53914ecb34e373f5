from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import CompressiveConfig
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.world_model.codec import Codec, CompressiveCodec, codec_of

SIZES: dict[str, Any] = {"action_dims": 2, "action_bins": 4, "context_frames": 2, "horizon": 3}
COMPRESSIVE = CompressiveConfig(
    height=32,
    width=32,
    widths=(8, 32, 32),
    blocks=1,
    groups=4,
    latent=6,
    context_levels=(5, 3),
    fsq_levels=(5, 4, 3),
    attention_height=64,
)


def tokenizer(kind: str) -> Tokenizer:
    torch.manual_seed(0)
    if kind == "single_step":
        shape = FrameTokenizerConfig(height=32, width=32, patch=4, widths=(8,), fsq_levels=(4, 4))
        return FrameTokenizer(shape).eval().requires_grad_(False)
    found = CompressiveTokenizer(COMPRESSIVE).eval().requires_grad_(False)
    for block in (*found.cond_encoder.cross_att_blocks, *found.cond_decoder.cross_att_blocks):
        torch.nn.init.normal_(block.q_pos_emb)
        torch.nn.init.normal_(block.kv_pos_emb)
    found.quant_linear.weight.mul_(30)  # else all tokens of an untrained encoder are alike
    return found


@pytest.fixture(params=["single_step", "multi_step"])
def codec(request: pytest.FixtureRequest) -> Codec:
    found = codec_of(tokenizer(request.param), **SIZES)
    assert found.kind == request.param
    return found


def test_what_is_encoded_fits_the_layout(codec: Codec) -> None:
    context, tokens = codec.encode(torch.rand(2, 5, 3, 32, 32))
    assert context.shape == (2, *codec.layout.context_shape)
    assert tokens.shape == (2, 3, codec.layout.tokens_per_frame)
    ids = codec.layout.sequence(context, tokens, torch.randint(0, 4, (2, 5, 2)))
    assert ids.shape == (2, codec.layout.sequence_length) and ids.max() < codec.layout.vocab_size


def test_the_context_does_not_depend_on_what_follows(codec: Codec) -> None:
    frames = torch.rand(2, 5, 3, 32, 32)
    context, _ = codec.encode(frames)
    assert torch.equal(codec.encode(frames[:, :2])[0], context)


def test_rows_decode_to_the_same_frames_in_any_order(codec: Codec) -> None:
    context, tokens = codec.encode(torch.rand(3, 5, 3, 32, 32))
    tokens = tokens[:, None].repeat(1, 2, 1, 1)  # two rollouts
    expected = codec.decode(tokens, context)
    assert expected.shape == (3, 2, 3, 3, 32, 32)
    assert expected.min() >= 0 and expected.max() <= 1
    rows, decode = codec.rows(tokens, context)
    assert rows.shape[:3] == tokens.shape[:3]
    order = torch.randperm(18)
    found = decode(rows.flatten(0, 2)[order])
    torch.testing.assert_close(found, expected.flatten(0, 2)[order], rtol=0, atol=1e-5)
    alone = codec.decode(tokens[1:2, 0, 2], context[1:2])
    torch.testing.assert_close(alone, expected[1:2, 0, 2], rtol=0, atol=1e-5)


def test_maps_of_a_context_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of(tokenizer("multi_step"), **SIZES)
    context, tokens = codec.encode(torch.rand(2, 5, 3, 32, 32))
    made: list[int] = []
    maps = CompressiveTokenizer.context_maps

    def counted(self: CompressiveTokenizer, context: Tensor) -> Tensor:
        made.append(len(context))
        return maps(self, context)

    monkeypatch.setattr(CompressiveTokenizer, "context_maps", counted)
    rows, decode = codec.rows(tokens[:, None].repeat(1, 4, 1, 1), context)
    for part in rows.flatten(0, 2).split(5):
        decode(part)
    assert made == [2]


def test_equal_tokens_of_other_contexts_are_other_rows() -> None:
    codec = codec_of(tokenizer("multi_step"), **SIZES)
    frames = torch.rand(2, 5, 3, 32, 32)
    context, _ = codec.encode(frames)
    tokens = torch.zeros(2, 1, 1, codec.layout.tokens_per_frame, dtype=torch.long)
    rows, decode = codec.rows(tokens, context)
    assert not torch.equal(rows[0], rows[1])
    first, second = decode(rows.flatten(0, 2))
    assert (first - second).abs().max() > 1e-4


def test_a_context_may_be_older_than_what_is_shown() -> None:
    codec = codec_of(tokenizer("multi_step"), **SIZES)
    assert isinstance(codec, CompressiveCodec)
    frames = torch.rand(1, 6, 3, 32, 32)
    context, tokens = codec.encode_given(frames[:, :2], frames[:, 3:])
    plain, _ = codec.encode(frames[:, :2])
    assert torch.equal(codec.layout.full(context), codec.layout.full(plain))
    assert not torch.equal(codec.layout.last_frame(context), codec.layout.last_frame(plain))
    assert tokens.shape[1] == 2
