"""Codes to bytes and back by every prior and every implementation of it."""

import numpy as np
import pytest
import torch

from stage2_prior import coding
from stage2_prior.coder import Decoder, Encoder
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.prior import nats
from stage2_prior.stepping import each_step, naive_steps
from stage2_prior.transformer import Transformer
from stage2_prior.video import GatedPixelCNN3d
from stage2_prior.wavenet import WaveNet

STREAMS = [0, 0, 1, 1, 2]  # of five items


def make(name):
    """A prior in float64, a grid, labels, local, lengths."""
    torch.manual_seed(0)
    labels, local, lengths = None, None, None
    if name == "images, labels":
        prior, grid = GatedPixelCNN(num_codes=9, channels=8, num_layers=3, num_classes=(3,)), (4, 5)
        labels = torch.tensor([[0], [2], [1], [1], [0]])
    elif name == "images, codebooks":
        prior, grid = GatedPixelCNN(num_codes=9, num_codebooks=3, channels=8, num_layers=2, local_channels=2), (3, 4)
        local = torch.randn(5, 2, *grid)
    elif name == "audio, lengths":
        prior, grid = WaveNet(num_codes=9, num_codebooks=2, num_layers=6, dilation_cycle=5, residual_channels=8,
                              gate_channels=8, skip_channels=8, local_channels=1), (24,)
        local, lengths = torch.randn(5, 1, 24), torch.tensor([24, 3, 10, 24, 1])
    elif name == "transformer, lengths":
        prior, grid = Transformer(num_codes=9, num_codebooks=2, grid=(12,), channels=16, num_layers=2, num_classes=(3,),
                                  local_channels=1), (12,)
        labels, local = torch.tensor([[0], [2], [1], [1], [0]]), torch.randn(5, 1, 12)
        lengths = torch.tensor([12, 3, 10, 12, 1])
    else:
        prior, grid = GatedPixelCNN3d(num_codes=9, channels=8, num_layers=2, num_temporal_layers=2,
                                      local_channels=2), (3, 3, 4)
        local = torch.randn(5, 2, *grid)
    for parameter in prior.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    codes = torch.randint(0, 9, (5, *grid, *([prior.num_codebooks] if prior.num_codebooks > 1 else [])))
    if lengths is not None:
        codes *= (torch.arange(grid[0]) < lengths[:, None]).view(5, grid[0], *[1] * (codes.ndim - 2))
    return prior.double().eval(), grid, codes, labels, local, lengths


NAMES = ["images, labels", "images, codebooks", "audio, lengths", "transformer, lengths", "video"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("implementation", [None, *coding.IMPLEMENTATIONS])
def test_what_one_implementation_wrote_every_other_reads(name, implementation):
    prior, grid, codes, labels, local, lengths = make(name)
    logits = coding.logits_of(prior, codes, labels, local)
    data = []
    for stream in range(3):
        rows, encoder = [row for row in range(5) if STREAMS[row] == stream], Encoder()
        coding.write(encoder, logits[rows], codes[rows], None if lengths is None else lengths[rows])
        data.append(encoder.finish())
    done = []
    found = coding.read(Decoder(data), STREAMS, prior, grid, labels, local, lengths, implementation, done.append)
    assert torch.equal(found, codes)
    assert sum(done) == (5 * int(np.prod(grid)) if lengths is None else int(lengths.sum()))
    each = nats(logits, codes)
    if lengths is not None:
        each = each * (torch.arange(grid[0]) < lengths[:, None]).view(5, grid[0], *[1] * (each.ndim - 2))
    bits = float(each.sum()) / np.log(2)
    assert 8 * sum(map(len, data)) < bits * 1.01 + 3 * 8 + 4, "as long as its codes are improbable"


@pytest.mark.parametrize("name", NAMES)
def test_all_implementations_agree_far_within_the_tolerance(name):
    prior, grid, codes, labels, local, _ = make(name)
    expected = coding.logits_of(prior, codes, labels, local)
    local = None if local is None else local.double()
    steppers = [prior.compiled_loop().stepper(5, grid, labels, local), each_step(prior, 5, grid, labels, local),
                naive_steps(prior, labels, local)]
    with torch.no_grad():
        for position in np.ndindex(*codes.shape[1:]):
            for stepper in steppers:
                found = stepper.step(codes, position)
                assert (found - expected[(slice(None), slice(None), *position)]).abs().max() < 1e-11


def test_a_prior_in_float32_is_refused():
    prior = GatedPixelCNN(num_codes=4, channels=4, num_layers=1)
    with pytest.raises(ValueError, match="expected parameters of torch.float64"):
        coding.logits_of(prior, torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected parameters of torch.float64"):
        coding.read(Decoder([b""]), [0], prior, (2, 2))


def test_where_the_loop_cannot_be_compiled_the_stepper_reads(monkeypatch):
    from stage2_prior import compiled, compiler
    from stage2_prior.errors import CompilerError

    prior, grid, codes, labels, local, _ = make("images, labels")
    encoder = Encoder()
    coding.write(encoder, coding.logits_of(prior, codes, labels, local), codes)

    def fails(*arguments):
        raise CompilerError("no machine code")

    monkeypatch.setattr(compiled, "step_row", fails)
    monkeypatch.setattr(compiler, "_failure", None)
    found = coding.read(Decoder([encoder.finish()]), [0] * 5, prior, grid, labels, local)
    assert torch.equal(found, codes)
    assert isinstance(compiler._failure, CompilerError)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("implementation", [None, "naive"])
def test_chosen_codes_are_each_the_cheapest_given_the_ones_before(name, implementation):
    prior, grid, codes, labels, local, lengths = make(name)
    costs = 3 * torch.rand(*codes.shape, 9, dtype=torch.float64)

    def of(rows, so_far, position):
        return costs[(rows, *position)]

    found = coding.choose(prior, of, 5, grid, labels, local, lengths, implementation)
    best = (costs - coding.logits_of(prior, found, labels, local).movedim(1, -1)).argmin(-1)
    if lengths is not None:
        best *= (torch.arange(grid[0]) < lengths[:, None]).view(5, grid[0], *[1] * (codes.ndim - 2))
    assert torch.equal(found, best)
    assert not torch.equal(found, costs.argmin(-1)), "the prior has a say"
