from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from stage2_prior import sampling
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.prior import Prior
from stage2_prior.transformer import Transformer
from stage2_prior.video import GatedPixelCNN3d
from stage2_prior.wavenet import WaveNet


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny() -> Callable[..., GatedPixelCNN]:
    """Makes a small float64 GatedPixelCNN that sees 4 positions far, its logits spread as if it had been trained."""

    def make(**options) -> GatedPixelCNN:
        torch.manual_seed(0)
        sizes = {"num_codes": 7, "channels": 12, "num_layers": 3, "first_kernel_size": 5, "head_channels": 20}
        return spread(GatedPixelCNN(**{**sizes, **options}))

    return make


@pytest.fixture
def tiny_wavenet() -> Callable[..., WaveNet]:
    """Makes a small float64 WaveNet of the dilations 1, 2, 4, 1, 2, its logits spread as if it had been trained."""

    def make(**options) -> WaveNet:
        torch.manual_seed(0)
        sizes = {"num_codes": 7, "residual_channels": 6, "gate_channels": 10, "skip_channels": 24, "num_layers": 5,
                 "dilation_cycle": 3}
        return spread(WaveNet(**{**sizes, **options}))

    return make


@pytest.fixture
def tiny_video() -> Callable[..., GatedPixelCNN3d]:
    """Makes a small float64 GatedPixelCNN3d that sees 3 frames back, its logits spread as if it had been trained."""

    def make(**options) -> GatedPixelCNN3d:
        torch.manual_seed(0)
        sizes = {"num_codes": 7, "channels": 12, "num_layers": 2, "first_kernel_size": 3, "num_temporal_layers": 2,
                 "head_channels": 20}
        return spread(GatedPixelCNN3d(**{**sizes, **options}))

    return make


@pytest.fixture
def tiny_transformer() -> Callable[..., Transformer]:
    """Makes a small float64 Transformer, its logits spread as if it had been trained."""

    def make(**options) -> Transformer:
        torch.manual_seed(0)
        return spread(Transformer(**{"num_codes": 7, "grid": (3, 5), "channels": 20, "num_layers": 2, "num_heads": 2,
                                       **options}))

    return make


@pytest.fixture
def recordings(monkeypatch) -> list[Callable[[], None]]:
    """Steps are recorded at their second call and replayed from then on, as by CUDA graphs; the list of recordings.

    Here PyTorch operations are replayed, on the same tensors: no position may have been recorded in them."""
    made, replayable = [], sampling._replayable

    def recorded(function: Callable[[], None]) -> Callable[[], None]:
        calls, own = [], []

        def call() -> None:
            calls.append(1)
            if len(calls) == 1:
                function()
            elif len(calls) == 2:
                own.append(make_fx(function)())  # runs it too
                made.append(own[0])
            else:
                own[0]()

        return call

    monkeypatch.setattr(sampling, "_replayable", lambda *arguments: [recorded(f) for f in replayable(*arguments)])
    return made


@pytest.fixture
def edge() -> Callable[..., Tensor]:
    """edge(prior, codes, gap, **conditions): uniforms at the upper edge of each code's interval of the CDF, less `gap`.

    A sampler whose probabilities are right to within `gap` draws exactly `codes` from them, and needs that to."""

    @torch.no_grad()
    def make(prior: Prior, codes: Tensor, gap: float, **conditions: Tensor) -> Tensor:
        masses = prior(codes, **conditions).movedim(1, -1).double().softmax(-1)
        edges = masses.cumsum(-1).gather(-1, codes[..., None])[..., 0] - gap
        return edges.clamp(0.0, 1 - 2**-53)

    return make


@torch.no_grad()
def spread(prior: Prior) -> Prior:
    prior = prior.double()
    for parameter in prior.parameters():  # biases, which start at zero, take part too
        parameter += 0.1 * torch.randn_like(parameter)
    for head in prior.frame.heads if isinstance(prior, GatedPixelCNN3d) else prior.heads:
        last = head if isinstance(prior, Transformer) else head[3]
        last.weight *= 4 if isinstance(prior, Transformer) else 3
    return prior
