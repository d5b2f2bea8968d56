"""doctor.py: exit statuses, what it prints, and, marked slow, faults that are put into trainings on purpose."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from pipelines import doctor as verb
from pipelines import load
from pipelines.data.digits import load_digits
from pipelines.files.errors import one_line_errors

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "format1"

# 4x4 codes of the embedded digits, 200 updates: four seconds of a core.
BASE = (
    "experiment=digits", "run=run", "autoencoder.encoder.hidden=16", "autoencoder.encoder.residual_hidden=16",
    "autoencoder.bottlenecks.ema.rate_weight=0", "autoencoder.bottlenecks.ema.rate_warmup_steps=0",
    "prior.channels=16", "prior.num_layers=2",
    *(f"stage1.{setting}" for setting in ("steps=200", "batch_size=32", "validate_every=50", "checkpoint_every=200",
                                          "log_every=5")),
    *(f"stage2.{setting}" for setting in ("steps=200", "batch_size=64", "validate_every=40", "checkpoint_every=200",
                                          "log_every=5", "warmup_steps=10", "ema_decay=0.9")),
)
SPEECH = (  # two updates on recordings of a single speaker
    "experiment=fsdd", "run=run", "data.crop=512", "data.length=1024", "data.validation_fraction=0.2",
    "autoencoder.encoder.hidden=8", "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4",
    "autoencoder.decoder.upsampler.hidden=8", "autoencoder.decoder.upsampler.channels=8",
    "autoencoder.decoder.upsampler.out_channels=4", "autoencoder.decoder.network.num_layers=3",
    "autoencoder.decoder.network.skip_channels=8", "prior.num_layers=2", "prior.skip_channels=8",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in ("steps=2", "batch_size=4",
                                                                             "validate_every=2")),
)
BOTTLENECK = "autoencoder.bottleneck"
FOLDER = ["data=image_folder", "data.channels=1", "data.workers=1", "autoencoder.bottlenecks.ema.num_codes=32"]
BOTH = ("train_stage1", "extract_codes", "train_stage2")


@pytest.fixture
def doctor(monkeypatch, capsys):
    """doctor(*words) -> exit status, stdout and stderr of the verb."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["doctor", *map(str, words)])
        with pytest.raises(SystemExit) as ended, one_line_errors():
            sys.exit(verb.main(verb.parse_arguments()))
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of 30 updates, both stages and codes."""
    return shutil.copytree(GOLDEN, tmp_path / "runs" / "run")


def test_a_healthy_run_takes_one_line_and_status_0(doctor):
    status, out, err = doctor("--run", "mnist")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"\S+mnist: nothing found; looked at: weights, no log of stage 1, .*, metrics.json\n", out)


def test_findings_are_numbered_with_evidence_setting_and_command_and_status_1(doctor, run):
    log = run / "stage1" / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    changed = [row | ({"equal values": 1.0} if row["split"] == "train" else {}) for row in rows]
    log.write_text("".join(json.dumps(row) + "\n" for row in changed))
    status, out, err = doctor("--run", "run", "--runs-dir", run.parent)
    assert (status, err) == (1, "")
    assert "\n1. constant data (stage 1)\n   found    100.00% of the values" in out
    assert load(run, "cpu").doctor()[0].rule == "constant data"


@pytest.mark.parametrize("damage", ["config", "log", "weights", "none"])
def test_a_run_that_cannot_be_read_takes_one_line_and_status_2(damage, doctor, run):
    stage1 = run / "stage1"
    if damage == "config":
        (stage1 / "config.yaml").write_text("- 1\n")
    elif damage == "log":
        (stage1 / "metrics.jsonl").write_text("no row\n" + (stage1 / "metrics.jsonl").read_text())
    elif damage == "weights":
        for path in stage1.glob("checkpoints/*/model.safetensors"):
            path.write_bytes(path.read_bytes()[:100])
    status, out, err = doctor("--run", "nowhere" if damage == "none" else run)
    assert (status, out) == (2, "") and re.fullmatch(r"error: [^\n]*expected [^\n]*found [^\n]*\n", err)


def test_both_trainings_end_with_their_findings(command, tmp_path):
    """After two updates of 1e-9 stage 1 has learned nothing, and the prior is no better than counted pairs of codes."""
    tiny = [*BASE, f"runs_dir={tmp_path}", "stage1.steps=2", "stage2.steps=2", "stage1.lr=1e-9", "stage2.lr=1e-9",
            "stage1.log_every=1", "stage2.log_every=1"]
    ends = [command(own, *tiny).stdout.splitlines()[-1] for own in BOTH]
    assert ends[0].startswith("doctor: nothing learned: after 2 updates") and "raise stage1.lr from 1e-09 to" in ends[0]
    assert ends[2].startswith("doctor: weak prior: the prior needs 6") and "raise stage2.lr from 1e-09 to" in ends[2]


@dataclass(frozen=True)
class Fault:
    """A setting that breaks a training, and what the doctor has to say."""

    settings: tuple[str, ...]
    rule: str
    change: str  # the setting it has to name, and its value as a regular expression
    verbs: tuple[str, ...] = ("train_stage1",)
    base: tuple[str, ...] = BASE


FAULTS = {
    "learning rate too high": Fault(("stage1.lr=0.1",), "few codes", r"stage1\.lr=0\.001"),
    "learning rate too low": Fault(("stage1.lr=1e-7",), "nothing learned", r"stage1\.lr=0\.001"),
    "commitment too weak": Fault((f"{BOTTLENECK}.commitment_weight=0",), "growing norm",
                                 rf"{BOTTLENECK}\.commitment_weight=0\.25"),
    "commitment too strong": Fault((f"{BOTTLENECK}.commitment_weight=1000",), "few codes",
                                   rf"{BOTTLENECK}\.commitment_weight=0\.25", BOTH[:2]),
    "weight of the rate too high": Fault((f"{BOTTLENECK}.rate_weight=20",), "few codes",
                                         rf"{BOTTLENECK}\.rate_weight=1"),
    "dead codes": Fault((f"{BOTTLENECK}.num_codes=512", f"{BOTTLENECK}.initialise_from_data=false",
                         f"{BOTTLENECK}.revive_threshold=0"), "few codes", rf"{BOTTLENECK}\.initialise_from_data=true",
                        BOTH[:2]),
    "slow moving averages": Fault((f"{BOTTLENECK}.decay=0.9999",), "lagging codebook", rf"{BOTTLENECK}\.decay=0\.99"),
    "codebook by gradient": Fault(("autoencoder/bottleneck=gradient", f"{BOTTLENECK}.num_codes=64"), "lagging codebook",
                                  r"autoencoder/bottleneck=ema"),
    "posterior collapse of a VAE": Fault(
        ("autoencoder/bottleneck=gaussian", f"{BOTTLENECK}.dim=8", "autoencoder.beta=10"), "rate too low",
        r"autoencoder\.beta=1"),
    "posterior collapse of a dVAE": Fault(("autoencoder/bottleneck=gumbel", "autoencoder.beta=10"), "rate too low",
                                          r"autoencoder\.beta=1"),
    "more bits than the data": Fault(
        ("autoencoder/bottleneck=residual", f"{BOTTLENECK}.num_codes=64", f"{BOTTLENECK}.num_codebooks=8",
         "stage1.steps=50"), "rate too high", rf"{BOTTLENECK}\.num_codebooks=[23]"),
    "16-bit images without their range": Fault((*FOLDER, "data.root=DARK", "data.size=8"), "constant data",
                                               r"data\.range=auto"),
    "too few examples": Fault((f"{BOTTLENECK}.num_codes=1024", "data.validation_fraction=0.9"), "few examples",
                              rf"{BOTTLENECK}\.num_codes=64", BOTH[:2]),
    "validation of another source": Fault((*FOLDER, "data.root=INVERTED", "data.size=8"), "validation gap", r""),
    "codes of another stage 1": Fault(("stage1.steps=100",), "other stage1", r"extract\.overwrite=true",
                                      (*BOTH[:2], "again")),
    "prior's learning rate too low": Fault(("stage2.lr=1e-7",), "weak prior", r"stage2\.lr=0\.001", BOTH),
    "prior's learning rate too high": Fault(("stage2.lr=3", "stage2.grad_clip=0"), "weak prior", r"stage2\.lr=0\.001",
                                            BOTH),
    "prior overfit": Fault(("data.validation_fraction=0.9", "prior.dropout=0", "prior.channels=48", "stage2.lr=1e-2"),
                           "overfitting", r"stage2\.steps=(40|80|120)", BOTH),
    "receptive field": Fault((*FOLDER, "data.root=LARGE", "data.size=48", "stage1.steps=20", "stage2.steps=10",
                              "prior.num_layers=1", "prior.first_kernel_size=3"), "short reach",
                             r"prior\.num_layers=\d+", BOTH),
    "constant labels": Fault(("data.root=ONE",), "constant labels", r"condition_on=\[digit\]", BOTH, SPEECH),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Folders of the embedded digits as images, each prepared in another wrong way, and of tones."""
    home, images = tmp_path_factory.mktemp("folders"), load_digits()[0].reshape(-1, 8, 8)
    for number, image in enumerate(images[:400]):
        values = np.round(image * 255 / 16).astype(np.uint8)
        held_out = number % 8 == 0
        for name, picture in {
            f"DARK/{number}.png": Image.fromarray((image * 40).astype(np.uint16)),  # of 65,536 levels
            f"INVERTED/{'validation' if held_out else 'train'}/{number}.png": Image.fromarray(
                255 - values if held_out else values),
            **({f"LARGE/{number}.png": Image.fromarray(values).resize((48, 48))} if number < 80 else {}),
        }.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(home / name)
    (home / "ONE").mkdir()
    for number in range(14):
        tone = 0.3 * np.sin(np.arange(900) / (3 + number))
        soundfile.write(home / "ONE" / f"{number % 2}_ann_{number}.wav", tone, 8000)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_the_setting_to_change(name, folders, command, doctor, tmp_path):
    fault = FAULTS[name]
    places = [re.sub("^data.root=", f"data.root={folders}/", setting) for setting in fault.settings]
    arguments = [*fault.base, *places, f"runs_dir={tmp_path}", *([f"data.cache={tmp_path}/cache"] if places != list(
        fault.settings) else [])]
    for own in fault.verbs:
        command(*(("train_stage1", *arguments, "stage1.steps=300") if own == "again" else (own, *arguments)))
    status, out, _ = doctor("--run", tmp_path / "run")
    print(out)
    found = {finding.rule: finding for finding in load(tmp_path / "run", "cpu").doctor()}
    assert status == 1 and fault.rule in found, out
    first = found[fault.rule].changes[0].typed if fault.change else ""
    assert re.fullmatch(fault.change, first), out


@pytest.mark.slow
def test_the_same_training_without_a_fault_has_no_finding(command, doctor, tmp_path):
    for own in BOTH:
        assert "doctor:" not in command(own, *BASE, f"runs_dir={tmp_path}").stdout
    status, out, _ = doctor("--run", tmp_path / "run")
    assert status == 0, out
