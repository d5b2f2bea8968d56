"""The GPU against the CPU: codes, samples, likelihoods and images of the pretrained runs, and of small random priors.

In float64 both have to give the same codes. In float32 they may differ where two codes are nearly tied: at about 1e-6
of draws, and of encodings; TF32, 10 bits of mantissa, moves about 1e-3 of them, hence the limit between the two.
"""

import copy
import json
import logging
import shutil

import torch
from torch import Tensor

from benchmarks.gpu_check.driver import ROOT
from benchmarks.gpu_check.precision import tf32
from benchmarks.gpu_check.recorder import Recorder, Skipped, expect
from benchmarks.gpu_check.verbs import figures, on_device, run_verb

NEEDS = ("hydra", "omegaconf", "einops", "safetensors")
MOST_DIFFERENT = 2e-4  # share of float32 codes
CPU = torch.device("cpu")
PRETRAINED = ROOT / "pretrained"


def main(recorder: Recorder) -> None:
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())
    logging.getLogger("stage2_prior").addHandler(handler)
    compare(recorder)
    with recorder.check("no warning of a slower way while sampling"):
        expect(not warned, f"expected no warnings, found {warned}")


def compare(recorder: Recorder) -> None:
    from pipelines import load

    n = 8 if recorder.small else 128
    here, there = (load(PRETRAINED / "mnist", device) for device in ("cpu", recorder.device))
    grid, labels = here.grid, torch.arange(n)[:, None] % 10
    codes = torch.randint(here.num_codes, (n, *grid))  # unless the samples succeed
    with recorder.check("samples of pretrained/mnist in float64 equal naive sampling on the CPU") as found:
        codes = equal_samples(there.stage2, uniforms(n, *grid), {"labels": labels})
        found.note(f"{codes.numel()} codes")
    with recorder.check("samples of pretrained/mnist in float32 equal naive sampling on the device") as found:
        few_differ(found, *float32_samples(there.stage2, uniforms(n, *grid), labels, recorder.device))
    images = here.decode(codes)
    with recorder.check("images decoded on both: at most one level apart") as found:
        difference = (there.decode(codes).int() - images.int()).abs()
        found.note(f"{float((difference > 0).float().mean()):.2e} of pixels differ")
        expect(int(difference.max()) <= 1, f"expected at most 1 of 255 levels, found {int(difference.max())}")
    with recorder.check("codes of pretrained/mnist as commands compute them") as found:
        few_differ(found, there.encode(images), here.encode(images))
    with recorder.check("the same with TF32 convolutions"):
        different = share_different(encoded(there.stage1, images, recorder.device, allowed=True), here.encode(images))
        recorder.measure("share of codes that differ with TF32 on", different, "")
        different = share_different(encoded(there.stage1, images, recorder.device), here.encode(images))
        recorder.measure("share of codes that differ with TF32 off", different, "", at_most=MOST_DIFFERENT)
    with recorder.check("codes of pretrained/mnist in float64 equal the CPU's"):
        exact = [encoded(copy.deepcopy(run.stage1).double(), images, device)
                 for run, device in ((there, recorder.device), (here, "cpu"))]
        expect(torch.equal(*exact), f"expected equal codes, found {share_different(*exact):.2e} different")
    with recorder.check("log-likelihood of codes: float32 here, float64 on the CPU") as found:
        with torch.no_grad(), tf32(False):
            one = there.stage2.log_prob(codes.to(recorder.device), labels.to(recorder.device)).cpu().double()
            two = copy.deepcopy(here.stage2).double().log_prob(codes, labels)
        error = float(((one - two) / two).abs().max())
        found.note(f"largest relative error {error:.1e}")
        expect(error <= 1e-4, f"expected at most 1e-4, found {error:.1e}; TF32 would give about 1e-3")
    full_size(recorder)
    small_priors(recorder)
    wavenet(recorder)
    with recorder.check("metrics.json of pretrained/mnist, from the data") as found:
        same_metrics(recorder, found)


