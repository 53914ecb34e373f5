from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidwm.training.gold import GoldWatch, worse

W, T = 12, 2


class Painter:
    """Stands in for a world model: a token is a shade of grey, out of 100."""

    size = (16, 16)

    def rows(self, tokens: Tensor, context: Tensor):
        return tokens, self.pixels

    def pixels(self, tokens: Tensor) -> Tensor:
        return (tokens / 100).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def shades(*values: float) -> Tensor:
    """Tokens (W, 1, T, 1) around the given shades, differently in each context."""
    noise = torch.randint(-2, 3, (W, 1, T, 1), generator=torch.Generator().manual_seed(1))
    return torch.tensor(values).view(1, 1, -1, 1).expand(W, 1, T, 1).long() + noise


@pytest.fixture
def watch():
    """A watch on all but MAE, whose start is 10 off the truth."""
    found = GoldWatch(Painter(), ["mae"], memory_gb=1.0)
    found.start(
        shades(60), torch.zeros(W, 1, 1), torch.full((W, T, 3, 16, 16), 0.5), torch.zeros(W)
    )
    return found


def look(watch, shade, reward):
    return watch.look(
        shades(shade),
        torch.zeros(W, 1, 1),
        torch.full((W, T, 3, 16, 16), 0.5),
        torch.full((W,), reward),
    )


def test_watches_what_the_reward_does_not_name(watch):
    assert look(watch, 60, 0.0).scores.keys() == {"gold_mse", "gold_psnr", "gold_ssim"}
    assert not GoldWatch(Painter(), ["mae"], 1.0).started and watch.started


@pytest.mark.parametrize(
    ("shade", "reward", "warned"),
    [
        (80, 0.1, True),  # gamed: the reward rises, errors grow
        (80, -0.1, False),  # everything got worse: no secret
        (52, 0.1, False),  # everything got better
        (60, 0.1, False),  # nothing changed
    ],
)
def test_warns_when_the_reward_rises_and_they_fall(watch, shade, reward, warned):
    found = look(watch, shade, reward)
    assert bool(found.warning) == warned
    if warned:
        assert "mse" in found.warning and "psnr" in found.warning
        assert found.scores["gold_mse"] == pytest.approx(0.09, rel=0.1)


def test_noise_is_no_fall():
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(64, generator=generator)
    noise = torch.randn(64, generator=generator)
    noise = (noise - noise.mean()) / noise.std()
    assert not worse(before, before + 0.1 * noise - 0.1 * 1.9 / 8, 1.0)
    assert worse(before, before + 0.1 * noise - 0.1 * 2.1 / 8, 1.0)
    assert worse(before, before + 0.1 * noise + 0.1 * 2.1 / 8, -1.0)
    assert not worse(before, before, 1.0)
