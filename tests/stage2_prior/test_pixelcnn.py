"""The Gated PixelCNN as a density: receptive field, normalisation, and learning."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import one_hot

from stage2_prior import pixelcnn
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.prior import Prior

HEIGHT, WIDTH = 7, 11  # not square, and larger than the receptive field, so that its edges are tested too
REACH = 2 + 2 * 1  # first_kernel_size // 2 + (num_layers - 1) * (kernel_size // 2) of `tiny`


def visible(row: int, column: int) -> torch.Tensor:
    """Which positions (h, w) the code at (row, column) must see: all earlier ones near it, and no others."""
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    near = ((rows - row).abs() <= REACH) & ((columns - column).abs() <= REACH)
    return near & ((rows < row) | ((rows == row) & (columns < column)))


@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_gradient_reaches_every_earlier_position_in_the_neighbourhood_and_no_other(tiny, num_codebooks, monkeypatch):
    monkeypatch.setattr(pixelcnn, "PER_CODE", math.inf)  # embeddings, whose gradients are looked at, are computed
    prior = tiny(num_codebooks=num_codebooks, channels=24)  # that all 24 ReLU of a position are shut: 77 * 3 / 2^24
    shape = (1, HEIGHT, WIDTH, num_codebooks) if num_codebooks > 1 else (1, HEIGHT, WIDTH)
    embedded, within = [], []
    for tables, outputs in ((prior.embeddings, embedded), (prior.within, within)):
        for table in tables:
            table.register_forward_hook(lambda module, inputs, output, outputs=outputs: outputs.append(output))
    logits = prior(torch.randint(7, shape))
    logits = logits if num_codebooks > 1 else logits[..., None]
    direction = torch.randn(7, dtype=torch.float64)  # not a plain sum: that of a softmax-like head could cancel
    for row, column, j in itertools.product(range(HEIGHT), range(WIDTH), range(num_codebooks)):
        output = direction @ logits[0, :, row, column, j]
        gradients = torch.autograd.grad(output, embedded + within, retain_graph=True, materialize_grads=True)
        reached = [gradient[0].abs().amax(-1) > 0 for gradient in gradients]
        for table in reached[:num_codebooks]:
            assert torch.equal(table, visible(row, column)), (row, column)
        here = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        here[row, column] = True
        for i, table in enumerate(reached[num_codebooks:]):
            assert torch.equal(table, here if i < j else ~here & False), (row, column, i, j)


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_changing_one_code_changes_no_earlier_logits(tiny, num_codebooks):
    """The same law without looking inside: in raster order, codebook fastest, the code itself included."""
    prior = tiny(num_codebooks=num_codebooks)
    shape = (4, 5, num_codebooks) if num_codebooks > 1 else (4, 5)
    count = math.prod(shape)
    codes = torch.randint(7, shape)
    changed = (codes.flatten() + torch.eye(count, dtype=torch.int64)) % 7  # row i: code i is another
    with torch.no_grad():
        logits = prior(torch.cat((codes[None], changed.reshape(count, *shape)))).movedim(1, -1).flatten(1, -2)
    # (changed code, code whose logits moved); rounding may depend on the place in the batch
    moved = ((logits[1:] - logits[0]).abs() > 1e-9).any(-1)
    assert not moved.tril().any()
    assert moved[torch.arange(count - 1), torch.arange(1, count)].float().mean() > 0.7  # all but over a line's end


def test_local_conditions_a_position_through_its_own_row_and_those_above(tiny):
    prior = tiny(local_channels=2)
    local = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    logits = prior(torch.randint(7, (1, 4, 5)), local=local)
    gradient = torch.autograd.grad(logits[0, :, 2, 3].square().sum(), local)[0][0].abs().amax(0) > 0
    assert gradient[2, 3]
    assert not gradient[3].any()  # a 1x1 convolution brings nothing from below
    assert gradient[:2, 1:].all() and gradient[2, 1:3].all()  # but features of up to two positions away were made there


def test_every_label_column_matters(tiny):
    prior = tiny(num_classes=(3, 2))
    codes = torch.randint(7, (1, 4, 5)).expand(6, 4, 5)
    labels = torch.tensor(list(itertools.product(range(3), range(2))))
    logits = prior(codes, labels)
    for one, other in itertools.combinations(logits, 2):
        assert (one - other).abs().amax(0).min() > 1e-4  # at each position


@pytest.mark.parametrize(
    ("num_codes", "num_codebooks", "shape", "num_classes"),
    [(3, 1, (2, 2), ()), (2, 1, (2, 4), (2,)), (2, 2, (2, 2, 2), (3, 2)), (2, 3, (1, 3, 3), ())],
)
def test_probabilities_of_all_code_grids_add_up_to_one(tiny, num_codes, num_codebooks, shape, num_classes):
    prior = tiny(num_codes=num_codes, num_codebooks=num_codebooks, num_classes=num_classes)
    grids = torch.tensor(list(itertools.product(range(num_codes), repeat=math.prod(shape)))).reshape(-1, *shape)
    for label in itertools.product(*map(range, num_classes)):
        labels = torch.tensor(label).expand(len(grids), -1) if label else None
        with torch.no_grad():
            log_prob = prior(grids, labels), prior.log_prob(grids, labels)
        assert log_prob[1].exp().sum().item() == pytest.approx(1.0, abs=1e-12)
        assert log_prob[1].exp().max() > 3 / len(grids)  # and they are not all the same


def test_log_prob_is_the_sum_over_positions_and_codebooks(tiny):
    prior = tiny(num_codebooks=2)
    codes = torch.randint(7, (3, 4, 5, 2))
    expected = (prior(codes).log_softmax(1) * one_hot(codes, 7).movedim(-1, 1)).sum(dim=(1, 2, 3, 4))
    torch.testing.assert_close(prior.log_prob(codes), expected, rtol=1e-12, atol=0)


def test_autocast_keeps_the_likelihood_in_float32(tiny):
    prior = tiny(num_classes=(3,), local_channels=2).float()
    codes, labels, local = torch.randint(7, (4, 6, 5)), torch.randint(3, (4, 1)), torch.randn(4, 2, 6, 5)
    exact = prior.log_prob(codes, labels, local)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prior(codes, labels, local).dtype == torch.bfloat16
        rough = prior.log_prob(codes, labels, local)
    assert rough.dtype == torch.float32
    rough.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
    # bfloat16 carries 8 bits, 0.4 %; logits of about 2 are off by about 0.02 each, up to 30 of them add up
    torch.testing.assert_close(rough, exact, rtol=0, atol=1.5)
    assert not torch.equal(rough, exact)


def test_gates_start_with_unit_variance_at_any_depth_and_logits_near_zero(monkeypatch):
    monkeypatch.setattr(pixelcnn, "ready", lambda device, dtype: False)  # plain layers, which call hooks
    torch.manual_seed(0)
    prior = GatedPixelCNN(num_codes=64, channels=64, num_layers=12)
    deviations = []
    for layer in prior.layers:
        layer.vertical.register_forward_hook(lambda m, i, o: deviations.append(o[:, :, 8:, 8:-8].std().item()))
    codes = torch.randint(64, (4, 16, 24))
    loss = -prior.log_prob(codes).mean() / codes[0].numel()
    assert len(deviations) == 12
    assert min(deviations) > 0.8 and max(deviations) < 1.25  # with PyTorch's defaults the last one is under 0.01
    assert loss.item() == pytest.approx(math.log(64), abs=0.05)


def test_learns_a_rule_that_needs_both_stacks():
    """Each code is the sum of the one above and the one to the left: only the first row and column are random."""
    torch.manual_seed(0)
    prior = GatedPixelCNN(num_codes=4, channels=16, num_layers=3, first_kernel_size=3, head_channels=32)
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    for _ in range(75):
        codes = torch.randint(4, (16, 6, 7))
        for row, column in itertools.product(range(1, 6), range(1, 7)):
            codes[:, row, column] = (codes[:, row - 1, column] + codes[:, row, column - 1]) % 4
        loss = -prior.log_prob(codes).mean() / 42
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = 12 / 42 * math.log(4)  # 12 codes are uniform
    assert loss.item() < floor + 0.1 < math.log(4) - 0.85


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_grids_smaller_than_the_kernels(tiny, grid):
    prior = tiny()
    assert prior(torch.randint(7, (2, *grid))).shape == (2, 7, *grid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, "num_codes: expected 1 or more, found 0"),
        ({"num_codebooks": 0}, "num_codebooks: expected 1 or more, found 0"),
        ({"channels": 0}, "channels: expected 1 or more, found 0"),
        ({"kernel_size": 4}, "kernel_size: expected an odd number of 3 or more, found 4"),
        ({"first_kernel_size": 1}, "first_kernel_size: expected an odd number of 3 or more, found 1"),
        ({"num_classes": (3, 0)}, "num_classes: expected 1 or more, found 0"),
        ({"local_channels": -1}, "local_channels: expected 0 or more, found -1"),
        ({"dropout": 1.0}, "dropout: expected a probability"),
    ],
)
def test_construction_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        GatedPixelCNN(**options)


CODES, LABELS = torch.zeros(2, 3, 4, 2, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64)
LOCAL = torch.zeros(2, 5, 3, 4)


@pytest.mark.parametrize(
    ("codes", "labels", "local", "message"),
    [
        (CODES.int(), LABELS, LOCAL, "codes: expected dtype torch.int64, found torch.int32"),
        (CODES + 7, LABELS, LOCAL, r"codes: expected values in \[0, 7\), found \[7, 7\]"),
        (CODES - 1, LABELS, LOCAL, r"codes: expected values in \[0, 7\), found \[-1, -1\]"),
        (CODES[..., 0], LABELS, LOCAL, r"codes: expected shape \(b, grid0, grid1, 2\), found \(2, 3, 4\)"),
        (CODES[..., :1], LABELS, LOCAL, r"codes: expected shape \(b, grid0, grid1, 2\), found \(2, 3, 4, 1\)"),
        (CODES[:, :0], LABELS, LOCAL, "codes: expected shape"),
        (CODES, None, LOCAL, r"labels: expected shape \(2, 1\), found none"),
        (CODES, LABELS[:, 0], LOCAL, r"labels: expected shape \(2, 1\), found \(2,\)"),
        (CODES, LABELS.float(), LOCAL, "labels: expected dtype torch.int64, found torch.float32"),
        (CODES, LABELS + 3, LOCAL, r"labels: column 0: expected classes in \[0, 3\), found 3"),
        (CODES, LABELS - 1, LOCAL, r"labels: column 0: expected classes in \[0, 3\), found -1"),
        (CODES, LABELS, None, r"local: expected shape \(2, 5, 3, 4\), found none"),
        (CODES, LABELS, LOCAL.mT, r"local: expected floats \(2, 5, 3, 4\), found torch.float32 \(2, 5, 4, 3\)"),
        (CODES, LABELS, LOCAL.long(), r"local: expected floats \(2, 5, 3, 4\), found torch.int64"),
    ],
)
def test_input_is_checked(tiny, codes, labels, local, message):
    prior: Prior = tiny(num_codebooks=2, num_classes=(3,), local_channels=5).float()
    assert prior.log_prob(CODES, LABELS, LOCAL).shape == (2,)
    with pytest.raises(ValueError, match=message):
        prior(codes, labels, local)


def test_an_unconditional_prior_takes_no_conditions(tiny):
    prior = tiny()
    codes = torch.zeros(2, 3, 4, dtype=torch.int64)
    prior(codes, torch.zeros(2, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels: expected shape \(2, 0\), found \(2, 1\)"):
        prior(codes, torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="local: expected none"):
        prior(codes, local=torch.zeros(2, 1, 3, 4))
