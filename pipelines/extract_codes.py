"""Images, audio or video to codes: writes the code data set of a run's trained autoencoder.

    python pipelines/extract_codes.py experiment=mnist
    python pipelines/extract_codes.py experiment=imagenet128 extract.views=8
    torchrun --nproc-per-node=4 pipelines/extract_codes.py experiment=imagenet128

The second command encodes 8 views per training image: 1 unchanged, 7 augmented. After an interruption the same command
resumes after the last complete file; on a CPU the result is the same to the byte.
"""

from typing import TYPE_CHECKING

from pipelines.commands.hydra import hydra_main

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra_main("stage1", "data", "extract", shares=True)
def main(cfg: "DictConfig") -> None:
    from pipelines.data.codes import write_codes
    from pipelines.files.errors import InputError
    from pipelines.files.locks import only_writer
    from pipelines.files.signals import saying
    from pipelines.kinds import kind_of
    from pipelines.ranks.shares import on_first
    from pipelines.runs.config import plain
    from pipelines.runs.data import open_data
    from pipelines.runs.example import refuse_imported
    from pipelines.runs.settings import Extraction
    from pipelines.runs.store import check_same_data, load_stage1, run_of, stage1_hash
    from pipelines.splits.base import Batch
    from pipelines.training.distributed import choose_device
    from pipelines.training.memory import keep_freed_memory
    from stage1_vqvae.bottlenecks.base import Quantizer

    run, options = run_of(cfg), Extraction(**plain(cfg.extract))
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    stage1 = load_stage1(run, device)
    if stage1.example.imported:
        refuse_imported(run.root)
    autoencoder = stage1.module
    if not isinstance(autoencoder.bottleneck, Quantizer):
        raise InputError(f"{run.stage1}: expected a bottleneck with codes, found "
                         f"{type(autoencoder.bottleneck).__name__}: there is nothing to extract")
    data = open_data(cfg.data)
    other_data = check_same_data(run, stage1, data, plain(cfg.data), options.other_data)
    kind = kind_of(data.kind)
    kind.check_views(options.views)

    def encode(batch: Batch) -> dict:
        codes = autoencoder.encode(batch.x)
        return {"codes": codes, **kind.code_fields(batch, codes, data)}

    with on_first(only_writer(run.codes, "extract_codes")), saying(
            "the same command continues after the last whole shard"):
        codes = write_codes(
            run.codes, data, encode, num_codes=autoencoder.bottleneck.num_codes,
            num_codebooks=autoencoder.bottleneck.num_codebooks, stage1_hash=stage1_hash(stage1),
            parent_hash=data.parent_hash, device=device, views=options.views, seed=cfg.seed,
            batch_size=options.batch_size, shard_size=options.shard_size, overwrite=options.overwrite,
            other_data=other_data,
        )
    counts = ", ".join(f"{name} {len(codes.split(name))}" for name in codes.splits)
    print(f"codes are written: {run.codes}; {counts}; grid {'x'.join(map(str, codes.grid))}, K = {codes.num_codes}"
          + (f", {codes.num_codebooks} codebooks" if codes.num_codebooks > 1 else ""))


if __name__ == "__main__":
    main()
