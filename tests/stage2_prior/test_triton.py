"""The Triton kernels without a GPU: interpreted, equal to naive sampling; compiled, without spills.

Triton decides at its import whether it interprets, so those tests run in a process of their own, which
`test_interpreted` starts on this file. What needs a GPU stands beside the other tests of sampling.
"""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stage2_prior import triton_compiler
from stage2_prior.codebooks import CodebookPrior
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.rule import Rule
from stage2_prior.sampling import draw, sample, sample_naive
from stage2_prior.wavenet import WaveNet

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA only")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from stage2_prior import triton_draw, triton_pixelcnn, triton_wavenet  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_interpreted")
not_interpreted = pytest.mark.skipif(INTERPRETED, reason="needs Triton's compiler")
N, GRID = 2, (3, 4)


class SteppedPixelCNN(GatedPixelCNN):
    """Without the compiled loop, as on a GPU."""

    def compiled_loop(self) -> None:
        return None


@pytest.fixture
def rows(monkeypatch) -> list[int]:
    """The kernels serve tensors on a CPU; a list of the widths of the rows and spans that they were asked to draw."""
    drawn, launch = [], triton_draw.DrawingKernel.draw

    def counted(self: triton_draw.DrawingKernel, codes: Tensor, *others: Tensor) -> None:
        drawn.append(codes.shape[1])
        launch(self, codes, *others)

    monkeypatch.setattr(triton_draw.DrawingKernel, "draw", counted)
    monkeypatch.setattr(triton_compiler, "pixelcnn", lambda device: triton_pixelcnn)
    monkeypatch.setattr(triton_compiler, "wavenet", lambda device: triton_wavenet)
    monkeypatch.setattr(triton_compiler, "give_up", fail)
    return drawn


def fail(error: Exception) -> None:
    raise error


def arguments_for(prior: CodebookPrior, n: int = N, grid: tuple[int, ...] = GRID) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (n, *grid, prior.num_codebooks) if prior.num_codebooks > 1 else (n, *grid)
    arguments = {"uniforms": torch.rand(shape, dtype=torch.float64, generator=generator)}
    if prior.num_classes:
        arguments["labels"] = torch.stack([torch.arange(n) % count for count in prior.num_classes], dim=1)
    if prior.local_channels:
        arguments["local"] = torch.randn(n, prior.local_channels, *grid, generator=generator, dtype=torch.float64)
    return arguments


@pytest.mark.slow  # 60 tests of kernels by an interpreter
@not_interpreted
def test_interpreted(pytestconfig):
    """Runs the tests of this file that are marked so, all of them."""
    pytest_alone = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [*pytest_alone, "-k", "interpreted_", __file__],
        cwd=pytestconfig.rootpath,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) passed", done.stdout)
    assert counts is not None and int(counts[1]) >= 40, done.stdout
    assert " skipped" not in done.stdout and " failed" not in done.stdout, done.stdout


PRIORS = {
    "plain": {},
    "one layer": {"num_layers": 1},
    "17 channels, padded to 32": {"channels": 17, "head_channels": 5, "num_codes": 19},
    "wide kernels": {"kernel_size": 5, "first_kernel_size": 3},
    "wider still": {"kernel_size": 7, "first_kernel_size": 7},
    "labels and local": {"num_classes": (3, 2), "local_channels": 2},
    "codebooks": {"num_codebooks": 3, "num_codes": 4},
    "all": {"num_codebooks": 2, "num_classes": (4,), "local_channels": 3},
}


@interpreted
@pytest.mark.parametrize(
    ("name", "temperature"), [*((name, 0.8) for name in PRIORS), ("plain", 1.0), ("plain", 0.0), ("all", 0.0)]
)
def test_interpreted_equals_naive(tiny, rows, name, temperature):
    prior = tiny(**PRIORS[name])
    arguments = arguments_for(prior)
    expected = sample_naive(prior, **arguments, temperature=temperature)
    prior.__class__ = SteppedPixelCNN
    assert torch.equal(sample(prior, **arguments, temperature=temperature), expected)
    assert rows == [4, 4, 4]
    assert temperature == 0.0 or len(expected.unique()) > prior.num_codes // 2  # they use most codes


@interpreted
@pytest.mark.parametrize("name", ["wide kernels", "all"])
def test_interpreted_probabilities_are_exact(tiny, edge, rows, name):
    """To 1e-9, by uniforms at the upper edge of each code's interval."""
    prior = tiny(**PRIORS[name])
    arguments = arguments_for(prior)
    shape = arguments.pop("uniforms").shape
    codes = torch.randint(prior.num_codes, shape, generator=torch.Generator().manual_seed(5))
    prior.__class__ = SteppedPixelCNN
    assert torch.equal(sample(prior, edge(prior, codes, 1e-9, **arguments), **arguments), codes)
    assert not torch.equal(sample(prior, edge(prior, codes, -1e-9, **arguments), **arguments), codes)
    assert len(rows) == 6


