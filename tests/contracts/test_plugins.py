"""Components in a folder outside the project: both stages run with them, and the contract tests find them.

toys/ has one of each: a Python file and a yaml.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipelines import extract_codes, train_stage2
from pipelines.files.errors import InputError
from pipelines.runs import plugins
from pipelines.runs.config import build, composed
from pipelines.runs.data import load_data
from pipelines.runs.facts import complete
from pipelines.runs.store import Run, load_stage1, load_stage2
from stage2_prior.sampling import sample

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
CHOICES = ["~experiment", "data=toy", "autoencoder=toy", "autoencoder/bottleneck=toy", "autoencoder/likelihood=toy",
           "prior=toy", "run=toy"]
STEPS = [f"{stage}.{setting}" for stage in ("stage1", "stage2")
         for setting in ("steps=4", "batch_size=8", "validate_every=4", "log_every=4")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the toys outside the project."""
    return shutil.copytree(Path(__file__).parent / "toys", tmp_path_factory.mktemp("outside") / "mine")


def run(*command: object, folder: Path | None, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), plugins.VARIABLE: str(folder or "")}
    return subprocess.run([sys.executable, *map(str, command)], env=environment, text=True, capture_output=True,
                          timeout=300, **options)


def toy_data():
    """What completing a configuration asks of a data set of grey images."""
    return SimpleNamespace(kind="image", label_names=(), classes=(), variance=4000.0, shape=(1, 8, 12), facts={})


@pytest.fixture
def named(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, str(folder))


def test_both_stages_run_with_them_and_a_saved_run_names_them(folder, named, tmp_path, monkeypatch):
    arguments = [*CHOICES, *STEPS, f"runs_dir={tmp_path}"]
    result = run(ROOT / "pipelines" / "train_stage1.py", *arguments, folder=folder, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    for verb in (extract_codes, train_stage2):  # in this process: faster
        verb.main.__wrapped__(composed(arguments))
    stage1, stage2 = load_stage1(Run(tmp_path / "toy"), CPU), load_stage2(Run(tmp_path / "toy"), CPU)
    data = load_data(Run(tmp_path / "toy"), stage1, None)
    assert data.name == "stripes" and stage1.state.step == stage2.state.step == 4
    labels = torch.tensor([[0], [1], [0]])
    codes = sample(stage2.module, torch.rand(3, *stage2.module.size, dtype=torch.float64), labels)
    assert stage1.module.decode(codes).shape == (3, *data.shape)
    monkeypatch.delenv(plugins.VARIABLE)  # nobody names the folder: its modules are not trusted
    for load in (load_stage1, load_stage2):
        with pytest.raises(InputError, match="expected a class of stage1_vqvae or stage2_prior, found 'toy_"):
            load(Run(tmp_path / "toy"), CPU)
    with pytest.raises(InputError, match="data._target_: expected a data set of .*, found 'toy_data.Stripes'"):
        load_data(Run(tmp_path / "toy"), stage1, None)


def test_a_kind_of_data_and_a_metric_are_one_file_each(folder, tmp_path):
    """Both stages, evaluation and samples of textures, a kind with flags, local features and figures of its own."""
    arguments = ["~experiment", "data=texture", *CHOICES[2:5], "prior=gated_pixelcnn", "prior.channels=8",
                 "prior.num_layers=1", *STEPS, f"runs_dir={tmp_path}", "run=texture"]
    code = (
        "import sys; from pipelines import evaluate, extract_codes, train_stage1, train_stage2; "
        "from pipelines.runs.config import composed\n"
        "for verb in (train_stage1, extract_codes, train_stage2, evaluate):\n"
        "    verb.main.__wrapped__(composed(sys.argv[1:]))\n"
        "from pipelines import load\n"
        f"run = load({str(tmp_path / 'texture')!r}, 'cpu')\n"
        "print(run.sample(3, columns=1).save('made'), run.figures['contrast'], run.figures['largest_error'])\n")
    result = run("-c", code, *arguments, folder=folder, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "contrast" in result.stdout and "largest error, levels" in result.stdout
    assert len(list((tmp_path / "made").glob("0*.txt"))) == 3
    listed = run(ROOT / "pipelines" / "sample.py", "--help", folder=folder, cwd=tmp_path)
    assert "--columns COLUMNS" in listed.stdout


@pytest.mark.slow  # a pytest within
def test_they_pass_the_contract_tests(folder):
    selection = ["-k", "(toy or texture or LargestError) and not plugins", "-p", "no:cacheprovider"]
    result = run("-m", "pytest", Path(__file__).parent, *selection, folder=folder, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-3000:]
    passed = int(result.stdout.split(" passed")[0].split()[-1])
    assert passed > 40  # all tests of each of the seven groups


def test_an_encoder_with_one_argument_more_is_one_file_and_one_yaml(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path))
    (tmp_path / "toy_gain.py").write_text("""
from stage1_vqvae.image import ImageEncoder


class GainEncoder(ImageEncoder):
    def __init__(self, gain: float, in_channels: int, dim: int, hidden: int, outer_hidden: int, residual_hidden: int,
                 num_residual_blocks: int, num_downsamplings: int, mixing_convolution: bool, initial_scale: float):
        super().__init__(in_channels, dim, hidden=hidden, outer_hidden=outer_hidden, residual_hidden=residual_hidden,
                         num_residual_blocks=num_residual_blocks, num_downsamplings=num_downsamplings,
                         mixing_convolution=mixing_convolution, initial_scale=initial_scale)
        self.gain = gain

    def forward(self, x):
        return self.gain * super().forward(x)
""")
    (tmp_path / "configs" / "autoencoder" / "encoder").mkdir(parents=True)
    (tmp_path / "configs" / "autoencoder" / "encoder" / "gain.yaml").write_text("""
defaults: [image_compact, _self_]
_target_: toy_gain.GainEncoder
gain: 2.0
""")
    overrides = ["autoencoder/encoder=gain", "autoencoder.encoder.gain=3", "autoencoder.encoder.hidden=8"]
    model = build(complete(composed(["~experiment", *overrides]), toy_data()))
    assert model.encoder.gain == 3.0
    x = torch.zeros(2, 1, 8, 12, dtype=torch.uint8)
    assert model.evaluate(x).reconstruction.shape == x.shape


def test_only_what_lies_in_the_named_folders_is_trusted(folder, named, monkeypatch):
    monkeypatch.delenv(plugins.VARIABLE)
    assert plugins.folders() == [] and not plugins.is_trusted("toy_bottleneck")
    with pytest.raises(InputError, match="expected a class of stage1_vqvae or stage2_prior"):
        build({"_target_": "toy_bottleneck.Signs", "dim": 3}, trusted_only=True)
    monkeypatch.setenv(plugins.VARIABLE, str(folder))
    assert plugins.is_trusted("toy_bottleneck.Signs")
    assert build({"_target_": "toy_bottleneck.Signs", "dim": 3}, trusted_only=True).num_codes == 8
    assert composed(["~experiment", "autoencoder/bottleneck=toy"]).autoencoder.bottleneck.dim == 6
    for name in ("os.system", "toy_bottleneck.torch.load", "toy_nothing.Signs", "pipelines.data.mnist.MNIST"):
        with pytest.raises(InputError, match="_target_"):
            build({"_target_": name}, trusted_only=True)


def test_a_folder_that_does_not_exist_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="^NDR_PLUGINS: expected a folder, found .*nothing$"):
        composed(["~experiment"])
