"""Data in main memory, and several processes: one rank (nccl on a GPU) in DistributedDataParallel, two ranks by gloo.

In float64 for the ranks: Adam turns rounding errors of gradients near zero into steps of full size, which in float32
moves encodings across the border of two cells. In float64 50 steps agree within 1e-6, the limit of the test on CPUs.
"""

from benchmarks.gpu_check.parts.digits import TINY
from benchmarks.gpu_check.recorder import Recorder, expect
from benchmarks.gpu_check.verbs import final_weights, largest_difference, on_device, run_verb, settings

NEEDS = ("hydra", "omegaconf", "einops", "safetensors", "sklearn", "tensorboard", "tqdm")
LIMIT = 1e-6


def main(recorder: Recorder) -> None:
    base = ["experiment=digits", "run=digits", *TINY, *on_device(recorder), *settings(
        steps=50, batch_size=16, validate_every=25, checkpoint_every=25, log_every=10)]
    augmented = [*base, "data.pad=1"]
    folders = {name: recorder.work / name for name in
               ("resident", "host", "recorded", "plain", "one_rank", "one_rank_codes", "two_ranks")}
    exact = ("stage1.precision=float64", "stage2.precision=float64", "autoencoder.bottleneck.revive_threshold=0.3")

    def train(name: str, verb: str, arguments: list[str], launch: tuple[str, ...] = (), ranks: int = 0) -> str:
        return run_verb(recorder, verb, *arguments, f"runs_dir={folders[name]}", launch=launch, ranks=ranks)

    with recorder.check("items in main memory give the weights of items on the device") as found:
        train("resident", "train_stage1", augmented, launch=("--deterministic",))
        train("host", "train_stage1", augmented, launch=("--deterministic", "--host-data"))
        difference = largest_difference(*(final_weights(folders[name] / "digits/stage1")
                                          for name in ("resident", "host")))
        found.note(f"largest difference of weights and moments {difference:.1e}, deterministic algorithms")
        expect(difference == 0.0, f"expected the same bits, found a difference of {difference}")

    if recorder.device == "cuda":
        with recorder.check("steps recorded as a CUDA graph give the weights of plain ones") as found:
            recorded = [*augmented, "stage1.cuda_graph=true"]
            train("recorded", "train_stage1", recorded, launch=("--deterministic",))
            difference = largest_difference(*(final_weights(folders[name] / "digits/stage1")
                                              for name in ("resident", "recorded")))
            found.note(f"largest difference of weights and moments {difference:.1e}, deterministic algorithms")
            expect(difference == 0.0, f"expected the same bits, found a difference of {difference}")

    with recorder.check("one process, float64"):
        for verb in ("train_stage1", "extract_codes", "train_stage2"):
            train("plain", verb, [*base, *exact])
    backend = "nccl" if recorder.device == "cuda" else "gloo"
    with recorder.check(f"torchrun, one rank, {backend}, DistributedDataParallel") as found:
        output = train("one_rank", "train_stage1", [*base, *exact], launch=("--count-ddp",), ranks=1)
        compare(found, folders["plain"], folders["one_rank"], "stage1")
        expect("models in DistributedDataParallel: 1" in output,
               "expected the model to be wrapped in DistributedDataParallel, found it plain")
    with recorder.check("torchrun, one rank, stage 2") as found:
        run = folders["one_rank_codes"] / "digits"
        run.mkdir(parents=True)
        (run / "codes").symlink_to(folders["plain"] / "digits/codes")
        train("one_rank_codes", "train_stage2", [*base, *exact], ranks=1)
        compare(found, folders["plain"], folders["one_rank_codes"], "stage2")
    with recorder.check("torchrun, two ranks by gloo on one device") as found:
        train("two_ranks", "train_stage1", [*base, *exact], launch=("--gloo",), ranks=2)
        compare(found, folders["plain"], folders["two_ranks"], "stage1")


def compare(found, one, two, stage: str) -> None:
    """Weights and codebook statistics only: a moment near zero may differ by more than it means."""
    weights = [{name: tensor for name, tensor in final_weights(folder / "digits" / stage).items()
                if not name.startswith("optimizer/")} for folder in (one, two)]
    difference = largest_difference(*weights)
    found.note(f"largest difference to one plain process {difference:.1e}")
    expect(difference <= LIMIT, f"expected at most {LIMIT}, found {difference}")