@interpreted
@pytest.mark.parametrize("known", ["prefix", "row", "scattered"])
def test_interpreted_keeps_known_codes(tiny, rows, known):
    prior = tiny(num_codebooks=2)
    arguments = arguments_for(prior)
    number = torch.arange(N * 24).reshape(N, 3, 4, 2)
    free = {"prefix": number % 24 >= 9, "row": (number % 24) // 8 != 1, "scattered": number % 3 > 0}[known]
    given = torch.randint(7, number.shape, generator=torch.Generator().manual_seed(3)).masked_fill(free, -1)
    expected = sample_naive(prior, **arguments, known=given)
    prior.__class__ = SteppedPixelCNN
    assert torch.equal(sample(prior, **arguments, known=given), expected)
    assert len(rows) == {"prefix": 2, "row": 2, "scattered": 3}[known]  # not where all is known


@interpreted
@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (4, 1)])
def test_interpreted_on_any_grid(tiny, rows, grid):
    prior = tiny()
    arguments = arguments_for(prior, grid=grid)
    expected = sample_naive(prior, **arguments)
    prior.__class__ = SteppedPixelCNN
    assert torch.equal(sample(prior, **arguments), expected)


@interpreted
def test_interpreted_frames_of_a_video(tiny_video, rows):
    prior = tiny_video(local_channels=2)
    uniforms = torch.rand(2, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    local = torch.randn(2, 2, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = sample_naive(prior, uniforms, local=local)
    prior.compiled_loop = lambda: None
    assert torch.equal(sample(prior, uniforms, local=local), expected)
    assert rows == [3] * 4


@interpreted
def test_interpreted_in_float32_a_sample_does_not_depend_on_its_batchmates(tiny, rows):
    prior = tiny().float()
    prior.__class__ = SteppedPixelCNN
    uniforms = arguments_for(prior)["uniforms"]
    together = sample(prior, uniforms)
    for i in range(N):
        assert torch.equal(sample(prior, uniforms[i : i + 1])[0], together[i])
    assert len(rows) == 3 * (1 + N)


@interpreted
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_interpreted_broken_weights_are_an_error(tiny, rows, temperature):
    prior = tiny()
    prior.__class__ = SteppedPixelCNN
    uniforms = arguments_for(prior)["uniforms"]
    with torch.no_grad():
        prior.heads[0][3].bias[2] = -torch.inf  # a code that is impossible
    assert (sample(prior, uniforms, temperature=temperature) != 2).all()
    for layer in (prior.heads[0][3], prior.heads[0][1], prior.layers[1].out):
        before = layer.bias.detach().clone()
        with torch.no_grad():
            layer.bias[2] = torch.nan
        with pytest.raises(ValueError, match="expected finite numbers, found NaN"):
            sample(prior, uniforms, temperature=temperature)
        with torch.no_grad():
            layer.bias.copy_(before)


WAVENETS = {
    "plain": {},
    "one layer": {"num_layers": 1},
    "17 channels, padded to 32": {"residual_channels": 17, "skip_channels": 33, "num_codes": 19},
    "kernels of 3": {"kernel_size": 3},
    "labels": {"num_classes": (3, 2)},
    "all": {"num_codebooks": 2, "num_classes": (4,), "local_channels": 3},
}


@interpreted
@pytest.mark.parametrize(
    ("name", "temperature"), [*((name, 0.8) for name in WAVENETS), ("plain", 1.0), ("plain", 0.0), ("all", 0.0)]
)
def test_interpreted_wavenet_equals_naive(tiny_wavenet, monkeypatch, rows, name, temperature):
    """In spans of 5 positions, 3 with local features, and then with known codes; the longest ring has 4 slots, or 8."""
    monkeypatch.setattr(triton_wavenet, "SPAN", 5)
    monkeypatch.setattr(triton_wavenet, "LOCAL_SPAN", 3)
    prior = tiny_wavenet(**WAVENETS[name])
    arguments = arguments_for(prior, grid=(13,))
    known = torch.full(arguments["uniforms"].shape, -1)
    if name == "all":
        known[0, :3], known[:, 7] = 1, 2
    expected = sample_naive(prior, **arguments, temperature=temperature, known=known)
    prior.compiled_loop = lambda: None
    assert torch.equal(sample(prior, **arguments, temperature=temperature, known=known), expected)
    assert rows == ([3, 3, 3, 3, 1] if name == "all" else [5, 5, 3])


@interpreted
@pytest.mark.parametrize("name", ["kernels of 3", "all"])
def test_interpreted_wavenet_probabilities_are_exact(tiny_wavenet, edge, rows, name):
    prior = tiny_wavenet(**WAVENETS[name])
    arguments = arguments_for(prior, grid=(10,))
    shape = arguments.pop("uniforms").shape
    codes = torch.randint(prior.num_codes, shape, generator=torch.Generator().manual_seed(5))
    prior.compiled_loop = lambda: None
    assert torch.equal(sample(prior, edge(prior, codes, 1e-9, **arguments), **arguments), codes)
    assert not torch.equal(sample(prior, edge(prior, codes, -1e-9, **arguments), **arguments), codes)
    assert len(rows) == 2


@interpreted
def test_interpreted_wavenet_with_broken_weights_is_an_error(tiny_wavenet, rows):
    prior = tiny_wavenet()
    prior.compiled_loop = lambda: None
    with torch.no_grad():
        prior.layers[2].dilated.bias[3] = torch.nan
    with pytest.raises(ValueError, match="expected finite numbers, found NaN"):
        sample(prior, arguments_for(prior, grid=(4,))["uniforms"])
    assert rows == [4]


@triton.jit
def draw_each(logits, uniforms, codes, temperature, K: tl.constexpr, KP: tl.constexpr, GREEDY: tl.constexpr):
    i = tl.program_id(0)
    code = tl.arange(0, KP)
    row = tl.load(logits + i * K + code, mask=code < K, other=0.0)
    drawn, broken = triton_draw.draw_code(row, tl.load(uniforms + i), tl.load(temperature), K, KP, GREEDY)
    tl.store(codes + i, tl.where(broken, -7, drawn))


def drawn_by_kernel(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    codes = torch.full((len(logits),), -2, dtype=torch.int32)
    k = logits.shape[1]
    t = torch.tensor([temperature], dtype=torch.float64)
    draw_each[(len(logits),)](logits, uniforms, codes, t, k, triton.next_power_of_2(k), temperature == 0.0)
    return codes.long()


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 1e-300, 0.0])
def test_interpreted_draw_is_that_of_tensors(dtype, temperature):
    """With many ties (rounded logits), impossible codes, and uniforms at both ends and on edges of the CDF."""
    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(60, 21, generator=generator, dtype=dtype) * 3).round(decimals=0) + 1000.0
    logits[torch.rand(60, 21, generator=generator) < 0.2] = -torch.inf
    logits[:20] = torch.tensor([1.0, 0, 1, 1, 1, *[0] * 16]).log()  # exact quarters
    uniforms = torch.rand(60, generator=generator, dtype=torch.float64)
    uniforms[:5] = torch.tensor([0.0, 0.25, 0.25 - 2**-54, 0.75, 1 - 2**-53], dtype=torch.float64)
    uniforms[30:32] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    codes = drawn_by_kernel(logits, uniforms, temperature)
    assert torch.equal(codes, draw(logits, uniforms, Rule(temperature)))
    assert len(codes.unique()) > 5


