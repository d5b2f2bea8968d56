"""Codes that a prior models as several sub-codes: exact likelihood, sampling, filling and files."""

import itertools

import pytest
import torch

from stage2_prior import coding
from stage2_prior import prior as prior_module
from stage2_prior.coder import Decoder, Encoder
from stage2_prior.filling import fill
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.sampling import sample, sample_naive, sample_steps
from stage2_prior.split import SplitCodes, sub_codes_of
from stage2_prior.transformer import Transformer
from stage2_prior.video import GatedPixelCNN3d
from stage2_prior.wavenet import WaveNet

GRIDS = {WaveNet: (3,), GatedPixelCNN: (1, 3), Transformer: (1, 3), GatedPixelCNN3d: (2, 1, 2)}
SIZES = {WaveNet: {"residual_channels": 4, "gate_channels": 8, "skip_channels": 8, "num_layers": 2,
                   "dilation_cycle": 2},
         GatedPixelCNN: {"channels": 4, "num_layers": 2, "head_channels": 8},
         Transformer: {"channels": 8, "num_layers": 1, "num_heads": 2, "grid": (1, 3)},
         GatedPixelCNN3d: {"channels": 4, "num_layers": 2, "head_channels": 8, "num_temporal_layers": 1}}  # fmt: skip


def split_prior(kind=WaveNet, values=3, parts=2, books=1, **sizes):
    torch.manual_seed(0)
    inner = kind(values, parts * books, **SIZES[kind] | sizes).double().eval()
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return SplitCodes(inner, values**parts, books).eval().requires_grad_(False)


def uniforms(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("books", [1, 2])
def test_a_code_is_its_digits(books):
    prior = split_prior(values=4, parts=3, books=books)
    every = torch.arange(64)[:, None]
    codes = every if books == 1 else torch.stack((every, every.flip(0)), -1)
    digits = prior.sub_codes(codes)
    assert digits.shape == (64, 1, 3 * books) and digits.min() == 0 and digits.max() == 3
    assert digits[27, 0, :3].tolist() == [1, 2, 3]  # 27 = 1 x 16 + 2 x 4 + 3
    assert torch.equal(prior.whole_codes(digits), codes)
    unknown = torch.full_like(codes[:1], -1)
    assert (prior.sub_codes(unknown) == -1).all() and torch.equal(prior.whole_codes(prior.sub_codes(unknown)), unknown)


def test_probabilities_of_all_codes_of_a_grid_sum_to_one():
    prior = split_prior(WaveNet, values=2, parts=2)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    log_prob = prior.log_prob(every)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12) and log_prob.std() > 0.1
    nats = prior.code_nats(every)
    assert nats.shape == every.shape and torch.allclose(-nats.sum(1), log_prob)
    # a code's own probabilities, given those before it
    assert torch.allclose((-nats[:, 2]).exp().view(16, 4).sum(1), torch.ones(16, dtype=torch.float64))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("how", [{}, {"temperature": 0.0}, {"top_k": 2, "top_p": 0.9}], ids=str)
def test_sampling_equals_naive_in_float64(kind, how):
    prior = split_prior(kind)
    u = uniforms(4, *GRIDS[kind])
    codes = sample(prior, u, **how)
    assert torch.equal(codes, sample_naive(prior, u, **how)) and codes.shape == u.shape
    known = codes.clone()
    known.view(4, -1)[:, -1] = -1
    assert torch.equal(sample(prior, u, known=known, **how), codes)
    *_, (last, done) = sample_steps(prior, u, **how)
    assert torch.equal(last, codes) and done == codes.numel()
    assert torch.equal(sample(prior, u[1:2], **how), codes[1:2])


def test_samples_have_the_probabilities_of_the_likelihood():
    prior = split_prior(values=3, parts=2, books=1)
    n = 20_000
    codes = sample(prior, uniforms(n, 1))[:, 0]
    shares = torch.bincount(codes, minlength=9) / n
    p = prior.log_prob(torch.arange(9)[:, None]).exp()
    # chi-squared with 8 degrees of freedom exceeds 35.7 once in 50,000 runs
    assert (n * (shares - p) ** 2 / p).sum() < 35.7


