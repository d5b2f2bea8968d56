"""SimVQ: its formula, what it learns, and vector-quantize-pytorch's. The contract: tests/contracts."""

import pytest
import torch
from einops import rearrange

from stage1_vqvae.bottlenecks.simvq import SimVQ


def quantizer(**kwargs):
    torch.manual_seed(0)
    return SimVQ(**{"num_codes": 16, "dim": 6, "initialise_from_data": False, "matrix_rate": 1.0} | kwargs).double()


def encodings(seed=1):
    return torch.randn(4, 6, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_codes_and_losses_are_those_of_the_formula():
    """e_k = C_k W; loss = |sg[z] - e|^2 + 0.3 |z - sg[e]|^2, whose gradients reach W and z, each its own."""
    module, z = quantizer(commitment_weight=0.3), encodings().requires_grad_()
    latent = module(z)
    entries = module.codebook[0] @ module.matrix[0]
    rows = rearrange(z, "b d h w -> (b h w) d")
    codes = (rows[:, None] - entries).square().sum(-1).argmin(1)
    assert torch.equal(latent.codes.flatten(), codes)
    chosen = entries[codes]
    assert torch.equal(rearrange(latent.z_q, "b d h w -> (b h w) d"), chosen)
    loss = (rows.detach() - chosen).square().mean() + 0.3 * (rows - chosen.detach()).square().mean()
    torch.testing.assert_close(latent.loss, loss)
    expected = torch.autograd.grad(loss, [z, module.matrix])
    for own, other in zip(torch.autograd.grad(latent.loss, [z, module.matrix]), expected, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_it_agrees_with_vector_quantize_pytorch(gradient):
    package = pytest.importorskip("vector_quantize_pytorch", reason="of the extra `dev`")
    module = quantizer(gradient=gradient)
    theirs = package.SimVQ(dim=6, codebook_size=16, channel_first=True, rotation_trick=gradient == "rotation").double()
    theirs.frozen_codebook.copy_(module.codebook[0])
    with torch.no_grad():
        theirs.code_transform.weight.copy_(module.matrix[0].T)
    z, other, pull = encodings().requires_grad_(), encodings().requires_grad_(), encodings(2)
    latent = module(z)
    z_q, codes, loss = theirs(other)
    ((latent.z_q * pull).sum() + latent.loss).backward()
    ((z_q * pull).sum() + loss).backward()
    assert torch.equal(latent.codes, codes)
    for own, expected in ((latent.z_q, z_q), (latent.loss, loss), (z.grad, other.grad),
                          (module.matrix.grad[0], theirs.code_transform.weight.grad.T)):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-6)


def test_a_step_moves_codes_that_no_encoding_chose_and_not_the_codebook():
    module = quantizer(num_codes=64)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    before, frozen = module.vectors().detach().clone(), module.codebook.clone()
    latent = module(encodings()[:1])
    latent.loss.backward()
    optimizer.step()
    module.after_step(optimizer)
    unused = module.usage(latent.codes)[0] == 0
    assert unused.sum() > 20 and (module.vectors() - before)[0, unused].abs().amax(1).min() > 0
    assert torch.equal(module.codebook, frozen) and module.codebooks() == [module.matrix]


def test_the_matrix_moves_at_its_own_rate():
    """A first step of Adam at 0.01 moves each entry of W by 0.01 times the rate, from the same start."""
    moved, starts = {}, []
    for rate in (1.0, 10.0):
        module = quantizer(matrix_rate=rate)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        starts.append(module.vectors().detach().clone())
        before = module.matrix.detach().clone()
        module(encodings()).loss.backward()
        optimizer.step()
        moved[rate] = (module.matrix - before).abs() * rate
        torch.testing.assert_close(moved[rate], torch.full_like(moved[rate], 0.01 * rate), rtol=1e-3, atol=0)
    torch.testing.assert_close(*starts)
    with pytest.raises(ValueError, match="expected matrix_rate > 0, found 0"):
        SimVQ(matrix_rate=0.0)


def test_it_starts_at_encodings_or_as_the_paper_does():
    torch.manual_seed(0)
    module = SimVQ(num_codes=16, dim=6, initialise_from_data=True).double()
    assert module.needs_initialisation
    z = 5 * torch.randn(512, 6, dtype=torch.float64)
    module.initialise(z)
    torch.testing.assert_close(module.vectors(), module.codebook)
    error = (z - module.lookup(module.eval()(z).codes)).square().mean()
    assert error < 0.5 * z.var(), "the centres of k-means"
    paper = SimVQ(num_codes=4096, dim=16, initialise_from_data=False)
    # the deviation of 65,536 numbers is off by more than 2 % once in 1e12 times
    assert not paper.needs_initialisation and paper.codebook.std() == pytest.approx(16**-0.5, rel=0.02)


def test_a_code_that_is_revived_stands_for_an_encoding():
    module = quantizer(revive_threshold=0.5, decay=0.1)
    with torch.no_grad():
        module.codebook[0, 3] = 100.0  # far from all encodings
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    z = encodings()
    module(z).loss.backward()  # the matrix is no longer what it was when the code is revived
    optimizer.step()
    module.after_step(optimizer)
    nearest = (rearrange(z, "b d h w -> (b h w) d") - module.vectors()[0, 3]).square().sum(1).min()
    assert nearest < 1e-12