@interpreted
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_interpreted_draw_says_what_is_no_distribution(value):
    logits = torch.zeros(3, 5)
    logits[0, 3], logits[1] = value, -torch.inf
    assert drawn_by_kernel(logits, torch.full((3,), 0.5, dtype=torch.float64), 1.0).tolist() == [-7, -7, 2]


@not_interpreted
@pytest.mark.parametrize(
    ("options", "rule"),
    [({"channels": 129}, Rule()), ({"num_codes": 4097}, Rule()), ({}, Rule(top_k=3)), ({}, Rule(top_p=0.5))],
)
@torch.no_grad()
def test_other_sizes_and_rules_go_by_steps(tiny, monkeypatch, options, rule):
    monkeypatch.setattr(triton_compiler, "pixelcnn", lambda device: triton_pixelcnn)
    stepper = tiny(**options).stepper(1, GRID, None, None)
    assert stepper.row_kernel(rule) is None
    assert tiny().stepper(1, GRID, None, None).row_kernel(Rule()) is not None
    assert tiny().bfloat16().stepper(1, GRID, None, None).row_kernel(Rule()) is None
    assert tiny().stepper(513, GRID, None, None).row_kernel(Rule()) is None


@not_interpreted
def test_on_a_cpu_there_is_no_kernel(tiny):
    assert tiny().stepper(1, GRID, None, None).row_kernel(Rule()) is None


@not_interpreted
def test_where_the_kernel_fails_the_steps_draw_the_same_codes_with_one_line(tiny, monkeypatch, caplog):
    """Tensors of a CPU are what Triton cannot launch a kernel for, with a GPU and without."""
    monkeypatch.setattr(triton_compiler, "_failure", None)
    find = triton_compiler.pixelcnn
    monkeypatch.setattr(triton_compiler, "pixelcnn", lambda device: find(torch.device("cuda")))
    prior = tiny()
    uniforms = arguments_for(prior)["uniforms"]
    expected = sample_naive(prior, uniforms)
    prior.__class__ = SteppedPixelCNN
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(sample(prior, uniforms), expected)
    (record,) = caplog.records
    assert record.name == "stage2_prior.triton_compiler" and "\n" not in record.getMessage()
    assert record.getMessage().startswith("Triton cannot compile the sampling kernel (CompilerError: ")


