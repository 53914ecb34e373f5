import torch

from vidwm.training.credit import local_rewards


def test_a_reward_reaches_the_tokens_around_it_in_its_own_frame():
    cells = torch.zeros(1, 1, 3, 7, 7)
    cells[0, 0, 1, 3, 3] = -1.0  # an error in the middle of the second frame
    credited = local_rewards(cells)[0, 0].view(3, 7, 7)
    near = torch.zeros(7, 7)
    near[2:5, 2:5] = -1.0
    assert torch.allclose(credited[1], near)
    assert credited[0].abs().max() == credited[2].abs().max() == 0


def test_an_error_in_a_corner_counts_as_much_as_any_other():
    cells = torch.zeros(2, 3, 1, 4, 5)
    cells[1, 2, 0, 0, 4] = -1.0
    credited = local_rewards(cells)
    assert credited.shape == (2, 3, 1, 20)
    near = torch.zeros(4, 5)
    near[:2, 3:] = -1.0
    assert torch.allclose(credited[1, 2, 0], near.flatten())
    assert credited[:1].abs().max() == credited[1, :2].abs().max() == 0
