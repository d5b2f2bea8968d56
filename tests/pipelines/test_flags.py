"""Settings and flags of every verb as nobody would think of them: done as asked, or one line and exit status 2.

A short form runs with the suite. NDR_FLAG_EXAMPLES=500 sets the number of invocations; then the test takes longer than
`pytest -o faulthandler_timeout=0` would otherwise allow, and with -s it prints the counts.
"""

import os
import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.commands import console

EXAMPLES = int(os.environ.get("NDR_FLAG_EXAMPLES", "16"))
FOLDER = "été (2024) = ~a,b"  # as people name one
SMALL = [
    "experiment=digits", "data=image_folder", "data.size=8", "data.channels=1", "run=tiny",
    "autoencoder.encoder.hidden=8", "autoencoder.encoder.residual_hidden=4", "autoencoder.bottleneck.num_codes=8",
    "autoencoder.bottleneck.dim=4", "prior.channels=4", "prior.num_layers=1", "prior.head_channels=8",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in ("steps=2", "batch_size=8")),
    "evaluate.samples=4", "evaluate.copies=4", "evaluate.bound_samples=1", "evaluate.classifier=false",
]
STAGES = {"train_stage1": (), "extract_codes": ("stage1",), "train_stage2": ("stage1", "codes"),
          "evaluate": ("stage1", "codes", "stage2")}  # and the folders that each starts from
VALUES = ["null", "x", "-1", "0", "1", "2", "1.5", "nan", "-inf", "1e400", "1" + 23 * "0", "no", "On", "true", "[]",
          "[x", "[class]", "[1]", "{a: 1}", "", "é", "'", "a=b", "${nosuch}", "${seed}", "???", "~", "(", "a b", "\\",
          "$HOME/x", "a,b", "\n", "../x", "18446744073709551616", "9" * 5000, "0x10", "1_0", "%s", "--"]
TRAINING = ["steps", "batch_size", "lr", "warmup_steps", "final_lr_fraction", "decay_share", "beta2", "weight_decay",
            "grad_clip", "ema_decay", "precision", "validate_every", "patience", "checkpoint_every", "log_every",
            "device", "cuda_graph", "stpes"]
KEYS = [
    "seed", "run", "runs_dir", "condition_on", "decoder_condition_on", "condition_on_length", "data", "autoencoder",
    "prior", "experiment", "autoencoder/bottleneck", "autoencoder/encoder", "autoencoder/likelihood", "hydra", "nosuch",
    *(f"train.{name}" for name in TRAINING),
    *(f"data.{name}" for name in ("root", "cache", "name", "size", "store_size", "channels", "pad", "flip",
                                  "validation_fraction", "workers", "seed", "sizes")),
    *(f"extract.{name}" for name in ("views", "batch_size", "shard_size", "overwrite", "device", "view")),
    *(f"evaluate.{name}" for name in ("split", "batch_size", "samples", "bound_samples", "unconditional", "context",
                                      "predictions", "prediction_temperature", "prediction_samples", "actions",
                                      "conversions", "classifier", "quality", "device", "judge")),
    *(f"autoencoder.{name}" for name in ("beta", "beta_warmup_steps", "encoder", "bottleneck", "_target_")),
    *(f"autoencoder.bottleneck.{name}" for name in ("num_codes", "dim", "num_codebooks", "decay", "commitment_weight",
                                                    "revive_threshold", "initialise_from_data", "distance")),
    *(f"autoencoder.encoder.{name}" for name in ("hidden", "residual_hidden", "num_residual_blocks",
                                                 "num_downsamplings", "mixing_convolution", "initial_scale")),
    *(f"prior.{name}" for name in ("channels", "num_layers", "kernel_size", "first_kernel_size", "dropout")),
]
# Flags of the verbs that know no Hydra, and arguments with which each ends soon.
FLAGS = {
    "sample": (["--n", "2"], ["n", "label", "temperature", "top-k", "top-p", "complete", "mask", "particles",
                              "sweeps", "no-paste", "keep", "seconds", "actions"]),
    "reconstruct": (["--input", "PICTURES"], ["input", "label"]),
    "convert_speaker": (["--input", "PICTURES", "--speaker", "a"], ["input", "speaker", "label"]),
    "compress": (["--input", "PICTURES"], ["input", "label", "actions", "lossless"]),
    "decompress": (["--input", "COMPRESSED"], ["input", "item"]),
    "plot_latents": (["--data-root", "PICTURES"], ["data-root", "split", "example"]),
    "report": (["--n", "2"], ["n", "data-root"]),
    "score": (["--input", "PICTURES"], ["input", "label", "rank", "actions", "held-out", "data-root"]),
    "export_codes": (["--format", "npz", "--output", "codes"], ["format", "output"]),
    "import_codes": (["--run", "new", "--input", "PICTURES"], [
        "input", "grid", "num-codes", "labels", "padding", "format", "validation-fraction", "item-length",
        "codebook-axis"]),
    "export_model": (["--data-root", "PICTURES", "--format", "pt2"], ["input", "items", "format", "data-root"]),
    "predict_video": ([], ["data-root", "n", "context", "frames", "actions", "temperature", "top-k", "top-p"]),
}
SHARED = ["run", "runs-dir", "seed", "out", "batch-size", "device", "nosuch", "ru"]
values = st.sampled_from(VALUES)
override = st.builds(lambda marks, key, equals, value: f"{marks}{key}{equals}{value}",
                     st.sampled_from(["", "", "", "", "", "", "+", "++", "~"]), st.sampled_from(KEYS),
                     st.sampled_from(["=", "=", "=", "=", "=", "=", "=", ""]), values)