@not_interpreted
def test_without_triton_one_line_says_so(monkeypatch, caplog):
    monkeypatch.setattr(triton_compiler, "_failure", None)
    for name in ("triton_draw", "triton_pixelcnn", "triton_wavenet"):
        monkeypatch.delitem(sys.modules, f"stage2_prior.{name}")
    monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.WARNING):
        assert triton_compiler.pixelcnn(torch.device("cuda")) is None
        assert triton_compiler.wavenet(torch.device("cuda")) is None
    assert [record.getMessage() for record in caplog.records] == [
        "Triton cannot compile the sampling kernel (ModuleNotFoundError: import of triton halted; None in "
        "sys.modules): replaying recorded steps, several times slower"
    ]


@not_interpreted
@torch.no_grad()
def test_a_wavenet_of_other_sizes_and_rules_goes_by_steps(tiny_wavenet, monkeypatch):
    monkeypatch.setattr(triton_compiler, "wavenet", lambda device: triton_wavenet)

    def kernel(rule: Rule, **options: int) -> object:
        return tiny_wavenet(**options).stepper(1, (9,), None, None).row_kernel(rule)

    assert kernel(Rule()) is not None
    assert kernel(Rule(top_k=3)) is None and kernel(Rule(top_p=0.5)) is None
    assert kernel(Rule(), residual_channels=129, gate_channels=256) is None
    assert kernel(Rule(), gate_channels=256, skip_channels=257) is None
    assert kernel(Rule(), num_codes=4097) is None


PUBLISHED = {
    "PixelCNN": (GatedPixelCNN, {}, GRID),
    "PixelCNN, 48 channels": (GatedPixelCNN, {"channels": 48, "num_codebooks": 2, "num_codes": 100}, GRID),
    "WaveNet": (WaveNet, {"residual_channels": 64, "gate_channels": 128, "skip_channels": 256}, (9,)),
}


@not_interpreted
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [
    next(iter(PUBLISHED)), *(pytest.param(name, marks=pytest.mark.slow) for name in list(PUBLISHED)[1:])])
def test_compiles_without_spills_and_without_tensor_cores(tmp_path, monkeypatch, capability, dtype, name):
    """For A100 and H100: exact multiply-adds, weights read 16 bytes at a time, in float32 everything in registers."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    if not ((tools / "ptxas").exists() and (tools / "cuobjdump").exists()):
        pytest.skip("this Triton comes without NVIDIA's assembler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_compiler, "pixelcnn", lambda device: triton_pixelcnn)
    monkeypatch.setattr(triton_compiler, "wavenet", lambda device: triton_wavenet)
    kind, options, grid = PUBLISHED[name]
    prior = kind(**options).to(dtype)
    with torch.no_grad():
        kernel = prior.stepper(2, grid, None, None).row_kernel(Rule())
    codes = torch.zeros(2, grid[-1], prior.num_codebooks, dtype=torch.int64)
    arguments = kernel.arguments(codes, codes, codes.double(), torch.ones((), dtype=torch.int8))
    names = {torch.int64: "*i64", torch.int32: "*i32", torch.int8: "*i8"}
    names |= {torch.float64: "*fp64", torch.float32: "*fp32"}
    types = [names[x.dtype] if isinstance(x, Tensor) else "i32" for x in arguments]
    parameters = kernel.kernel.arg_names
    signature = dict(zip(parameters, [*types, *["constexpr"] * len(kernel.constants)], strict=True))
    pointers = [i for i, kind in enumerate(types) if kind.startswith("*")][3:]
    aligned = {(i,): [["tt.divisibility", 16]] for i in pointers}  # as PyTorch allocates
    source = ASTSource(kernel.kernel, signature, constexprs=kernel.constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernel.options)
    (tmp_path / "kernel.cubin").write_bytes(made.asm["cubin"])
    command = [tools / "cuobjdump", "-res-usage", "-sass", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"\b(HMMA|DMMA|HGMMA)\b", report)
    if dtype == torch.float32:  # float64 is for comparisons: it may spill
        assert int(re.search(r"STACK:(\d+)", report)[1]) == 0 and int(re.search(r"LOCAL:(\d+)", report)[1]) == 0
        assert not re.search(r"\b(LDL|STL)\b", report)
    assert len(re.findall(r"\bLDG\.E\.128\b", report)) >= 20
    assert ("FFMA" if dtype == torch.float32 else "DFMA") in report
    assert int(re.search(r"REG:(\d+)", report)[1]) * 32 * kernel.options["num_warps"] <= 65536  # of a multiprocessor
