"""Codes that were made elsewhere, as an autoencoder: encode and decode are the identity, exact for every code."""

import math

import pytest
import torch
from torch import nn

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.given import GivenCodes, Itself

K = 2**20


def model(books: int = 1) -> Autoencoder:
    return Autoencoder(nn.Identity(), GivenCodes(K, books), nn.Identity(), Itself(K))


@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("grid", [(5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("double", [False, True])
def test_it_leaves_codes_as_they_are(books, grid, double):
    own = model(books).double() if double else model(books)
    x = torch.randint(K, (4, books, *grid))
    x[0], x[1] = K - 1, 0
    codes = own.encode(x)
    assert codes.shape == (4, *grid, *([books] if books > 1 else []))
    assert torch.equal(codes, x[:, 0] if books == 1 else x.movedim(1, -1)) and torch.equal(own.decode(codes), x)
    latent = own.bottleneck(own.embed(x))
    assert torch.equal(own.bottleneck.lookup(latent.codes).to(latent.z_q.dtype), latent.z_q)


def test_its_bound_is_the_rate_of_its_codes():
    """-log p(x | z_q) is 0, and infinite for any other data: all mass lies on the codes themselves."""
    own, x = model(2), torch.randint(K, (3, 2, 4))
    result = own.evaluate(x)
    assert result.nll_nats.tolist() == [0, 0, 0] and torch.equal(result.reconstruction, x)
    assert result.rate_nats.tolist() == pytest.approx([8 * math.log(K)] * 3)
    other = (x + 1) % K
    assert own.nll_nats(other, result.latent.z_q).isinf().all()
    small = Itself(5)
    log_p = small.level_logits(torch.tensor([[[3.0, 0.0]]]))
    assert log_p.exp().tolist() == [[[[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]]]


def test_codes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="expected codes in 0..7, found 0..8"):
        Autoencoder(nn.Identity(), GivenCodes(8), nn.Identity(), Itself(8)).encode(torch.tensor([[[0, 8]]]))
    with pytest.raises(ValueError, match="expected codes of type torch.int64, found torch.float32"):
        model().encode(torch.zeros(1, 1, 4))


def test_its_origin_is_a_weight_that_no_training_moves():
    own = model()
    assert [name for name, _ in own.named_parameters()] == ["bottleneck.origin"]
    assert not any(parameter.requires_grad for parameter in own.parameters())
