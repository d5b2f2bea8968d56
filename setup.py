"""Installs configs/ and pretrained/, which stand at the top of the repository, inside the package `pipelines`.

All else is in pyproject.toml, which cannot add packages of another folder to those that it finds."""

from tempfile import TemporaryDirectory

from setuptools import find_packages, setup

DATA = {  # pipelines/files/places.py looks here where there is no checkout
    "pipelines._installed.configs": ("configs", ["**/*.yaml"]),
    "pipelines._installed.pretrained": ("pretrained", [
        "LICENSE.md", "*/README.md", "*/metrics.json", "**/stage[12]/config.yaml", "**/stage[12]/checkpoints/best",
        "**/stage[12]/checkpoints/*/*"]),
}
CODE = ["stage1_vqvae", "stage2_prior", "pipelines"]

with TemporaryDirectory() as build:  # a build folder that is kept would install files that are gone from the sources
    setup(
        packages=[*find_packages(include=[f"{name}*" for name in CODE]), *DATA],
        package_dir={package: folder for package, (folder, _) in DATA.items()},
        package_data={name: ["py.typed"] for name in CODE} | {package: files for package, (_, files) in DATA.items()}
        | {"pipelines.explorer": ["static/**"]},
        include_package_data=False,
        options={"build": {"build_base": build}},
    )