hydra_calls = st.tuples(st.sampled_from(sorted(STAGES)), st.lists(override, min_size=1, max_size=2))
flag_calls = st.sampled_from(sorted(FLAGS)).flatmap(lambda verb: st.tuples(st.just(verb), st.lists(
    st.tuples(st.sampled_from([*FLAGS[verb][1], *SHARED]), values).map(lambda pair: f"--{pair[0]}={pair[1]}"),
    min_size=1, max_size=2)))
others = st.one_of(
    st.tuples(st.just("list_runs"), st.lists(st.builds(
        lambda flag, value: f"--{flag}={value}", st.sampled_from(["runs-dir", "remove", "yes", "all"]), values),
        max_size=2)),
    st.tuples(st.just("doctor"), st.lists(st.builds(
        lambda flag, value: f"--{flag}={value}", st.sampled_from(["run", "runs-dir", "stage"]), values), max_size=2)),
    st.tuples(st.just("explore"), st.lists(st.builds(  # a run that there is would be served until Ctrl-C
        lambda flag, value: f"--{flag}={value}", st.sampled_from(["port", "runs-dir", "data-root", "device"]), values),
        max_size=2).map(lambda flags: ["--run=nosuch", "--no-browser", "--port=0", *flags])),
    st.tuples(st.just("publish"), st.lists(st.builds(
        lambda flag, value: f"--{flag}={value}", st.sampled_from(["run", "out", "half", "to", "license",
                                                                         "data-license"]), values), max_size=2)),
    st.tuples(st.just("compare"), st.builds(lambda name, value: [name, f"--only={value}", "stage1.stepz=1"],
                                            st.sampled_from(["mnist", "beta", "x", ""]), values)),
    st.tuples(st.just("make_doom_data"), st.builds(lambda flag, value: [f"--{flag}={value}", "--frames=0"],
                                                   st.sampled_from(["folder", "episodes", "seed"]), values)),
    # `demo --` alone would run the whole demo
    st.tuples(st.just("demo"), st.lists(values.filter(bool).map(lambda value: f"--{value}"), min_size=1, max_size=1)),
)
counts: Counter[tuple[str, int]] = Counter()


@pytest.fixture(scope="module")
def made(tmp_path_factory, command):
    """A folder with `runs/tiny`, both stages on a folder of 40 pictures of two classes, and that folder."""
    home = tmp_path_factory.mktemp("flags")
    for number in range(40):
        path = home / FOLDER / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 30 + number).point(lambda value, n=number: value // (2 - n % 2)).save(path)
    first = [*SMALL, f"data.root={home / FOLDER}", f"data.cache={home / 'cache'}"]
    command("train_stage1", *first, cwd=home)
    for verb in ("extract_codes", "train_stage2"):
        command(verb, "run=tiny", cwd=home)
    command("compress", "--run=tiny", f"--input={home / FOLDER}", f"--out={home / 'all.ndc'}", cwd=home)
    return home


def assert_done_or_one_line(result) -> None:
    lines = result.stderr.replace("\r", "\n").splitlines()
    shown = f"{result.args}: {result.returncode}\n{result.stdout[-500:]}\n{result.stderr[-3000:]}"
    assert "Traceback" not in result.stderr, shown
    errors = [line for line in lines if line.startswith("error: ")]
    findings = [(1, 0)] if result.args[0] == "doctor" else []
    assert (result.returncode, len(errors)) in ((0, 0), (2, 1), *findings), shown
    if errors:
        assert lines[-1] == errors[0] and len(errors[0]) < 8000, shown


@pytest.fixture(scope="module", autouse=True)
def shown_counts():
    yield
    for verb in sorted({verb for verb, _ in counts}):
        print(f"{verb:<16} done {counts[verb, 0] + counts[verb, 1]:>4}   refused {counts[verb, 2]:>4}")
    print(f"{'all':<16} {sum(counts.values())} invocations")


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
          phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.one_of(hydra_calls, hydra_calls, flag_calls, flag_calls, others), st.booleans())
