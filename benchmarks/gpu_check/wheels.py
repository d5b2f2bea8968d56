"""Packages for a machine without an index: `make gpu-wheels` gathers them into a folder, `--wheels` unpacks them there.

    python -m benchmarks.gpu_check.wheels build/gpu-wheels            # those that CUDA images of torch lack
    python -m benchmarks.gpu_check.wheels build/gpu-wheels --package numba --package llvmlite

Versions are those of constraints.txt. A wheel is a zip file of what is to be imported, so unpacking it needs no pip.
"""

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "pystoi", "soundfile", "cffi", "pycparser")
BUILT = ("antlr4-python3-runtime",)  # published as source only
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST_BYTES = 64 * 2**20


def unpack(folder: Path, site: Path) -> Path:
    """Unpacks every wheel of a folder into `site`. Raises ValueError where there is none, or one is no zip file."""
    found = sorted(folder.glob("*.whl"))
    if not found:
        raise ValueError(f"--wheels: expected *.whl in {folder}, found none; make gpu-wheels gathers them")
    for path in found:
        try:
            with zipfile.ZipFile(path) as wheel:
                wheel.extractall(site)
        except zipfile.BadZipFile:
            raise ValueError(f"{path}: expected a wheel, found a file that is no zip archive") from None
    return site


def pinned(package: str, constraints: str) -> str:
    """`package==version` as the constraints pin it. Raises ValueError where they do not."""
    found = re.search(rf"^{re.escape(package)}==\S+$", constraints, re.MULTILINE)
    if found is None:
        raise ValueError(f"--package: expected a name in constraints.txt, found {package!r}")
    return found.group()


def commands(folder: Path, packages: list[str], python: str, constraints: str) -> list[list[str]]:
    """The calls of pip that fill the folder for Linux on x86-64 and this version of Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wanted = {name: pinned(name, constraints) for name in packages}
    built = [wanted[name] for name in packages if name in BUILT]
    ready = [wanted[name] for name in packages if name not in BUILT]
    found = []
    if built:
        found.append([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), *built])
    if ready:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        found.append([*pip, "download", "--no-deps", "--only-binary=:all:", "--python-version", python,
                      "--implementation", "cp", *platforms, "--dest", str(folder), *ready])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", action="append", default=[], help="beyond the list above (repeatable)")
    parser.add_argument("--python", default="3.12", help="version of Python there (default: 3.12)")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for path in given.folder.glob("*.whl"):
        path.unlink()
    constraints = (ROOT / "constraints.txt").read_text()
    try:
        calls = commands(given.folder, [*PACKAGES, *given.package], given.python, constraints)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for call in calls:
        if status := subprocess.run(call).returncode:
            return status
    sizes = {path.name: path.stat().st_size for path in sorted(given.folder.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total / 2**20:8.2f} MiB  in all: {given.folder}")
    if total > MOST_BYTES:
        print(f"error: expected at most {MOST_BYTES >> 20} MiB of wheels, found {total / 2**20:.1f}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