def test_the_numbers_of_sub_codes_are_uniform_and_do_not_depend_on_each_other():
    prior = split_prior(values=2, parts=3)
    u = prior.sub_uniforms(uniforms(20_000, 1))[:, 0]
    assert torch.equal(u[:, 0], uniforms(20_000, 1)[:, 0]) and u.min() >= 0 and u.max() < 1
    cells = torch.bincount((u * 4).long() @ torch.tensor([16, 4, 1]), minlength=64)
    expected = 20_000 / 64
    # chi-squared with 63 degrees of freedom exceeds 128 once in 400,000 runs
    assert ((cells - expected) ** 2 / expected).sum() < 128
    narrow = prior.sub_uniforms(0.25 + 2.0**-40 * uniforms(20_000, 1))[:, 0, 1]  # of one rare value
    assert abs(narrow.mean() - 0.5) < 5 * 20_000**-0.5 * 12**-0.5


@pytest.mark.parametrize("implementation", [None, "stepper", "naive"])
def test_files_hold_the_codes(implementation):
    prior = split_prior(GatedPixelCNN, values=3, parts=2, books=2)
    codes = torch.randint(9, (3, 2, 2, 2), generator=torch.Generator().manual_seed(1))
    encoder = Encoder()
    coding.write(encoder, coding.logits_of(prior, codes), prior.sub_codes(codes))
    stream = encoder.finish()
    read = coding.read(Decoder([stream]), [0, 0, 0], prior, (2, 2), implementation=implementation)
    assert torch.equal(read, codes)
    bits = -prior.log_prob(codes).sum().item() / torch.log(torch.tensor(2.0)).item()
    assert bits < 8 * len(stream) < bits + 24 + 0.01 * bits
    with pytest.raises(ValueError, match="logits of all 9 codes"):
        coding.choose(prior, lambda *_: torch.zeros(3, 9), 3, (2, 2))


def test_missing_codes_are_drawn_given_all_others():
    """The first of three codes, given both others: enumerated."""
    prior = split_prior(WaveNet, values=2, parts=2)
    n = 300
    generator = torch.Generator().manual_seed(3)
    known = torch.tensor([[-1, 3, 0]]).repeat(n, 1)
    filled = fill(prior, known, lambda *shape: torch.rand(n, *shape, generator=generator, dtype=torch.float64), 32)
    every = torch.tensor([[code, 3, 0] for code in range(4)])
    p = prior.log_prob(every).softmax(0)
    shares = torch.bincount(filled.codes[:, 0], minlength=4) / n
    # chi-squared with 3 degrees of freedom exceeds 25 once in 65,000 runs
    assert (n * (shares - p) ** 2 / p).sum() < 25 and torch.equal(filled.codes[:, 1:], known[:, 1:])


@pytest.mark.parametrize("num_codes, parts, expected", [
    (2, None, (1, 2)), (8192, None, (1, 8192)), (16_384, None, (2, 128)), (2**15, None, (3, 32)),
    (65_536, None, (2, 256)), (2**18, None, (2, 512)), (8**6, 6, (6, 8)), (64_000, None, (3, 40)),
    (2**17, None, (1, 2**17)), (65_536, 4, (4, 16)), (65_536, 1, (1, 65_536)), (64, 3, (3, 4)),
])  # fmt: skip
def test_sub_codes_by_default_and_as_given(num_codes, parts, expected):
    assert sub_codes_of(num_codes, parts) == expected


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="B\\^s = 65536 for a whole B, found 3"):
        sub_codes_of(65_536, 3)
    with pytest.raises(ValueError, match="B\\^s = 10, found 2 of 3"):
        SplitCodes(WaveNet(3, 2, **SIZES[WaveNet]), 10)
    prior = split_prior()
    with pytest.raises(ValueError, match=r"values in \[0, 9\)"):
        prior.log_prob(torch.tensor([[9]]))
    with pytest.raises(ValueError, match="top_k: expected 1 to 3"):
        sample(prior, uniforms(1, 2), top_k=4)


@pytest.mark.parametrize("split", [False, True])
def test_likelihoods_in_parts_of_the_batch_are_those_of_the_whole(split, monkeypatch):
    prior = split_prior(num_classes=[2]) if split else WaveNet(9, num_classes=[2], **SIZES[WaveNet]).double().eval()
    codes, labels = torch.arange(20).view(5, 4) % 9, torch.tensor([[0], [1], [0], [1], [1]])
    with torch.no_grad():
        whole, sizes = prior.code_nats(codes, labels), []
        monkeypatch.setattr(prior_module, "LOGITS", 2 * 4 * prior.logits_per_code)
        prior.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        assert torch.allclose(prior.code_nats(codes, labels), whole, atol=1e-12, rtol=0) and sizes == [2, 2, 1]