@example(("train_stage1", ["data=null"]), True)
@example(("train_stage1", ["~data"]), True)
@example(("train_stage1", ["run=null"]), True)
@example(("train_stage2", ["evaluate.predictions=" + 5000 * "9"]), False)
@example(("train_stage1", ["autoencoder.encoder=null"]), True)
@example(("train_stage1", ["autoencoder.bottleneck.dim=-1"]), True)
@example(("train_stage1", ["decoder_condition_on=[class]"]), True)
@example(("train_stage1", ["autoencoder.bottleneck.num_codes=100000000000"]), True)
@example(("train_stage2", ["prior.kernel_size=2"]), False)
@example(("evaluate", ["autoencoder/bottleneck=true"]), True)
@example(("train_stage1", ["~data=1"]), True)
@example(("extract_codes", ["extract.overwrite=x"]), False)
@example(("evaluate", ["evaluate.judge=7"]), False)
@example(("sample", ["--seed=18446744073709551616"]), False)
@example(("sample", ["--n=1" + 30 * "0"]), False)
@example(("sample", ["--seconds=nan"]), False)
@example(("explore", ["--run=nosuch", "--no-browser", "--port=0"]), False)
def test_every_verb_does_what_was_asked_or_says_in_one_line_why_not(made, tmp_path_factory, command, call, anew):
    verb, arguments = call
    home = tmp_path_factory.mktemp("call")
    if verb in STAGES:
        parts = () if anew and verb == "train_stage1" else STAGES[verb] or ("stage1",)
        for part in parts:
            shutil.copytree(made / "runs" / "tiny" / part, home / "runs" / "tiny" / part)
        places = [f"data.root={made / FOLDER}", f"data.cache={made / 'cache'}"]
        arguments = [*SMALL, *places, *arguments] if anew else ["run=tiny", *arguments]
    elif verb in FLAGS:
        shutil.copytree(made / "runs", home / "runs")
        places = {"PICTURES": str(made / FOLDER), "COMPRESSED": str(made / "all.ndc")}
        own = [places.get(word, word) for word in FLAGS[verb][0]]
        arguments = [*own, *([] if anew else ["--run=tiny"]), *arguments]
    elif verb in ("list_runs", "publish", "doctor"):
        shutil.copytree(made / "runs", home / "runs")
    result = command(verb, *arguments, cwd=home, check=False)
    counts[verb, result.returncode] += 1
    assert_done_or_one_line(result)
    shutil.rmtree(home)


def test_every_verb_is_asked():
    assert {*STAGES, *FLAGS, "list_runs", "publish", "doctor", "compare", "explore", "make_doom_data",
            "demo"} == {
        verb.replace("-", "_") for verb in console.verbs()}


