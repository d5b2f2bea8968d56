import pytest
import torch

from stage2_prior import dropout
from stage2_prior.dropout import GlobalBatchDropout


def test_each_rank_drops_what_one_process_drops_in_its_rows(monkeypatch):
    layer = GlobalBatchDropout(0.4)
    x = torch.randn(6, 3, 4, 5)

    def step(rows: torch.Tensor, rank: int, world: int) -> torch.Tensor:
        monkeypatch.setattr(dropout, "_rank_and_world", lambda: (rank, world))
        torch.manual_seed(1)
        return torch.stack((layer(rows), layer(rows)))  # the second draw too: ranks stay in step

    whole = step(x, 0, 1)
    assert torch.equal(step(x[:2], 0, 3), whole[:, :2])
    assert torch.equal(step(x[2:4], 1, 3), whole[:, 2:4])
    assert torch.equal(step(x[4:], 2, 3), whole[:, 4:])
    assert not torch.equal(whole[0], whole[1])
    assert len({tuple(kept.flatten().tolist()) for kept in whole[0] != 0}) == 6  # each sample has a mask of its own


def test_kept_values_are_rescaled_and_as_many_as_asked_for():
    torch.manual_seed(0)
    dropped = GlobalBatchDropout(0.25)(torch.ones(100, 10, 10))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    # 10,000 coins: one deviation is 0.0043, five of them are exceeded with probability 6e-7
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=5 * 0.0043)


def test_evaluation_is_the_identity_and_draws_nothing():
    layer = GlobalBatchDropout(0.4).eval()
    x = torch.randn(2, 3, 4)
    state = torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_probability_is_checked(probability):
    with pytest.raises(ValueError, match="expected a probability"):
        GlobalBatchDropout(probability)
