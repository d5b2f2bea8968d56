"""What the project builds on, by itself: convolutions in both layouts, the fused optimiser, a recorded step.

Errors are relative, |found - expected| / |expected| in the Euclidean norm, against float64 on the CPU. bfloat16 has 8
bits: rounding operands and result leaves about 2^-9 each, so 1e-2 is a wrong kernel, not rounding. TF32, with 10 bits,
leaves about 3e-4; float32 about 1e-6, and Winograd's algorithm, which cuDNN may choose, some times that.
"""

import copy
import itertools

import torch
from torch import Tensor, nn

from benchmarks.gpu_check.precision import tf32
from benchmarks.gpu_check.recorder import Recorder, expect

NEEDS = ()
LAYERS = {
    "conv2d": (lambda: nn.Conv2d(32, 48, 3, padding=1), (4, 32, 17, 15), torch.channels_last),
    "conv2d stride 2": (lambda: nn.Conv2d(32, 48, 4, stride=2, padding=1), (4, 32, 16, 20), torch.channels_last),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(32, 48, 4, stride=2, padding=1), (4, 32, 9, 7),
                         torch.channels_last),
    "conv3d": (lambda: nn.Conv3d(16, 24, 3, padding=1), (2, 16, 5, 9, 7), torch.channels_last_3d),
    "conv1d": (lambda: nn.Conv1d(32, 48, 4, stride=2, padding=1), (4, 32, 96), torch.contiguous_format),
}
BFLOAT16, FLOAT32 = 1e-2, 5e-5


def main(recorder: Recorder) -> None:
    torch.manual_seed(0)
    for (name, (make, shape, layout)), bf16 in itertools.product(LAYERS.items(), (True, False)):
        for memory_format in {torch.contiguous_format, layout}:
            word = str(memory_format).removeprefix("torch.")
            with recorder.check(f"{name}, {'bfloat16' if bf16 else 'float32'}, {word}") as found:
                errors = convolution_errors(make(), torch.randn(shape), memory_format, bf16, recorder.device)
                found.note(", ".join(f"{part} {error:.1e}" for part, error in errors.items()))
                limit = BFLOAT16 if bf16 else FLOAT32
                expect(max(errors.values()) <= limit, f"expected errors <= {limit}, found {errors}")
    with recorder.check("fused AdamW equals the plain one, with clipping"):
        fused_equals_plain(recorder.device)
    if recorder.device == "cuda":
        with recorder.check("a training step as a CUDA graph equals the plain one"):
            recorded_step()
        with recorder.check("a pinned batch copied without blocking arrives whole"):
            pinned_copies()


def convolution_errors(layer: nn.Module, x: Tensor, memory_format: torch.memory_format, bf16: bool, device: str
                       ) -> dict[str, float]:
    """Relative errors of output and gradients; float32 without TF32."""
    exact, x64 = copy.deepcopy(layer).double(), x.double().requires_grad_()
    expected = exact(x64)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    own = layer.to(device).to(memory_format=memory_format) if x.ndim > 3 else layer.to(device)
    own_x = x.to(device)
    own_x = (own_x.contiguous(memory_format=memory_format) if x.ndim > 3 else own_x).requires_grad_()
    with tf32(False), torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        found = own(own_x)
        found.backward(upstream.to(device, found.dtype))
    return {"output": relative(found, expected), "input": relative(own_x.grad, x64.grad),
            "weight": relative(own.weight.grad, exact.weight.grad), "bias": relative(own.bias.grad, exact.bias.grad)}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double().cpu() - expected).norm() / expected.norm())


def fused_equals_plain(device: str) -> None:
    models = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(device)]
    models.append(copy.deepcopy(models[0]))
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, **how)
                  for model, how in zip(models, ({"fused": True}, {"foreach": False, "fused": False}))]
    for _ in range(10):
        x = torch.randn(4, 3, 8, 8, device=device)
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad(set_to_none=True)
            model(x).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    for one, two in zip(*(model.parameters() for model in models)):
        # ten steps of at most 1e-3; a tenth of one step is far above rounding, far below another rule
        expect(bool((one - two).abs().max() <= 1e-4), f"expected equal weights, found {float((one - two).abs().max())}")


def recorded_step() -> None:
    """Forward, backward, fused capturable AdamW, recorded once and replayed on new values."""
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).cuda()
    recorded, inputs = copy.deepcopy(plain), torch.randn(12, 8, 16, device="cuda")
    models = (plain, recorded)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-2, device="cuda"), fused=True,
                                    capturable=True) for model in models]
    x, graph, side = torch.zeros_like(inputs[0]), torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        optimizer.step()

    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for batch in inputs[:3]:
            x.copy_(batch)
            step(recorded, optimizers[1], x)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        step(recorded, optimizers[1], x)
    for batch in inputs[3:]:
        x.copy_(batch)
        graph.replay()
    for batch in inputs:
        step(plain, optimizers[0], batch)
    for one, two in zip(plain.parameters(), recorded.parameters()):
        # twelve steps of at most 1e-2; rounding under Adam moves a weight by far less than a tenth of one
        expect(bool((one - two).abs().max() <= 1e-3), f"found a difference of {float((one - two).abs().max())}")


def pinned_copies() -> None:
    batches = [torch.full((64, 3, 64, 64), number, dtype=torch.uint8).pin_memory() for number in range(20)]
    copies = [batch.to("cuda", non_blocking=True) for batch in batches]
    sums = [int(copied.long().sum()) for copied in copies]
    expect(sums == [number * batches[0].numel() for number in range(20)], f"found sums {sums}")
