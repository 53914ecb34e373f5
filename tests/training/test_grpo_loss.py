import pytest
import torch

from vidwm.training.grpo_loss import (
    GrpoSettings,
    advantages,
    decoupled_advantages,
    denominator,
    kl_estimate,
    policy_losses,
)

REWARDS = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]])


def test_advantages_by_hand():
    group = advantages(REWARDS, "group", eps=0)
    assert torch.allclose(group[0], torch.tensor([-1.0, 0.0, 1.0]))  # deviation 1
    assert torch.allclose(group[1], torch.tensor([-2.0, -2.0, 4.0]) / 12**0.5)
    batch = advantages(REWARDS, "batch", eps=0)
    assert torch.allclose(batch[0], torch.tensor([-1.0, 0.0, 1.0]) / REWARDS.std())
    assert torch.equal(advantages(REWARDS, "none")[1], torch.tensor([-2.0, -2.0, 4.0]))


def test_a_token_is_compared_with_the_same_token_of_its_group():
    rewards = torch.tensor([[[1.0, 10.0], [3.0, 10.0]]])  # (1, 2, 2): only the first token differs
    scaled = advantages(rewards, "group", eps=0)
    assert torch.allclose(scaled, torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]]))
    assert torch.allclose(
        advantages(REWARDS[..., None], "group"), advantages(REWARDS, "group")[..., None]
    )


def test_equal_rewards_have_no_advantage():
    for scale in ("group", "batch", "none"):
        assert advantages(torch.full((2, 4), 0.3), scale).abs().max() == 0


def test_first_update_is_the_plain_policy_gradient():
    logprobs = torch.randn(2, 3, 5).requires_grad_()
    weights = torch.randn(2, 3, 1)
    losses, ratio, clipped = policy_losses(logprobs, logprobs.detach(), weights, GrpoSettings())
    assert torch.equal(ratio, torch.ones_like(ratio)) and not clipped.any()
    losses.sum().backward()
    assert torch.allclose(logprobs.grad, -weights.expand(2, 3, 5))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.1, 1.0, -1.1, False),
        (1.5, 1.0, -1.28, True),  # epsilon_high
        (0.5, 1.0, -0.5, False),  # never clipped in the direction that hurts
        (0.5, -1.0, 0.8, True),
        (1.5, -1.0, 1.5, False),
        (9.0, -1.0, 3.0, False),  # dual clip
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, clipped):
    settings = GrpoSettings(epsilon=0.2, epsilon_high=0.28, delta=3.0)
    old = torch.zeros(1, 1, 1)
    new = torch.tensor(ratio).log().view(1, 1, 1)
    losses, seen, active = policy_losses(new, old, torch.tensor([[[advantage]]]), settings)
    assert losses.item() == pytest.approx(loss, rel=1e-5)
    assert seen.item() == pytest.approx(ratio, rel=1e-5) and active.item() == clipped


def test_without_delta_a_bad_ratio_is_unbounded():
    new = torch.tensor(9.0).log().view(1, 1, 1)
    settings = GrpoSettings(delta=None)
    losses, _, _ = policy_losses(new, torch.zeros(1, 1, 1), torch.tensor([[[-1.0]]]), settings)
    assert losses.item() == pytest.approx(9.0, rel=1e-5)


def test_kl_estimators_by_hand_and_in_the_mean():
    d = torch.tensor([0.5])
    assert kl_estimate(-d, torch.zeros(1), "k1") == -0.5
    assert kl_estimate(-d, torch.zeros(1), "k2") == 0.125
    assert kl_estimate(-d, torch.zeros(1), "k3").item() == pytest.approx(0.14872, 1e-3)
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 6, generator=generator).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    draws = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=generator)
    for estimator in ("k1", "k3"):
        mean = kl_estimate(policy[draws], reference[draws], estimator).mean()
        assert mean.item() == pytest.approx(exact.item(), rel=0.02)


def test_kl_is_bounded():
    assert kl_estimate(torch.tensor([-50.0]), torch.tensor([0.0]), "k3") == 10


def test_denominators_differ_only_when_groups_were_dropped():
    assert denominator(8, 8, 5, "grpo") == denominator(8, 8, 5, "dr_grpo") == 40
    assert denominator(4, 8, 5, "dapo") == 20 and denominator(4, 8, 5, "dr_grpo") == 40
    assert denominator(0, 8, 5, "grpo") == 5


def test_decoupled_advantages_by_hand():
    # One kind spreads a hundred times as far as the other; decoupled, both count alike.
    first = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    second = torch.tensor([[0.0, 100.0], [100.0, 0.0]])
    found = decoupled_advantages(torch.stack([first, second]), torch.tensor([1.0, 1.0]))
    half = 0.5**0.5
    each = torch.tensor([[-half - half, half + half], [-half + half, half - half]])
    torch.testing.assert_close(found, each / each.std(), rtol=1e-4, atol=1e-5)
    alone = decoupled_advantages(torch.stack([first, second]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(
        alone, torch.tensor([[-1.0, 1], [-1, 1]]) * 0.75**0.5, rtol=1e-4, atol=0
    )


def test_decoupled_advantages_of_equal_rewards_are_zero():
    assert decoupled_advantages(torch.ones(2, 3, 4), torch.ones(2)).abs().max() == 0
