from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vidwm.errors import UserError
from vidwm.finetune_config import FinetuneConfig
from vidwm.training.grpo_loss import advantages, decoupled_advantages
from vidwm.training.judge import Judge
from vidwm.world_model.layout import Layout

B, G, T, SIZE = 2, 4, 3, 16


class Painter:
    """Stands in for a world model of 2 x 2 cells; a token is a shade of grey, out of 20."""

    tokenizer = SimpleNamespace(config=SimpleNamespace(grid=(2, 2)))
    layout = Layout(
        tokens_per_frame=4, codebook_size=20, action_dims=1, context_frames=1, horizon=T
    )

    def rows(self, tokens: Tensor, context: Tensor):
        return tokens, self.pixels

    def decode(self, tokens: Tensor, context: Tensor) -> Tensor:
        return self.pixels(tokens)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(frames)
        return tokens[:, :1], tokens[:, 1:]

    def pixels(self, tokens: Tensor) -> Tensor:
        cells = (tokens / 20).unflatten(-1, (1, 2, 2)).expand(*tokens.shape[:-1], 3, 2, 2)
        return cells.repeat_interleave(8, -1).repeat_interleave(8, -2)

    def tokens(self, frames: Tensor) -> Tensor:
        cells = frames.mean(dim=-3).unflatten(-1, (2, 8)).unflatten(-3, (2, 8)).mean(dim=(-1, -3))
        return (20 * cells).round().long().flatten(-2)


@pytest.fixture
def scene():
    """tokens (B, G, T, 4), frames (B, 1 + T, 3, 16, 16), context tokens (B, 1, 4)."""
    tokens = torch.randint(0, 20, (B, G, T, 4))
    frames = torch.rand(B, 1 + T, 3, SIZE, SIZE)
    return tokens, frames, Painter().tokens(frames[:, :1])


def settings(**changes):
    given = {"data": "d", "model": "m", "output_dir": "o", "reward": "mae=1,mse=2"}
    return FinetuneConfig(**(given | changes))


def judged(scene, **changes):
    return Judge(Painter(), settings(**changes)).judge(*scene)


def errors(scene, truth=None):
    tokens, frames, _ = scene
    difference = Painter().pixels(tokens) - (frames[:, 1:] if truth is None else truth)[:, None]
    return difference.abs().mean((3, 4, 5)), difference.square().mean((3, 4, 5))


def test_by_default_all_frames_and_all_tokens_count_alike(scene):
    found = judged(scene)
    mae, mse = errors(scene)
    torch.testing.assert_close(found.rewards, -(mae + 2 * mse).mean(dim=2))
    torch.testing.assert_close(found.advantages, advantages(found.rewards, "group")[..., None])


@pytest.mark.parametrize("frames", [3, 4, 7])
def test_the_default_is_the_plain_mean_to_the_last_bit(frames):
    tokens = torch.randint(0, 20, (16, 8, frames, 4))
    truth = torch.rand(16, 1 + frames, 3, SIZE, SIZE)
    found = judged((tokens, truth, Painter().tokens(truth[:, :1])))
    mixed = -(found.metrics["mae"] + 2 * found.metrics["mse"])
    assert torch.equal(found.rewards, mixed.mean(dim=2))


def test_the_last_frame_alone(scene):
    mae, mse = errors(scene)
    found = judged(scene, reward_over="last")
    torch.testing.assert_close(found.rewards, -(mae + 2 * mse)[..., -1])


def test_with_local_credit_frames_that_do_not_count_give_none(scene):
    found = judged(scene, reward_over="last", credit="local")
    by_frame = found.advantages.unflatten(2, (T, 4)).abs().sum(dim=(0, 1, 3))
    assert by_frame[0] == by_frame[1] == 0 < by_frame[2]
    torch.testing.assert_close(found.rewards, judged(scene, reward_over="last").rewards)


def test_with_local_credit_weights_of_frames_keep_the_scale(scene):
    unscaled = {"credit": "local", "scale_rewards": "none"}
    plain = judged(scene, **unscaled)
    even = judged(scene, reward_over="discounted", discount=1.0, **unscaled)
    torch.testing.assert_close(even.advantages, plain.advantages)
    halved = judged(scene, reward_over="discounted", discount=0.5, **unscaled)
    by_frame = [found.advantages.unflatten(2, (T, 4)) for found in (plain, halved)]
    for t, weight in enumerate((4 / 7, 2 / 7, 1 / 7)):
        torch.testing.assert_close(by_frame[1][:, :, t], T * weight * by_frame[0][:, :, t])


def test_targets_can_be_what_the_tokenizer_makes_of_them(scene):
    painter = Painter()
    mae, mse = errors(scene, painter.pixels(painter.tokens(scene[1][:, 1:])))
    found = judged(scene, target="reconstruction")
    torch.testing.assert_close(found.rewards, -(mae + 2 * mse).mean(dim=2))


def test_what_the_tokenizer_changes_is_no_motion(scene):
    tokens, frames, context = scene
    frames[:, 1:] = frames[:, :1]  # nothing moves, and the tokenizer shows it as four flat cells
    still = (tokens, frames, context)
    found = judged(still, reward="moving_mae=1", target="reconstruction")
    assert found.rewards.abs().max() == 0


def test_reconstructions_are_decoded_one_context_at_a_time(scene, monkeypatch):
    sizes = []

    def decode(self, tokens, context, plain=Painter.decode):
        sizes.append(tokens.shape[:-1].numel())
        return plain(self, tokens, context)

    judge = Judge(Painter(), settings(reward="mae=1", target="reconstruction"))
    monkeypatch.setattr(Painter, "decode", decode)  # not the scorer's, which has a budget
    judge.judge(*scene)
    assert sizes == [1 + T] * B


def test_a_repeated_frame_costs_its_weight(scene):
    tokens, frames, context = scene
    tokens[1, 2, 1] = tokens[1, 2, 0]
    tokens[0, 3, 0] = context[0, 0]
    plain = judged((tokens, frames, context), reward="mae=1")
    found = judged((tokens, frames, context), reward="mae=1,repetition=0.6")
    cost = torch.zeros(B, G)
    cost[1, 2] = cost[0, 3] = 0.6 / T
    torch.testing.assert_close(plain.rewards - found.rewards, cost)
    assert found.metrics["repetition"].sum() == 2


def test_moving_pixels(scene):
    tokens, frames, context = scene
    frames[:, 1:] = frames[:, :1]
    assert judged((tokens, frames, context), reward="moving_mse=1").rewards.abs().max() == 0
    frames[:, 1:, :, :4] = 1 - frames[:, 1:, :, :4].round()
    assert judged((tokens, frames, context), reward="moving_mse=1").rewards.max() < 0


def test_compared_before_they_are_mixed(scene):
    mae, mse = errors(scene)
    kinds = -torch.stack([mae.mean(dim=2), mse.mean(dim=2)])
    found = judged(scene, combine="normalise_then_sum")
    expected = decoupled_advantages(kinds, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(found.advantages, expected[..., None], rtol=1e-4, atol=1e-5)


def test_repetition_has_no_place(scene):
    with pytest.raises(UserError, match="no place in it that is to blame"):
        judged(scene, reward="mae=1,repetition=1", credit="local")