def test_no_is_false_and_a_word_that_is_neither_is_refused(made, tmp_path, command):
    """`extract.overwrite=no` kept no codes: any word was true."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/tiny/codes").iterdir()}
    for word in ("no", "off", "n", "false", "0"):
        command("extract_codes", "run=tiny", f"extract.overwrite={word}", cwd=tmp_path)
    refused = command("extract_codes", "run=tiny", "extract.overwrite=x", cwd=tmp_path, check=False)
    assert "extract.overwrite: expected true or false, found 'x'" in refused.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/tiny/codes").iterdir()}
    command("extract_codes", "run=tiny", "extract.overwrite=yes", cwd=tmp_path)
    assert before != {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/tiny/codes").iterdir()}


def test_a_run_knows_its_own_configuration(made, tmp_path, command):
    """RUN=NAME alone continues, extracts and evaluates; only what differs is given."""
    shutil.copytree(made / "runs" / "tiny" / "stage1", tmp_path / "runs" / "tiny" / "stage1")
    shutil.copy(made / "runs" / "tiny" / "settings.yaml", tmp_path / "runs" / "tiny")
    moved = tmp_path / "moved" / FOLDER
    shutil.copytree(made / FOLDER, moved)
    more = command("train_stage1", "run=tiny", "train.steps=4", "train.validate_every=2", cwd=tmp_path)
    assert "step 4;" in more.stdout
    command("extract_codes", "run=tiny", f"data.root={moved}", cwd=tmp_path)
    command("train_stage2", "run=tiny", "train.lr=0.005", cwd=tmp_path)
    again = command("train_stage2", "run=tiny", cwd=tmp_path)
    assert "step 2;" in again.stdout, "the rate of learning it was given is its own now"
    table = command("evaluate", "run=tiny", cwd=tmp_path).stdout
    assert "classifier" not in table, "evaluate.classifier=false is that of the run"
    refused = command("train_stage1", "run=tiny", "train.lr=0.5", cwd=tmp_path, check=False)
    assert refused.returncode == 2 and "train.lr: expected 0.001 as in this run so far, found 0.5" in refused.stderr


def test_a_runs_own_configuration_names_no_foreign_code(made, tmp_path, command):
    for file, part, target in (("settings.yaml", "prior", "os.system"), ("stage1/config.yaml", "data", "os.system"),
                               ("stage1/config.yaml", "data", "pipelines.data.codes.write_codes")):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        shutil.copytree(made / "runs", tmp_path / "runs")
        shutil.rmtree(tmp_path / "runs" / "tiny" / "stage2")
        path = tmp_path / "runs" / "tiny" / file
        text = path.read_text().replace(f"\n{part}:\n  _target_: ", f"\n{part}:\n  _target_: {target}\n  x: ")
        path.write_text(text)
        assert target in text
        refused = command("extract_codes", "run=tiny", cwd=tmp_path, check=False)
        assert refused.returncode == 2 and target in refused.stderr and "Traceback" not in refused.stderr


def test_the_folder_of_a_call_holds_that_call(made, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.png").write_bytes(b"a file of the user's own")
    sampled = ["sample", "--run", str(made / "runs" / "tiny"), "--out", str(out)]
    command(*sampled, "--n", "3")
    command(*sampled, "--n", "2")
    names = {path.name for path in out.iterdir() if path.name[0] != "."}
    assert names == {"00000.png", "00001.png", "grid.png", "mine.png"}
    before = {path: path.read_bytes() for path in out.iterdir()}
    command(*sampled, "--n", "2", "--label", "class=none", check=False)
    assert before == {path: path.read_bytes() for path in out.iterdir()}, "a call that fails changes nothing"
    (out / ".written-by-sample").write_text("../out/mine.png\nmine.pn\n..\n\n")
    command("reconstruct", "--run", str(made / "runs" / "tiny"), "--input", str(out / "00000.png"), "--out", str(out))
    command(*sampled, "--n", "1")
    assert {path.name for path in out.iterdir()} >= {"mine.png", "00000.png", "00000-00000.png"}


def test_without_run_a_line_says_which_was_taken(made, tmp_path, command):
    mine = command("sample", "--n", "1", "--out", str(tmp_path / "a"), cwd=made).stdout.splitlines()
    assert mine[0] == "--run not given: runs/tiny, the run whose stage 2 was trained last"
    other = command("sample", "--n", "1", "--out", str(tmp_path / "b"), cwd=tmp_path).stdout.splitlines()
    assert "pretrained/mnist, a pretrained run, since none in runs has a trained stage 2" in other[0]
    named = command("sample", "--n", "1", "--run", "tiny", "--out", str(tmp_path / "c"), cwd=made).stdout
    assert "not given" not in named and "runs/tiny" in named


def test_paths_as_people_type_them(made, tmp_path, command, monkeypatch):
    """`~` and $NAME are expanded, and no character needs Hydra's quotes; what cannot be is said in one line."""
    home = tmp_path / "home of é"
    shutil.copytree(made / FOLDER, home / FOLDER)
    small = [*SMALL, f"data.cache={tmp_path}/cache"]
    for number, place in enumerate((f"~/{FOLDER}", f"$PICTURES/{FOLDER}", f"'{home}/{FOLDER}'")):
        run = command("train_stage1", *small, f"data.root={place}", f"run=r{number}", "train.steps=1", cwd=tmp_path,
                      environment={"HOME": str(home), "PICTURES": str(home)})
        assert f"runs/r{number}" in run.stdout
    refused = command("train_stage1", *small, "train.device=(x", cwd=tmp_path, check=False)
    assert refused.returncode == 2 and refused.stderr.startswith("error: train.device=(x: expected KEY=VALUE")
    assert "quoted twice" in refused.stderr
