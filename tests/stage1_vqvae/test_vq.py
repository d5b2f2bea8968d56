"""The two vector quantisers: what they return and learn, how codes stay in use. The contract: tests/contracts."""

import copy
import math

import numpy as np
import pytest
import torch
from einops import rearrange

from stage1_vqvae.bottlenecks.vq import EMAQuantizer, GradientQuantizer, codebook_lag, rotated_back

KINDS = [EMAQuantizer, GradientQuantizer]
GRIDS = [(7,), (3, 5), (2, 3, 4)]


def encodings(batch=6, dim=8, grid=(3, 5), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, dim, *grid, generator=generator, dtype=dtype)


def rows(z):
    return rearrange(z, "b d ... -> (b ...) d")


def quantizer(kind, seed=1, **kwargs):
    torch.manual_seed(seed)
    return kind(**{"num_codes": 16, "dim": 8} | kwargs)


def adam(module):
    """An optimiser with something in it, whether or not the quantiser has parameters."""
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1)), *module.parameters()], lr=0.1)


def train_step(module, optimizer, z, weight=1.0):
    optimizer.zero_grad()
    latent = module(z)
    if any(True for _ in module.parameters()):
        (weight * latent.loss).backward()
    optimizer.step()
    module.after_step(optimizer)
    return latent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_codes_are_the_nearest_and_z_q_the_entries(kind, grid, num_codebooks):
    module = quantizer(kind, num_codebooks=num_codebooks).double().eval()
    z = encodings(grid=grid, dtype=torch.float64)
    latent = module(z)
    assert latent.codes.shape == (6, *grid) + ((num_codebooks,) if num_codebooks > 1 else ())
    assert latent.codes.dtype == torch.int64
    found = latent.codes.reshape(-1, num_codebooks).numpy()
    for group, vectors in enumerate(np.split(rows(z).numpy(), num_codebooks, axis=1)):
        codebook = module.codebook[group].detach().numpy()
        distances = ((vectors[:, None] - codebook[None]) ** 2).sum(-1)
        np.testing.assert_array_equal(found[:, group], distances.argmin(1))
        np.testing.assert_array_equal(
            np.split(rows(latent.z_q.detach()).numpy(), num_codebooks, axis=1)[group], codebook[found[:, group]]
        )
    assert torch.equal(module.lookup(latent.codes), latent.z_q)
    rate = math.prod(grid) * num_codebooks * math.log(16)
    torch.testing.assert_close(latent.rate_nats, torch.full((6,), rate, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_changes_nothing(kind):
    module = quantizer(kind).eval()
    z = encodings()
    a, b = module(z), module(z.contiguous(memory_format=torch.channels_last))
    assert torch.equal(a.z_q, b.z_q) and torch.equal(a.codes, b.codes)


@pytest.mark.parametrize("kind", KINDS)
def test_straight_through_gradient_is_the_identity(kind):
    module = quantizer(kind)
    z = encodings().requires_grad_()
    upstream = encodings(seed=2)
    latent = module(z)
    latent.z_q.backward(upstream)
    assert torch.equal(z.grad, upstream)
    assert not any(p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_commitment_reaches_only_the_encoder_with_its_own_weight(kind):
    kwargs = {"codebook_weight": 0.0} if kind is GradientQuantizer else {}
    module = quantizer(kind, commitment_weight=0.3, **kwargs).double().eval()
    z = encodings(dtype=torch.float64).requires_grad_()
    latent = module(z)
    latent.loss.backward()
    assert latent.loss.item() == pytest.approx(0.3 * (z - latent.z_q).square().mean().item(), rel=1e-12)
    torch.testing.assert_close(z.grad, 0.3 * 2 * (z - latent.z_q).detach() / z.numel())
    assert all(not p.grad.any() for p in module.parameters())


def test_codebook_loss_reaches_only_the_codebook_with_its_own_weight():
    module = quantizer(GradientQuantizer, commitment_weight=0.0, codebook_weight=0.7).double()
    z = encodings(dtype=torch.float64).requires_grad_()
    latent = module(z)
    latent.loss.backward()
    assert not z.grad.any()
    codes, vectors = latent.codes.flatten(), rows(z.detach())
    expected = torch.zeros_like(module.codebook[0])
    for vector, code in zip(vectors, codes):
        expected[code] += 0.7 * 2 * (module.codebook[0, code].detach() - vector) / z.numel()
    torch.testing.assert_close(module.codebook.grad[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_product_codebooks_equal_separate_quantisers(kind):
    joint = quantizer(kind, num_codebooks=2, decay=0.5, revive_threshold=0.5).double()
    separate = [quantizer(kind, dim=4, decay=0.5, revive_threshold=0.5).double() for _ in range(2)]
    for group, module in enumerate(separate):
        module.codebook.data.copy_(joint.codebook.data[group : group + 1])
    optimizers = [adam(module) for module in (joint, *separate)]
    for step in range(3):
        z = encodings(seed=step, dtype=torch.float64)
        results = []
        for module, optimizer, part in zip((joint, *separate), optimizers, (z, z[:, :4], z[:, 4:])):
            torch.manual_seed(step)
            weight = part.shape[1] / 8  # each loss is a mean over the elements that it sees
            results.append(train_step(module, optimizer, part, weight))
        whole, *parts = results
        assert torch.equal(whole.z_q, torch.cat([p.z_q for p in parts], 1))
        assert torch.equal(whole.codes, torch.stack([p.codes for p in parts], -1))
        torch.testing.assert_close(whole.loss, (parts[0].loss + parts[1].loss) / 2)
        torch.testing.assert_close(whole.rate_nats, parts[0].rate_nats + parts[1].rate_nats)
    for name in ("codebook", "counts"):
        torch.testing.assert_close(getattr(joint, name), torch.cat([getattr(m, name) for m in separate]))


def test_ema_follows_the_appendix():
    """Three steps against NumPy: N, m, e of appendix A.1 with Laplace smoothing, every code starting at N / K hits."""
    k, decay, epsilon = 16, 0.9, 1e-3
    module = quantizer(EMAQuantizer, decay=decay, epsilon=epsilon, revive_threshold=0.0).double()
    module.codebook[0, 5] = 10.0  # a code that nothing chooses
    e = module.codebook[0].numpy().copy()
    n = 6 * 15
    counts, sums = np.full(k, n / k), e * n / k
    for step in range(3):
        z = encodings(seed=step, dtype=torch.float64)
        vectors = rows(z).numpy()
        codes = ((vectors[:, None] - e[None]) ** 2).sum(-1).argmin(1)
        np.testing.assert_array_equal(rows(module(z).z_q).numpy(), e[codes])
        one_hot = np.eye(k)[codes]
        counts = decay * counts + (1 - decay) * one_hot.sum(0)
        sums = decay * sums + (1 - decay) * one_hot.T @ vectors
        e = sums / ((counts + epsilon) / (counts.sum() + k * epsilon) * counts.sum())[:, None]
        np.testing.assert_allclose(module.codebook[0].numpy(), e, rtol=1e-12)
        e = module.codebook[0].numpy().copy()
    assert one_hot.sum(0)[5] == 0 and (one_hot.sum(0) > 0).any()


def test_ema_learns_in_training_only():
    module = quantizer(EMAQuantizer)
    before = copy.deepcopy(module.state_dict())
    module.eval()(encodings())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.train()(encodings())
    assert not torch.equal(module.codebook, before["codebook"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unused_code_stays_where_it_is(kind):
    """Not blown up in the first step, not moved in later ones."""
    module = quantizer(kind, num_codes=4)
    far = torch.full((8,), 50.0)
    module.codebook.data[0, 2] = far
    optimizer = adam(module)
    for step in range(20):
        latent = train_step(module, optimizer, encodings(seed=step))
        assert not (latent.codes == 2).any()
        torch.testing.assert_close(module.codebook.data[0, 2], far, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_code_is_revived_for_good(kind):
    """It equals an encoding of the batch after the step, and still does after a step without hits, Adam or not."""
    module = quantizer(kind, decay=0.5)
    optimizer = adam(module)
    train_step(module, optimizer, encodings())
    module.codebook.data[0, [3, 7]] = 1e3  # far from every encoding, with Adam's moments of an earlier life
    module.counts[0, [3, 7]] = average = 90 / 16
    if kind is EMAQuantizer:
        module.sums[0, [3, 7]] = 1e3 * average
    z = encodings(seed=1)
    for _ in range(5):  # 0.5^4 > 0.05 > 0.5^5
        assert (module.codebook.data[0, [3, 7]] > 500).all()
        train_step(module, optimizer, z)
    codebook = module.codebook.data[0].clone()
    vectors = rows(z)
    for code in (3, 7):
        assert (vectors - codebook[code]).abs().amax(1).min() == 0
        assert module.counts[0, code] == average
    assert not torch.equal(codebook[3], codebook[7])
    if kind is GradientQuantizer:
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not optimizer.state[module.codebook][moment][0, [3, 7]].any()
            assert optimizer.state[module.codebook][moment][0, :3].any()
    others = rows(encodings(seed=2))
    distances = torch.cdist(others, codebook).argmin(1)
    without_hits = others[(distances != 3) & (distances != 7)][:40]
    latent = train_step(module, optimizer, without_hits)
    assert not ((latent.codes == 3) | (latent.codes == 7)).any()
    torch.testing.assert_close(module.codebook.data[0, [3, 7]], codebook[[3, 7]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_revival_brings_a_collapsed_codebook_to_life(kind):
    module = quantizer(kind, num_codes=32, decay=0.5)
    module.codebook.data[0, 1:] = 1e3
    optimizer = adam(module)
    z = encodings(batch=16)
    used = [train_step(module, optimizer, z).codes.unique().numel() for _ in range(12)]
    assert used[0] == 1 and used[-1] > 24


@pytest.mark.parametrize("kind", KINDS)
def test_revival_can_be_off_and_gives_no_encoding_twice(kind):
    off = quantizer(kind, decay=0.5, revive_threshold=0.0)
    few = quantizer(kind, decay=0.01)
    for module in (off, few):
        module.codebook.data.fill_(1e3)
        module.codebook.data[0, 0] = 0.0
        optimizer = adam(module)
        train_step(module, optimizer, encodings(batch=5, grid=()))
    assert (off.codebook.data[0, 1:] > 500).all()
    revived = few.codebook.data[0, 1:][(few.codebook.data[0, 1:] < 500).all(1)]
    assert len(revived) == 5 == len(revived.unique(dim=0))  # fifteen dead codes, five encodings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_initialisation_from_data_beats_chance(kind, num_codebooks):
    module = quantizer(kind, num_codebooks=num_codebooks).double().eval()
    z = encodings(batch=40, dtype=torch.float64)
    assert module.needs_initialisation
    chance = (z - module(z).z_q).square().mean()
    picked = quantizer(kind, num_codebooks=num_codebooks).double().eval()
    picked.codebook.data.copy_(rearrange(rows(z)[:16], "k (g d) -> g k d", g=num_codebooks))
    module.initialise(rows(z))
    assert not module.needs_initialisation
    fitted = (z - module(z).z_q).square().mean()
    # 4 bits over 8 Gaussian dimensions leave 2^-1 of the variance at best; entries that are random vectors or encodings
    # leave most of it
    assert fitted < 0.8 * (z - picked(z).z_q).square().mean() and fitted < 0.8 * chance
    assert len(module(z).codes.unique()) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_initialisation_is_asked_for_only_where_it_is_wanted(kind):
    assert not quantizer(kind, initialise_from_data=False).needs_initialisation
    with pytest.raises(ValueError, match="expected at least 16 encodings, found 15"):
        quantizer(kind).initialise(torch.randn(15, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes_from_the_state_dict_bitwise(kind):
    def steps(module, optimizer, start, stop):
        for step in range(start, stop):
            torch.manual_seed(step)
            train_step(module, optimizer, encodings(seed=step))

    straight = quantizer(kind, decay=0.7, revive_threshold=0.3)
    torch.manual_seed(0)
    straight.initialise(rows(encodings()))
    optimizer = adam(straight)
    steps(straight, optimizer, 0, 3)
    resumed = quantizer(kind, seed=9, decay=0.7, revive_threshold=0.3)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert not resumed.needs_initialisation
    other = adam(resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(straight, optimizer, 3, 6)
    steps(resumed, other, 3, 6)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def rotation(z, e):
    """R of arXiv 2410.06424: the rotation of z onto e in their plane, I elsewhere; built from an orthonormal basis."""
    u = z / np.linalg.norm(z)
    along, cosine = e / np.linalg.norm(e), u @ e / np.linalg.norm(e)
    v = along - cosine * u
    v /= np.linalg.norm(v)
    sine = along @ v
    plane = np.stack([u, v])
    return np.eye(len(z)) + plane.T @ (np.array([[cosine, -sine], [sine, cosine]]) - np.eye(2)) @ plane


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_the_rotation_tricks_gradient_is_its_formula(kind, num_codebooks):
    """q = |q| / |z| R z with factor and R constant: the gradient of z is |q| / |z| R^T times that of q."""
    module = quantizer(kind, num_codebooks=num_codebooks, gradient="rotation").double()
    z, upstream = encodings(dtype=torch.float64).requires_grad_(), encodings(seed=2, dtype=torch.float64)
    latent = module(z)
    latent.z_q.backward(upstream)
    parts = [rearrange(part.detach(), "b (g d) ... -> (b ... g) d", g=num_codebooks).numpy()
             for part in (z, latent.z_q, upstream, z.grad)]
    for own, entry, gradient, found in zip(*parts):
        turned = np.linalg.norm(entry) / np.linalg.norm(own) * rotation(own, entry)
        np.testing.assert_allclose(turned @ own, entry, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found, turned.T @ gradient, rtol=1e-9, atol=1e-12)
    assert all(not p.grad.any() for p in module.parameters())


def test_the_rotation_trick_without_a_direction_is_finite():
    g, e = torch.ones(1, 4), torch.tensor([[0.0, 0.0, 3.0, 0.0]])
    for z in (torch.zeros(1, 4), e, -e):
        assert rotated_back(g, z, e).isfinite().all()
    torch.testing.assert_close(rotated_back(g, e, e), g)
    torch.testing.assert_close(rotated_back(g, -e, e), g - torch.tensor([[0.0, 0.0, 2.0, 0.0]]))  # a mirror


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_diveq_is_its_formula(num_codebooks):
    """z_q = z + |e - z| v / |v|, v = e - z + noise a constant, and of the gradients that of autograd, whose codebook
    has no other: as published there are no auxiliary losses."""
    module = quantizer(GradientQuantizer, num_codebooks=num_codebooks, gradient="diveq", commitment_weight=0.0,
                       codebook_weight=0.0).double()
    z, upstream = encodings(dtype=torch.float64).requires_grad_(), encodings(seed=2, dtype=torch.float64)
    uniforms = torch.rand(z.shape, dtype=torch.float64)
    latent = module(z, uniforms=uniforms)
    (latent.z_q * upstream).sum().backward()
    own, noise = (rearrange(part, "b (g d) ... -> (b ...) g d", g=num_codebooks)
                  for part in (z, 1e-3 * torch.special.ndtri(uniforms)))
    codes = latent.codes.reshape(-1, num_codebooks)
    e = torch.stack([module.codebook[group][codes[:, group]] for group in range(num_codebooks)], 1)
    v = (e - own + noise).detach()
    z_q = own + (e - own).square().sum(-1, keepdim=True).sqrt() * v / v.square().sum(-1, keepdim=True).sqrt()
    expected = rearrange(z_q, "(b h w) g d -> b (g d) h w", b=6, h=3)
    torch.testing.assert_close(latent.z_q, expected, rtol=1e-10, atol=1e-12)
    assert latent.loss.item() == 0
    found = z.grad, module.codebook.grad
    for own, other in zip(found, torch.autograd.grad((expected * upstream).sum(), [z, module.codebook]), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)
    assert module.codebook.grad.abs().max() > 0.1
    # |e - z| is about 2, and the noise of 8 numbers of 1e-3 about 0.003: never ten times as much
    assert 0 < (latent.z_q - rearrange(e, "(b h w) g d -> b (g d) h w", b=6, h=3)).abs().max() < 0.03
    assert torch.equal(module.eval()(z).z_q, module.lookup(latent.codes)), "without noise it is the entry"


def test_diveq_agrees_with_its_authors_package(monkeypatch):
    package = pytest.importorskip("diveq", reason="of the extra `dev`")
    module = quantizer(GradientQuantizer, gradient="diveq", commitment_weight=0.0, codebook_weight=0.0).double()
    theirs = package.DIVEQ(16, 8, noise_var=1e-3, codebook_reset=False, allow_warning=False).double()
    with torch.no_grad():
        theirs.codebook.copy_(module.codebook[0])
    z, pull = encodings(dtype=torch.float64).requires_grad_(), encodings(seed=2, dtype=torch.float64)
    uniforms, other = torch.rand(z.shape, dtype=torch.float64), rows(z.detach()).requires_grad_()
    normal = torch.distributions.Normal  # the same noise for both
    monkeypatch.setattr(normal, "sample", lambda self, shape: self.scale * rows(torch.special.ndtri(uniforms)))
    latent = module(z, uniforms=uniforms)
    z_q, codes, _ = theirs(other)
    (latent.z_q * pull).sum().backward()
    (z_q * rows(pull)).sum().backward()
    assert torch.equal(latent.codes.flatten(), codes)
    for own, expected in ((rows(latent.z_q), z_q), (rows(z.grad), other.grad),
                          (module.codebook.grad[0], theirs.codebook.grad)):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-6)


def test_diveq_with_moving_averages_or_at_its_own_code_is_finite():
    module = quantizer(EMAQuantizer, gradient="diveq").double()
    z = module.codebook[0, :4, :, None].clone().requires_grad_()  # encodings that are entries
    latent = module(z)
    latent.z_q.sum().backward()
    assert torch.equal(latent.z_q, z) and z.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_cosine_distance_is_nearest_by_angle(kind, num_codebooks):
    module = quantizer(kind, num_codebooks=num_codebooks, distance="cosine").double().eval()
    module.codebook.data *= torch.linspace(0.1, 10, 16)[:, None]  # lengths say nothing
    z = encodings(dtype=torch.float64)
    latent = module(z)
    found, others = latent.codes.reshape(-1, num_codebooks), module(10 * z).codes
    assert torch.equal(latent.codes, others)
    for group, vectors in enumerate(rows(z).chunk(num_codebooks, 1)):
        cosines = torch.nn.functional.cosine_similarity(vectors[:, None], module.codebook[group][None], dim=-1)
        assert torch.equal(cosines.argmax(1), found[:, group])
    lengths = rearrange(latent.z_q, "b (g d) ... -> b g d ...", g=num_codebooks).norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert torch.equal(module.lookup(latent.codes), latent.z_q)


@pytest.mark.parametrize("kind", KINDS)
def test_cosine_distance_learns(kind):
    module = quantizer(kind, distance="cosine", decay=0.9, initialise_from_data=False)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1)), *module.parameters()], lr=0.01)
    z = encodings(batch=40)
    before = module.eval()(z).loss.item()
    for _ in range(30):
        train_step(module.train(), optimizer, z)
    learned = module.eval()(z).loss.item()
    module.initialise(rows(z))
    # sixteen random directions are not bad for encodings of all directions
    assert learned < 0.9 * before and module(z).loss.item() < 0.9 * before


@pytest.mark.parametrize("kind", KINDS)
def test_distance_and_gradient_are_of_those_that_there_are(kind):
    for name in ("distance", "gradient"):
        with pytest.raises(ValueError, match=f"expected {name}=.* or {name}=.*, found nosuch"):
            kind(**{name: "nosuch"})


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="num_codebooks=3"):
        EMAQuantizer(dim=8, num_codebooks=3)
    module = quantizer(EMAQuantizer)
    with pytest.raises(ValueError, match=r"expected encodings \(b, 8, \*grid\), found \(6, 7, 3, 5\)"):
        module(encodings(dim=7))
    with pytest.raises(ValueError, match=r"expected codes in 0..15, found 0..16"):
        module.lookup(torch.tensor([[0, 16]]))


def test_a_codebook_at_the_means_of_its_encodings_has_no_lag_and_one_elsewhere_has_its_distance():
    """4,000 encodings around 8 corners. By chance the unbiased estimate strays by about 1e-4."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.cartesian_prod(*[torch.tensor([-3.0, 3.0])] * 3)
    codes = torch.arange(4000) % 8
    z = corners[codes] + torch.randn(4000, 3, generator=generator)
    variance = float((z - z.mean(0)).square().sum() / 4000)
    assert float(codebook_lag(z, corners[codes], codes, 20)) < 1e-3
    found = float(codebook_lag(z, corners[codes] + 2, codes, 20))
    assert found == pytest.approx(12 / variance, rel=0.05)  # 2^2 in each of three dimensions


def test_the_lag_is_not_guessed_from_one_encoding_per_code():
    z = encodings(1, 8, (5,))[0].T
    assert codebook_lag(z, z + 1, torch.arange(5), 5) == 0
    assert codebook_lag(z, z + 1, torch.tensor([0, 0, 1, 1, 1]), 5) > 0


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_compare_encodings_with_their_entries(kind, distance):
    """Codes at k-means centres explain most of the variance; moved away from all encodings, less than nothing."""
    module, z = quantizer(kind, num_codebooks=2, distance=distance), encodings(40)
    module.initialise(rows(z))
    figures = module.eval().figures(z, module(z))
    assert 0 < figures["z_q nmse"] < 0.9 and figures["codebook lag"] < 0.05 and figures["z_e norm"] > 0
    with torch.no_grad():
        module.codebook.copy_(torch.full_like(module.codebook, 2.5))
    figures = module.figures(z, module(z))
    assert figures["z_q nmse"] > 1 and figures["codebook lag"] > 0.1
