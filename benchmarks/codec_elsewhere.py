"""Compressed files are read elsewhere: written by one implementation, read by every other.

    python benchmarks/codec_elsewhere.py --run mnist --input IMAGES --items 1000 --naive 40

A file is written by several processes (one forward pass over all codes: threads, batch sizes, with and without oneDNN,
PyTorch's kernels for other processors) and read by others (compiled loop, PyTorch's stepper, a forward pass per code;
numba's machine code for AVX-512, AVX2 and plain x86-64). Prints for each how many items came back as they were, the
largest difference of a logit from the first writer's, and the share of exceptions. Exit status 1 if any item differs.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WRITERS: dict[str, dict] = {
    "1 thread": {},
    "4 threads": {"threads": 4},
    "2 threads, batches of 1": {"threads": 2, "batch": 1},
    "without oneDNN": {"onednn": False},
    "PyTorch for AVX2": {"environment": {"ATEN_CPU_CAPABILITY": "avx2"}},
    "PyTorch for plain x86-64": {"environment": {"ATEN_CPU_CAPABILITY": "default"}, "onednn": False},
}
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "", "ATEN_CPU_CAPABILITY": "avx2"}
PLAIN = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "ATEN_CPU_CAPABILITY": "default"}
READERS: dict[str, dict] = {
    "compiled, 1 thread": {"implementation": "compiled"},
    "compiled, 2 threads": {"implementation": "compiled", "threads": 2},
    "compiled, 4 threads, batches of 1": {"implementation": "compiled", "threads": 4, "batch": 1},
    "compiled for AVX2": {"implementation": "compiled", "environment": AVX2},
    "compiled for plain x86-64": {"implementation": "compiled", "environment": PLAIN},
    "stepper, 1 thread": {"implementation": "stepper"},
    "stepper, 4 threads": {"implementation": "stepper", "threads": 4},
    "stepper, without oneDNN": {"implementation": "stepper", "onednn": False},
    "stepper for AVX2": {"implementation": "stepper", "environment": AVX2},
    "stepper for plain x86-64": {"implementation": "stepper", "environment": PLAIN, "onednn": False},
    "no numba": {"environment": {"NUMBA_DISABLE_JIT": "1"}, "implementation": "stepper", "few": True},
    "naive, 1 thread": {"implementation": "naive", "few": True},
    "naive for AVX2": {"implementation": "naive", "few": True, "environment": AVX2},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="mnist")
    parser.add_argument("--input", type=Path, required=True, help="folder of files")
    parser.add_argument("--items", type=int, default=1000, help="items of each file")
    parser.add_argument("--naive", type=int, default=40, help="items that the slow readers read")
    parser.add_argument("--out", type=Path, help="a JSON file of all figures")
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        work(arguments, *arguments.role.split(":", 1))
        return 0
    rows, wrong, read = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, entries in (("write", WRITERS), ("read", READERS)):
            for number, (name, how) in enumerate(entries.items()):
                role = f"{kind}:{json.dumps({'number': number, 'implementation': None} | how)}"
                environment = {"OMP_NUM_THREADS": str(how.get("threads", 1))} | how.get("environment", {})
                call = [sys.executable, __file__, *sys.argv[1:], "--work", folder, "--role", role]
                start = time.monotonic()
                done = subprocess.run(call, env=os.environ | environment, capture_output=True, text=True)
                if done.returncode:
                    print(done.stderr)
                    return 1
                row = {"kind": kind, "name": name, "seconds": time.monotonic() - start} | json.loads(
                    done.stdout.splitlines()[-1])
                rows.append(row)
                wrong += row["wrong"]
                read += row["items"] if kind == "read" else 0
                print(f"{kind:<6} {name:<36} {row['items']:>6} items, {row['wrong']} wrong, logits differ by "
                      f"{row['difference']:.1e}{row['more']}", flush=True)
    print(f"{read} items read, {wrong} wrong")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))
    return 1 if wrong else 0


def work(arguments: argparse.Namespace, kind: str, how: str) -> None:
    """One process: writes a file, or reads the files of all writers."""
    import numpy as np
    import torch

    from pipelines import load
    from pipelines.codec import items as codec
    from pipelines.codec.models import Group, Models

    own = json.loads(how)
    torch.set_num_threads(own.get("threads", 1))
    torch.backends.mkldnn.enabled = own.get("onednn", True)
    run = load(arguments.run, "cpu")
    models, batch = Models(run._loaded), own.get("batch", 64)
    paths = run._kind.find_files(arguments.input)[: arguments.items]
    reference = arguments.work / "reference.npz"
    if kind == "write":
        _, items = run._kind.load_files(run._loaded, paths)
        labels = dict(pair.split("=", 1) for pair in arguments.label)
        given = codec.Given(items.x, models.wanted_labels(labels, len(items.x)), items.lengths)
        file = io.BytesIO()
        # later writers take the codes and labels of the first, so that the coding alone is compared
        saved = {name: torch.from_numpy(x) for name, x in np.load(reference).items()} if reference.exists() else {}
        first = codec.encoded(models, given, False, 64)
        group = Group(saved.get("codes", first.codes), saved.get("labels", first.labels), first.lengths)
        parts = [group.part(slice(at, at + batch)) for at in range(0, len(group), batch)]
        logits = torch.cat([models.code_logits(part) for part in parts])
        writer = codec.Writer(file, models.fingerprint, False, True)
        exceptions = exception_bits = payload = 0
        for at in range(0, len(group), 8):
            encoder = models.write(group.part(slice(at, at + 8)), logits[at : at + 8])
            stream = encoder.finish()
            writer.add(stream, len(group.part(slice(at, at + 8))), group.part(slice(at, at + 8)).content())
            exceptions, exception_bits = exceptions + encoder.exceptions, exception_bits + encoder.exception_bits
            payload += len(stream)
        writer.close()
        (arguments.work / f"{own['number']}.ndc").write_bytes(file.getvalue())
        some = logits[:64].numpy()
        if not saved:
            np.savez(reference, codes=group.codes.numpy(), labels=group.labels.numpy(), logits=some)
        difference = float(np.abs(some - np.load(reference)["logits"]).max())
        same = file.getvalue() == (arguments.work / "0.ndc").read_bytes()
        more = f", {exceptions} exceptions, {exception_bits / 8 / payload:.5%} of the payload; first's bytes: {same}"
        print(json.dumps({"items": len(group), "wrong": 0, "difference": difference, "more": more,
                          "exceptions": exceptions, "payload": payload, "same": same}))
        return
    saved = {name: torch.from_numpy(x) for name, x in np.load(reference).items()}
    wrong = count = 0
    start = time.monotonic()
    for file in sorted(arguments.work.glob("*.ndc")):
        with open(file, "rb") as opened:
            reader = codec.open_compressed(models, opened, file.name)
            wanted = list(range(min(arguments.naive, reader.count))) if own.get("few") else None
            for part in codec.restore(models, reader, wanted, batch, own["implementation"]):
                rows = slice(part.numbers.start, part.numbers.stop)
                count += len(part.numbers)
                if part.group is None:
                    wrong += len(part.numbers)
                else:
                    wrong += int((part.group.codes != saved["codes"][rows]).flatten(1).any(1).sum())
    seconds = time.monotonic() - start
    found = steps(models, saved["codes"][:4], saved["labels"][:4], own["implementation"])
    difference = float((found - saved["logits"][:4]).abs().max()) if found is not None else 0.0
    print(json.dumps({"items": count, "wrong": wrong, "difference": difference,
                      "more": f", {count / seconds:.0f} items/s"}))


def steps(models, codes, labels, implementation):
    """The logits of this reader, step by step; None for padded items, whose lengths are not at hand."""
    import numpy as np
    import torch

    from pipelines.splits.base import columns_of
    from stage2_prior.coding import steps_of

    if models.stage1.example.kind == "audio":
        return None
    prior, grid = models.prior, models.stage1.grid
    stepper = steps_of(prior, len(codes), grid, columns_of(labels, models.prior_columns), None, implementation)
    logits = torch.zeros(len(codes), prior.num_codes, *codes.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        for position in np.ndindex(*codes.shape[1:]):
            logits[(slice(None), slice(None), *position)] = stepper.step(codes, position)
    return logits


if __name__ == "__main__":
    sys.exit(main())
