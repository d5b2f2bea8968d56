"""The settings of a training run, without importing torch."""

import math
from dataclasses import dataclass

from pipelines.files.errors import InputError


@dataclass
class Settings:
    """Training settings of one stage. `configs/train/*.yaml` hold the values of each stage."""

    steps: int = 10_000
    batch_size: int = 64  # global: of all processes together
    lr: float = 3e-4
    warmup_steps: int = 0  # steps of linear warm-up of the learning rate
    final_lr_fraction: float = 1.0  # cosine decay to this fraction of lr; 1: constant
    decay_share: float = 1.0  # lr decays over this last fraction of the steps; constant before
    beta2: float = 0.999  # Adam's beta2; beta1 is 0.9
    weight_decay: float = 0.0  # decoupled; for matrices and kernels, not for biases and codebooks
    grad_clip: float = 0.0  # largest norm of the gradient; 0: no clipping
    ema_decay: float = 0.0  # moving average of the weights, used for validation and sampling; 0: none
    precision: str = "auto"  # auto, bfloat16 (autocast), float32, float64
    validate_every: int = 500
    patience: int = 0  # stop after this many validations without improvement; 0: never
    checkpoint_every: int = 500
    log_every: int = 50
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    cuda_graph: bool = False  # record a step as a CUDA graph and replay it: one launch, the same bits

    def __post_init__(self) -> None:
        """Raises InputError for a number out of range."""
        for name in ("steps", "batch_size", "validate_every", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected a number >= 1, found {getattr(self, name)}")
        for name in ("lr", "warmup_steps", "final_lr_fraction", "weight_decay", "grad_clip", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}: expected a number >= 0, found {getattr(self, name)}")
        if not 0 < self.decay_share <= 1:
            raise InputError(f"decay_share: expected a number > 0 and <= 1, found {self.decay_share}")
        for name in ("beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: expected a number >= 0 and < 1, found {getattr(self, name)}")