def uniforms(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def equal_samples(prior, u: Tensor, conditions: dict, **rule) -> Tensor:
    """The codes, float64 on the prior's device. Raises AssertionError where naive sampling on the CPU draws others."""
    from stage2_prior.sampling import sample, sample_naive

    device = next(prior.parameters()).device
    exact = copy.deepcopy(prior).double().eval()
    known = rule.pop("known", None)
    found = sample(exact, u.to(device), **{name: x.to(device) for name, x in conditions.items()}, **rule,
                   known=None if known is None else known.to(device)).cpu()
    expected = sample_naive(copy.deepcopy(exact).to(CPU), u, **conditions, **rule, known=known)
    different = share_different(found, expected)
    expect(different == 0, f"expected equal codes, found {different:.2e} of them different")
    return found


def float32_samples(prior, u: Tensor, labels: Tensor, device: str) -> tuple[Tensor, Tensor]:
    from stage2_prior.sampling import sample, sample_naive

    inputs = u.to(device), labels.to(device)
    return sample(prior, *inputs).cpu(), sample_naive(prior, *inputs).cpu()


def few_differ(found, one: Tensor, two: Tensor) -> None:
    """Where a draw differs, the later codes of its sample may too: samples are what is counted there."""
    different = share_different(one, two)
    found.note(f"{different:.2e} of {one.numel()} codes differ")
    samples = int((one != two).flatten(1).any(1).sum())
    expect(different <= MOST_DIFFERENT or samples <= 1, f"expected at most {MOST_DIFFERENT} of codes, or one sample, "
           f"found {different:.2e} in {samples} samples")


def share_different(one: Tensor, two: Tensor) -> float:
    return float((one.cpu() != two.cpu()).double().mean())


@torch.no_grad()
def encoded(autoencoder, images: Tensor, device: str, allowed: bool = False) -> Tensor:
    """Codes by the modules themselves, whatever `encode` sets."""
    dtype = next(autoencoder.parameters()).dtype
    with tf32(allowed):
        z_e = autoencoder.encoder(autoencoder.likelihood.to_network(images.to(device)).to(dtype))
        return autoencoder.bottleneck(z_e).codes.cpu()


def full_size(recorder: Recorder) -> None:
    """At a size where naive sampling takes too long: given all codes, one forward pass has to draw each of them."""
    from stage2_prior.pixelcnn import GatedPixelCNN

    torch.manual_seed(2)
    side, (channels, layers) = (6, (8, 3)) if recorder.small else (32, (64, 15))
    prior = sharpened(GatedPixelCNN(512, channels=channels, num_layers=layers)).to(recorder.device)
    for dtype, n, limit in ((torch.float32, 64, MOST_DIFFERENT), (torch.float64, 8, 0.0)):
        name = str(dtype).removeprefix("torch.")
        with recorder.check(f"{n} grids of {side}x{side}: one forward pass in {name} draws every code") as found:
            different = redrawn(copy.deepcopy(prior).to(dtype), uniforms(n, side, side).to(recorder.device))
            found.value(different, "of codes differ")
            expect(different <= limit, f"expected at most {limit} of codes to differ, found {different:.2e}")


@torch.no_grad()
def redrawn(prior, u: Tensor) -> float:
    """The share of sampled codes that a forward pass over all of them, without TF32, does not draw."""
    from einops import rearrange

    from stage2_prior.rule import Rule
    from stage2_prior.sampling import draw, sample

    codes = sample(prior, u)
    with tf32(False):
        logits = rearrange(prior(codes), "n k h w -> (n h w) k")
    return share_different(draw(logits, u.flatten(), Rule(1.0, None, None)), codes.flatten())


def small_priors(recorder: Recorder) -> None:
    """Random priors of every kind, with every rule of drawing, on non-square grids."""
    from stage2_prior.pixelcnn import GatedPixelCNN
    from stage2_prior.video import GatedPixelCNN3d

    torch.manual_seed(0)
    cases = {
        "PixelCNN 9 x 13": (GatedPixelCNN(37, 1, channels=24, num_layers=4), (9, 13), {}),
        "PixelCNN, labels, local features": (GatedPixelCNN(37, 1, channels=24, num_layers=3, num_classes=(10, 6),
                                                           local_channels=5), (5, 8), {}),
        "PixelCNN, three codebooks": (GatedPixelCNN(17, 3, channels=16, num_layers=3), (4, 6, 3), {}),
        "PixelCNN, 15 layers of 64": (GatedPixelCNN(512, 1, channels=64, num_layers=15), (6, 8), {}),
        "PixelCNN, top-k, top-p, temperature": (GatedPixelCNN(37, 1, channels=16, num_layers=3), (6, 7),
                                                {"top_k": 9, "top_p": 0.8, "temperature": 0.9}),
        "PixelCNN, likeliest code": (GatedPixelCNN(37, 1, channels=16, num_layers=3), (6, 7), {"temperature": 0.0}),
        "PixelCNN, upper half known": (GatedPixelCNN(37, 1, channels=16, num_layers=3), (6, 7), {"known": True}),
        "video prior": (GatedPixelCNN3d(29, 1, channels=16, num_layers=2, num_temporal_layers=2), (4, 3, 5), {}),
        "video prior, actions": (GatedPixelCNN3d(29, 1, channels=16, num_layers=2, num_temporal_layers=2,
                                                 local_channels=3), (3, 4, 3), {}),
    }
    for name, (prior, grid, rule) in cases.items():
        with recorder.check(f"{name}: float64 equals naive on the CPU"):
            u, prior = uniforms(5, *grid), sharpened(prior).to(recorder.device)
            equal_samples(prior, u, conditions_of(prior, u), **known_half(prior, u, rule))


def known_half(prior, u: Tensor, rule: dict) -> dict:
    if not rule.get("known"):
        return rule
    known = torch.randint(prior.num_codes, u.shape)
    known[:, u.shape[1] // 2 :] = -1
    return rule | {"known": known}


def conditions_of(prior, u: Tensor) -> dict[str, Tensor]:
    """Random labels and local features, where a prior has them."""
    grid, found = u.shape[1:] if prior.num_codebooks == 1 else u.shape[1:-1], {}
    if prior.num_classes:
        found["labels"] = torch.stack([torch.randint(count, (len(u),)) for count in prior.num_classes], 1)
    if prior.local_channels:
        found["local"] = torch.randn(len(u), prior.local_channels, *grid, dtype=torch.float64)
    return found


@torch.no_grad()
def sharpened(prior):
    """With logits as wide as a trained prior's: an untrained one is close to uniform, and hides what is wrong."""
    for head in (module for module in prior.modules() if isinstance(module, torch.nn.Linear)):
        head.weight.mul_(2)
    return prior.eval()


def wavenet(recorder: Recorder) -> None:
    from pipelines import load
    from stage2_prior.wavenet import WaveNet

    torch.manual_seed(1)
    prior = load(PRETRAINED / "fsdd", recorder.device).stage2
    with recorder.check("pretrained/fsdd, a WaveNet: float64 equals naive on the CPU"):
        u = uniforms(3, 24 if recorder.small else 64)
        equal_samples(prior, u, conditions_of(prior, u))
    with recorder.check("WaveNet, two codebooks: float64 equals naive on the CPU"):
        u = uniforms(4, 20, 2)
        random = sharpened(WaveNet(33, 2, residual_channels=16, gate_channels=32, skip_channels=32, num_layers=6))
        equal_samples(random.to(recorder.device), u, {})


def same_metrics(recorder: Recorder, found) -> None:
    """Weights were rounded to half precision after metrics.json was measured: 0.5 % are allowed for that."""
    root = recorder.options.get("mnist_root")
    if root is None:
        raise Skipped("needs --mnist-root, a folder with MNIST/raw")
    run = recorder.work / "mnist"
    shutil.copytree(PRETRAINED / "mnist", run)
    common = ["experiment=mnist", "run=mnist", f"runs_dir={recorder.work}", f"data.root={root}", *on_device(recorder)]
    run_verb(recorder, "extract_codes", *common)
    run_verb(recorder, "evaluate", *common, "evaluate.split=validation", "evaluate.classifier=false",
             "evaluate.samples=0")
    expected, measured = json.loads((PRETRAINED / "mnist" / "metrics.json").read_text()), figures(run)
    pairs = {key: (measured["bits_per_dim"][key], value) for key, value in expected["bits_per_dim"].items()}
    pairs["nmse"] = measured["nmse"], expected["nmse"]
    worst = max(abs(one / two - 1) for one, two in pairs.values())
    found.note(f"largest relative difference {worst:.1e}")
    expect(worst <= 5e-3, f"expected within 0.5 %, found {pairs}")
