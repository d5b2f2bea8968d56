"""The video prior: its receptive field, normalisation, learning, and exact cached sampling."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from stage2_prior import compiled, pixelcnn, sampling, triton_compiler
from stage2_prior.sampling import sample, sample_naive
from stage2_prior.video import GatedPixelCNN3d

FRAMES, HEIGHT, WIDTH = 5, 7, 9  # not a cube, and larger than the receptive field
# Receptive fields of `tiny_video`: of a frame's own stacks, in its codes and in the features that condition it; of the
# temporal stack, to every side and in frames back.
OWN, INSIDE, ASIDE, BACK = 1 + 1, 1, 2 * 1, 1 + 2 * 1


class SteppedPixelCNN3d(GatedPixelCNN3d):
    """Without the compiled loop, as on a GPU."""

    def compiled_loop(self) -> None:
        return None


@pytest.fixture(params=[GatedPixelCNN3d, SteppedPixelCNN3d], ids=["compiled", "stepped"])
def way(request) -> type[GatedPixelCNN3d]:
    return request.param


def visible(frame: int, row: int, column: int) -> Tensor:
    """Which positions (t, h, w) the code at (frame, row, column) must see, and no others."""
    frames, rows, columns = torch.meshgrid(*map(torch.arange, (FRAMES, HEIGHT, WIDTH)), indexing="ij")
    near = ((rows - row).abs() <= OWN) & ((columns - column).abs() <= OWN)
    own = (frames == frame) & near & ((rows < row) | ((rows == row) & (columns < column)))
    earlier = (frames < frame) & (frame - frames <= BACK)
    around = (row - rows <= INSIDE + ASIDE) & (rows - row <= ASIDE) & ((columns - column).abs() <= INSIDE + ASIDE)
    return own | (earlier & around)


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_gradient_reaches_every_earlier_position_in_the_neighbourhood_and_no_other(
    tiny_video, num_codebooks, monkeypatch
):
    monkeypatch.setattr(pixelcnn, "PER_CODE", math.inf)  # embeddings, whose gradients are looked at, are computed
    prior = tiny_video(num_codebooks=num_codebooks, channels=24)  # that all 24 ReLU of one are shut: 315 * 2 / 2^24
    shape = (1, FRAMES, HEIGHT, WIDTH, num_codebooks) if num_codebooks > 1 else (1, FRAMES, HEIGHT, WIDTH)
    delayed, present = [], []  # embeddings (1, t - 1, h, w, p) that the temporal stack reads, and (t, h, w, p)
    for table in prior.frame.embeddings:
        table.register_forward_hook(lambda module, inputs, out: (delayed if out.ndim == 5 else present).append(out))
    logits = prior(torch.randint(7, shape))
    logits = logits if num_codebooks > 1 else logits[..., None]
    direction = torch.randn(7, dtype=torch.float64)  # not a plain sum: that of a softmax-like head could cancel
    assert len(delayed) == len(present) == num_codebooks
    for position in itertools.product(range(FRAMES), range(HEIGHT), range(WIDTH)):
        output = direction @ logits[(0, slice(None), *position, num_codebooks - 1)]
        gradients = torch.autograd.grad(output, delayed + present, retain_graph=True, materialize_grads=True)
        reached = [gradient.abs().amax(-1) > 0 for gradient in gradients]
        for before, own in zip(reached[:num_codebooks], reached[num_codebooks:], strict=True):
            seen = own.clone()
            seen[:-1] |= before[0]
            assert torch.equal(seen, visible(*position)), position


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_changing_one_code_changes_no_earlier_logits(tiny_video, num_codebooks):
    """The same law without looking inside: frames, then raster order, codebook fastest, the code itself included."""
    prior = tiny_video(num_codebooks=num_codebooks)
    shape = (3, 2, 3, num_codebooks) if num_codebooks > 1 else (3, 2, 3)
    count = math.prod(shape)
    codes = torch.randint(7, shape)
    changed = (codes.flatten() + torch.eye(count, dtype=torch.int64)) % 7  # row i: code i is another
    with torch.no_grad():
        logits = prior(torch.cat((codes[None], changed.reshape(count, *shape)))).movedim(1, -1).flatten(1, -2)
    # (changed code, code whose logits moved); in a batch this size an untouched row may differ by rounding, 1e-15
    moved = ((logits[1:] - logits[0]).abs() > 1e-9).any(-1)
    assert not moved.tril().any()
    assert moved[torch.arange(count - 1), torch.arange(1, count)].float().mean() > 0.7  # all but over a line's end


def test_local_of_a_frame_reaches_it_and_later_frames_only(tiny_video):
    prior = tiny_video(local_channels=2)
    local = torch.randn(1, 2, FRAMES, 3, 4, dtype=torch.float64, requires_grad=True)
    logits = prior(torch.randint(7, (1, FRAMES, 3, 4)), local=local)
    for t in range(FRAMES):
        gradient = torch.autograd.grad(logits[0, :, t].square().sum(), local, retain_graph=True)[0]
        reached = (gradient[0].abs().amax(0) > 0).flatten(1)
        assert torch.equal(reached.all(1), reached.any(1))
        # it enters after the first temporal layer's kernel: of BACK frames, one is the delay and one that kernel's
        assert reached.all(1).tolist() == [t - BACK + 2 <= other <= t for other in range(FRAMES)]


def test_every_label_column_matters(tiny_video):
    prior = tiny_video(num_classes=(3, 2))
    codes = torch.randint(7, (1, 2, 3, 4)).expand(6, 2, 3, 4)
    logits = prior(codes, torch.tensor(list(itertools.product(range(3), range(2)))))
    for one, other in itertools.combinations(logits, 2):
        assert (one - other).abs().amax(0).min() > 1e-4  # at each position


@pytest.mark.parametrize(
    ("num_codes", "num_codebooks", "shape", "num_classes"),
    [(2, 1, (2, 2, 2), ()), (3, 1, (3, 1, 2), (2,)), (2, 2, (2, 1, 2, 2), (3, 2)), (2, 3, (3, 1, 1, 3), ())],
)
def test_probabilities_of_all_videos_add_up_to_one(tiny_video, num_codes, num_codebooks, shape, num_classes):
    prior = tiny_video(num_codes=num_codes, num_codebooks=num_codebooks, num_classes=num_classes, local_channels=1)
    videos = torch.tensor(list(itertools.product(range(num_codes), repeat=math.prod(shape)))).reshape(-1, *shape)
    local = torch.randn(1, 1, *shape[:3], dtype=torch.float64).expand(len(videos), -1, -1, -1, -1)
    for label in itertools.product(*map(range, num_classes)):
        labels = torch.tensor(label).expand(len(videos), -1) if label else None
        with torch.no_grad():
            log_prob = prior.log_prob(videos, labels, local)
        assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
        assert log_prob.exp().max() > 3 / len(videos)  # and they are not all the same


def test_gates_of_the_temporal_stack_start_with_unit_variance_at_any_depth():
    torch.manual_seed(0)
    prior = GatedPixelCNN3d(num_codes=64, channels=32, num_layers=2, num_temporal_layers=10)
    deviations = []
    for layer in prior.temporal:
        layer.seen.register_forward_hook(lambda m, i, o: deviations.append(o[:, :, 12:, 3:-3, 3:-3].std().item()))
    codes = torch.randint(64, (2, 14, 10, 12))
    loss = -prior.log_prob(codes).mean() / codes[0].numel()
    assert len(deviations) == 10
    assert deviations == sorted(deviations)  # the residual stream's variance grows from 1 to 2
    assert 0.85 < deviations[0] and deviations[-1] < 1.7
    assert loss.item() == pytest.approx(math.log(64), abs=0.05)


def test_learns_that_actions_move_the_frame_before():
    """Each frame is the one before, shifted to the side that `local` says: only the column that comes in is new."""
    torch.manual_seed(0)
    prior = GatedPixelCNN3d(num_codes=4, channels=16, num_layers=2, first_kernel_size=3, num_temporal_layers=1,
                            temporal_kernel_size=1, local_channels=1, head_channels=32)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(80):
        codes = torch.randint(4, (8, 4, 3, 6))
        sides = torch.randint(2, (8, 4)) * 2 - 1
        for i, t in itertools.product(range(8), range(1, 4)):
            fresh = 0 if sides[i, t] > 0 else -1
            moved = codes[i, t - 1].roll(int(sides[i, t]), 1)
            moved[:, fresh] = codes[i, t, :, fresh]
            codes[i, t] = moved
        local = sides[:, None, :, None, None].expand(-1, 1, 4, 3, 6).float()
        loss = -prior.log_prob(codes, local=local).mean() / 72
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = (18 + 3 * 3) / 72 * math.log(4)  # the first frame and three columns are uniform
    assert loss.item() < floor + 0.1  # without actions 45 codes are one of two: log(2) of each, but for equal ones


N, GRID = 4, (3, 2, 4)


def uniforms_for(prior: GatedPixelCNN3d, n: int = N, grid: tuple[int, ...] = GRID) -> Tensor:
    shape = (n, *grid, prior.num_codebooks) if prior.num_codebooks > 1 else (n, *grid)
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def conditions_for(prior: GatedPixelCNN3d, n: int = N, grid: tuple[int, ...] = GRID) -> dict[str, Tensor]:
    """Labels and local in the shapes that the prior expects, different for each sample."""
    conditions = {}
    if prior.num_classes:
        conditions["labels"] = torch.stack([torch.arange(n) % count for count in prior.num_classes], dim=1)
    if prior.local_channels:
        generator = torch.Generator().manual_seed(2)
        conditions["local"] = torch.randn(n, prior.local_channels, *grid, generator=generator)
    return conditions


PRIORS = {
    "plain": {},
    "one layer each": {"num_layers": 1, "num_temporal_layers": 1},
    "last frame only": {"temporal_kernel_size": 1},
    "wide kernels": {"kernel_size": 5, "temporal_kernel_size": 3},
    "labels": {"num_classes": (3, 2)},
    "local": {"local_channels": 2},
    "codebooks": {"num_codebooks": 3, "num_codes": 4},
    "all": {"num_codebooks": 2, "num_classes": (4,), "local_channels": 3},
}
RULES = {
    "plain": {},
    "argmax": {"temperature": 0.0},
    "top-k": {"top_k": 3},
    "all": {"temperature": 1.5, "top_k": 4, "top_p": 0.9},
}


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_cached_equals_naive_for_every_kind_of_prior(tiny_video, way, options):
    prior = tiny_video(**options)
    uniforms, conditions = uniforms_for(prior), conditions_for(prior)
    expected = sample_naive(prior, uniforms, **conditions)
    prior.__class__ = way
    assert torch.equal(sample(prior, uniforms, **conditions), expected)
    assert len(expected.flatten(1).unique(dim=0)) == N  # the samples differ,
    assert len(expected.unique()) > prior.num_codes // 2  # and use most codes


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_cached_probabilities_are_exact(tiny_video, edge, way, options):
    prior = tiny_video(**options)
    conditions = conditions_for(prior)
    conditions |= {name: x.double() for name, x in conditions.items() if name == "local"}
    codes = torch.randint(prior.num_codes, uniforms_for(prior).shape, generator=torch.Generator().manual_seed(5))
    prior.__class__ = way
    assert torch.equal(sample(prior, edge(prior, codes, 1e-9, **conditions), **conditions), codes)


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_a_frame_a_row_and_a_column_recorded_once_are_right_for_all(tiny_video, recordings, options):
    prior = tiny_video(**options)
    uniforms, conditions = uniforms_for(prior), conditions_for(prior)
    known = torch.full(uniforms.shape, -1)
    known[:, 1], known[0, 2, 1] = 2, 1
    expected = sample_naive(prior, uniforms, **conditions, top_p=0.9, known=known)
    prior.__class__ = SteppedPixelCNN3d
    assert torch.equal(sample(prior, uniforms, **conditions, top_p=0.9, known=known), expected)
    assert len(recordings) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_on_cuda_equals_naive_and_the_cpu(tiny_video, monkeypatch, options, kernel):
    if not kernel:
        monkeypatch.setattr(triton_compiler, "pixelcnn", lambda device: None)
    prior = tiny_video(**options)
    uniforms, conditions = uniforms_for(prior, grid=(5, 4, 3)), conditions_for(prior, grid=(5, 4, 3))
    known = torch.full(uniforms.shape, -1)
    known[:, 1], known[0, 2, 1] = 2, 1
    for given, rule in itertools.product((None, known), (RULES["plain"], RULES["all"])):
        expected = sample(prior.cpu(), uniforms, **conditions, **rule, known=given)
        there = {name: x.cuda() for name, x in conditions.items()}
        there |= {**rule, "known": None if given is None else given.cuda()}
        prior.cuda()
        assert torch.equal(sample(prior, uniforms.cuda(), **there).cpu(), expected)
        assert torch.equal(sample_naive(prior, uniforms.cuda(), **there).cpu(), expected)
    assert triton_compiler._failure is None


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("known", ["frames", "prefix", "a later frame", "scattered"])
def test_cached_equals_naive_for_every_rule_and_known_codes(tiny_video, way, rule, known):
    prior = tiny_video(num_codebooks=2, local_channels=1)
    uniforms, conditions = uniforms_for(prior), conditions_for(prior)
    number = torch.arange(uniforms[0].numel()).reshape(uniforms.shape[1:])
    free = {"frames": number >= 16, "prefix": number >= 21, "a later frame": (number < 16) | (number >= 32),
            "scattered": (number % 3 > 0)}[known]
    given = torch.randint(7, uniforms.shape, generator=torch.Generator().manual_seed(3)).masked_fill(free, -1)
    if known == "scattered":
        given[0, 1] = 5  # in one sample this frame is known throughout
    expected = sample_naive(prior, uniforms, **conditions, **rule, known=given)
    prior.__class__ = way
    codes = sample(prior, uniforms, **conditions, **rule, known=given)
    assert torch.equal(codes, expected)
    assert torch.equal(codes[given >= 0], given[given >= 0])
    assert not torch.equal(codes, sample(prior, uniforms, **conditions, **rule))


@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 2, 5), (6, 1, 2), (2, 7, 1)])
def test_cached_equals_naive_on_any_grid(tiny_video, way, grid):
    prior = tiny_video()
    uniforms = uniforms_for(prior, grid=grid)
    expected = sample_naive(prior, uniforms)
    prior.__class__ = way
    assert torch.equal(sample(prior, uniforms), expected)


def test_frames_that_are_known_are_not_gone_through_position_by_position(tiny_video, way, monkeypatch):
    prior = tiny_video()
    uniforms = uniforms_for(prior, grid=(5, 3, 4))
    codes = sample(prior, uniforms)
    prior.__class__ = way
    rows, draw_row = [], compiled.draw_row
    monkeypatch.setattr(compiled, "draw_row", lambda row, *rest: rows.append(row) or draw_row(row, *rest))
    positions, reports = [], []
    prior.frame.heads[0].register_forward_hook(lambda *call: positions.append(1))
    context = codes.clone()
    context[:, 3:] = -1
    continued = sample(prior, uniforms, known=context, progress=lambda *report: reports.append(report))
    assert torch.equal(continued, codes)  # and they continue the same sample
    assert (len(rows), len(positions)) == ((2 * 3, 0) if way is GatedPixelCNN3d else (0, 2 * 12))
    assert reports[-1] == (N * 60, N * 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_batchmates(tiny_video, monkeypatch, dtype):
    """To the bit, in float32 as well: rows, blocks and threads may fall as they like."""
    prior = tiny_video(num_classes=(3,), local_channels=2).to(dtype)
    uniforms, conditions = uniforms_for(prior, n=9), conditions_for(prior, n=9)
    together = sample(prior, uniforms, **conditions)
    for i in range(9):
        alone = sample(prior, uniforms[i : i + 1], **{name: x[i : i + 1] for name, x in conditions.items()})
        assert torch.equal(alone[0], together[i])
    for size, threads in ((2, 1), (5, 2), (32, 3)):
        monkeypatch.setattr(sampling, "BLOCK", size)
        torch.set_num_threads(threads)
        assert torch.equal(sample(prior, uniforms, **conditions), together)
    order = torch.arange(8, -1, -1)
    backwards = sample(prior, uniforms[order], **{name: x[order] for name, x in conditions.items()})
    assert torch.equal(backwards, together[order])


def test_a_sample_going_by_steps_does_not_depend_on_its_batchmates(tiny_video):
    prior = tiny_video()
    prior.__class__ = SteppedPixelCNN3d
    uniforms = uniforms_for(prior)
    together = sample(prior, uniforms)
    for i in range(N):
        assert torch.equal(sample(prior, uniforms[i : i + 1])[0], together[i])


def test_sampling_is_done_in_evaluation_mode(tiny_video, way):
    prior = tiny_video(dropout=0.5)
    uniforms = uniforms_for(prior)
    expected = sample_naive(prior.eval(), uniforms)
    prior.__class__ = way
    assert torch.equal(sample(prior.train(), uniforms), expected)
    with torch.no_grad():
        codes = sample(prior, uniforms)
        assert not torch.equal(prior(codes), prior(codes))  # it has dropout, in the mode that it is left in


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_temporal_layers": 0}, "num_temporal_layers: expected 1 or more, found 0"),
        ({"temporal_kernel_size": 0}, "temporal_kernel_size: expected 1 or more, found 0"),
        ({"kernel_size": 4}, "kernel_size: expected an odd number of 3 or more, found 4"),
        ({"channels": 0}, "channels: expected 1 or more, found 0"),
        ({"local_channels": -1}, "local_channels: expected 0 or more, found -1"),
    ],
)
def test_construction_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        GatedPixelCNN3d(**options)


def test_input_is_checked(tiny_video):
    prior = tiny_video(num_classes=(3,), local_channels=5)
    codes, labels = torch.zeros(2, 3, 4, 5, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64)
    local = torch.zeros(2, 5, 3, 4, 5, dtype=torch.float64)
    assert prior.log_prob(codes, labels, local).shape == (2,)
    assert prior.log_prob(codes[:0], labels[:0], local[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"codes: expected shape \(b, grid0, grid1, grid2\), found \(2, 4, 5\)"):
        prior(codes[:, 0], labels, local)
    with pytest.raises(ValueError, match=r"labels: expected shape \(2, 1\), found none"):
        prior(codes, None, local)
    with pytest.raises(ValueError, match=r"local: expected floats \(2, 5, 3, 4, 5\), found .* \(2, 5, 4, 5\)"):
        prior(codes, labels, local[:, :, 0])
