"""Runs a command with what it cannot be asked for.

    python -m benchmarks.gpu_check.launch --deterministic --kill-at 2 pipelines.train_stage1 experiment=digits ...

--deterministic   deterministic algorithms; operations that have none are named in the output
--host-data       items stay in main memory, as if the device had no room for them
--gloo            processes talk by gloo and share the first device, as two processes on one card have to
--kill-at N       SIGKILL just before the N-th checkpoint becomes the latest
--count-ddp       prints how often a model was wrapped in DistributedDataParallel
"""

import argparse
import os
import runpy
import signal
import sys


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--deterministic", "--host-data", "--gloo", "--count-ddp"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("module")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.kill_at:
        kill_at(given.kill_at)
    if given.deterministic:
        deterministic()
    if given.host_data:
        host_data()
    if given.gloo:
        share_one_device()
    if given.count_ddp:
        count_ddp()
    sys.argv = [given.module, *given.words]
    runpy.run_module(given.module, run_name="__main__", alter_sys=True)


def kill_at(count: int) -> None:
    """By Python's audit events: a rename to `latest` is about to happen."""
    left = count

    def watch(event: str, arguments: tuple) -> None:
        nonlocal left
        if event == "os.rename" and os.path.basename(os.fspath(arguments[1])) == "latest":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def deterministic() -> None:
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def host_data() -> None:
    from pipelines.splits import base

    assert base.RESIDENT_SHARE > 0, "the share of the device's memory that items may take"
    base.RESIDENT_SHARE = 0.0


def share_one_device() -> None:
    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = "0"
    join = dist.init_process_group

    def by_gloo(backend: str | None = None, **options: object) -> None:
        options.pop("device_id", None)  # binds the group to nccl
        join("gloo", **options)

    dist.init_process_group = by_gloo


def count_ddp() -> None:
    from torch.nn.parallel import DistributedDataParallel

    build, count = DistributedDataParallel.__init__, 0

    def counted(self, *arguments, **options) -> None:
        nonlocal count
        count += 1
        build(self, *arguments, **options)
        print(f"models in DistributedDataParallel: {count}", flush=True)

    DistributedDataParallel.__init__ = counted


if __name__ == "__main__":
    main()
