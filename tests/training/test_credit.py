import torch

from vidwm.training.credit import local_rewards


def test_a_reward_reaches_the_tokens_that_can_have_caused_it():
    cells = torch.zeros(1, 1, 3, 7, 7)
    cells[0, 0, 1, 3, 3] = -1.0  # an error in the middle of the second frame
    credited = local_rewards(cells)[0, 0].view(3, 7, 7)

    def square(radius: int) -> torch.Tensor:
        near = torch.zeros(7, 7)
        near[3 - radius : 4 + radius, 3 - radius : 4 + radius] = -1.0
        return near

    assert torch.allclose(credited[0], square(2))  # a frame earlier, from further away
    assert torch.allclose(credited[1], square(1))
    assert credited[2].abs().max() == 0  # too late to have caused it


def test_where_regions_cover_everything_it_is_the_reward_to_go():
    cells = torch.randn(2, 4, 3, 2, 2)
    to_go = cells.sum(dim=(3, 4)).flip(2).cumsum(2).flip(2)
    assert torch.allclose(local_rewards(cells), to_go[..., None].expand(-1, -1, -1, 4), atol=1e-5)
