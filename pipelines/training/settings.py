"""The settings of a training run, without importing torch."""

from dataclasses import dataclass

from pipelines.files.typed import Count, CountOrZero, Part, Share, Size, Typed


@dataclass
class Settings(Typed):
    """Training settings of one stage. `configs/train/*.yaml` hold the values of each stage."""

    steps: Count = 10_000
    batch_size: Count = 64  # global: of all processes together
    accumulate: Count = 1  # micro-batches that a batch passes in, one after another: less memory, the same update
    lr: Size = 3e-4
    warmup_steps: CountOrZero = 0  # steps of linear warm-up of the learning rate
    final_lr_fraction: Size = 1.0  # cosine decay to this fraction of lr; 1: constant
    decay_share: Part = 1.0  # lr decays over this last fraction of the steps; constant before
    beta2: Share = 0.999  # Adam's beta2; beta1 is 0.9
    weight_decay: Size = 0.0  # decoupled; for matrices and kernels, not for biases and codebooks
    grad_clip: Size = 0.0  # largest norm of the gradient; 0: no clipping
    ema_decay: Share = 0.0  # moving average of the weights, used for validation and sampling; 0: none
    precision: str = "auto"  # auto, bfloat16 (autocast), float32, float64
    validate_every: Count = 500
    patience: CountOrZero = 0  # stop after this many validations without improvement; 0: never
    checkpoint_every: Count = 500
    log_every: Count = 50
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    cuda_graph: bool = False  # record a step as a CUDA graph and replay it: one launch, the same bits


@dataclass
class Stage1Settings(Settings):
    """Those that only stage 1 has, besides."""

    freeze_encoder_at: Share = 0.0  # after this share of the steps the encoder learns no more; 0: it learns to the end
