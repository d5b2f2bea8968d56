"""The parts in their order, with their limits: 475 of 480 seconds where each takes all of its own."""

from dataclasses import dataclass

RESERVE_S = 5.0  # for the table


@dataclass(frozen=True)
class Part:
    """A module of parts/. Neighbours with the same `group` run side by side."""

    name: str
    limit_s: float
    what: str
    group: str = ""
    cuda_only: bool = False  # what it looks at does not exist on a CPU


PARTS = (
    Part("versions", 20, "driver, versions, imports"),
    Part("tests", 60, "tests that require a GPU", "tests", cuda_only=True),
    Part("layers", 60, "convolutions in both layouts, fused AdamW, graphs", "tests"),
    Part("digits", 130, "images through all commands", "commands"),
    Part("components", 130, "every bottleneck and likelihood", "commands"),
    Part("audio", 130, "audio through all commands, speaker conversion", "commands"),
    Part("video", 130, "video through all commands", "commands"),
    Part("chain", 130, "codes of codes through all commands", "commands"),
    Part("processes", 130, "data in main memory, torchrun, one and two ranks", "commands"),
    Part("reference", 70, "codes, samples and figures against the CPU", "comparisons"),
    Part("synchronisations", 70, "five steps of each task under set_sync_debug_mode", "comparisons", cuda_only=True),
    Part("speed_steps", 90, "training steps against eager float32, share of peak"),
    Part("speed_sampling", 40, "sampling: PixelCNN, WaveNet"),
    Part("speed_quantiser", 20, "quantiser against the bytes it has to move"),
    Part("resume", 45, "two kills, two resumes, the same weights"),
)
# What is left goes to the paper's CIFAR-10; below this it is not worth its start-up.
LAST = Part("cifar10", 45, "the paper's CIFAR-10 for the time left")


def names() -> list[str]:
    return [part.name for part in (*PARTS, LAST)]


def groups(parts: list[Part]) -> list[list[Part]]:
    """Parts in order, those of one group together."""
    found: list[list[Part]] = []
    for part in parts:
        if found and part.group and found[-1][0].group == part.group:
            found[-1].append(part)
        else:
            found.append([part])
    return found
