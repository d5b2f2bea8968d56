"""export_model.py: files that need no code of this project, checked against the original, or none."""

import json
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import export_model, load
from pipelines.evaluation import exports
from pipelines.files.errors import InputError
from pipelines.splits.base import Batch

ONNX = [name for name in exports.NEEDED if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(ONNX), reason=f"requires {', '.join(ONNX)} of the extra [export]")
ROOT = Path(__file__).resolve().parents[2]


def script(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["export_model", *map(str, words)])
        export_model.main(export_model.parse_arguments())


@pytest.fixture(scope="module")
def digits(tiny_run):
    return load(tiny_run, "cpu")


@pytest.fixture(scope="module")
def pt2(digits, tmp_path_factory) -> Path:
    """Exported on held-out items of the embedded digits; never changed by a test."""
    out = tmp_path_factory.mktemp("export")
    written = digits.export(out, items=5, formats=("pt2",))
    assert [(own.file, own.exact) for own in written] == [("encoder.pt2", True), ("decoder.pt2", False),
                                                          ("prior.pt2", False)]
    assert all(own.size == (out / own.file).stat().st_size and own.difference <= exports.TOLERANCE for own in written)
    return out


def test_programs_give_what_the_run_gives(pt2, digits):
    x = digits.sample(7, seed=1).x
    encoder, decoder, prior = (torch.export.load(pt2 / f"{name}.pt2").module() for name in ("encoder", "decoder",
                                                                                          "prior"))
    codes = encoder(x=x)
    assert torch.equal(codes, digits.encode(x)) and len(codes.unique()) > 3
    made = decoder(codes=codes)
    assert torch.equal(made.round().clamp(0, 255).to(torch.uint8), digits.decode(codes))
    labels = torch.arange(7)[:, None]
    torch.testing.assert_close(prior(codes=codes, labels=labels), digits.stage2(codes, labels), rtol=1e-5, atol=1e-5)


def test_one_step_of_the_prior_sees_earlier_codes_alone(pt2, digits):
    """So drawing code by code with the exported prior is ancestral sampling: the likeliest codes are those of
    temperature 0."""
    prior, labels = torch.export.load(pt2 / "prior.pt2").module(), torch.tensor([[7]])
    codes = torch.zeros(1, 4, 4, dtype=torch.int64)
    for row in range(4):
        for column in range(4):
            codes[0, row, column] = prior(codes=codes, labels=labels)[0, :, row, column].argmax()
    assert torch.equal(codes, digits.sample(1, temperature=0, digit="7").codes)


def test_what_goes_in_and_comes_out_is_described(pt2):
    said = json.loads((pt2 / "export.json").read_text())
    assert said["graphs"]["encoder"] == {"inputs": {"x": {"dtype": "uint8", "shape": ["batch", 1, 8, 8]}},
                                         "output": {"codes": {"dtype": "int64", "shape": ["batch", 4, 4]}}}
    assert said["graphs"]["prior"]["inputs"].keys() == {"codes", "labels"}
    assert said["labels"] == {"decoder": {}, "prior": {"digit": list("0123456789")}}
    assert set(said["differences"]) == {"encoder.pt2", "decoder.pt2", "prior.pt2"}


def test_files_hold_no_items_and_no_places_of_this_machine(pt2):
    for path in pt2.glob("*.pt2"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                content = archive.read(name)
                assert str(ROOT).encode() not in content and sys.prefix.encode() not in content, name
                if "sample_inputs" in name:
                    (archive_inputs,) = [torch.load(archive.open(name), weights_only=True)]
                    values = [value for value in archive_inputs[1].values() if isinstance(value, torch.Tensor)]
                    assert values and not any(value.any() for value in values)


@pytest.mark.slow  # an environment of its own
@needs_onnx
def test_onnx_files_run_without_torch_and_this_project(tiny_run, digits, tmp_path, capsys):
    """By onnxruntime alone, on a given picture, in an interpreter that sees no folder of this project."""
    picture = digits.sample(1, seed=2).x[0]
    Image.fromarray(picture[0].numpy()).save(tmp_path / "seven.png")
    script("--run", tiny_run, "--out", tmp_path / "out", "--input", tmp_path / "seven.png", "--format", "onnx")
    printed = capsys.readouterr().out
    assert "encoder.onnx: 0." in printed and ", codes identical" in printed
    assert printed.count("largest difference ") == 2
    names = {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."}
    assert names == {"encoder.onnx", "decoder.onnx", "prior.onnx", "export.json"}
    assert not any(str(ROOT).encode() in path.read_bytes() for path in (tmp_path / "out").iterdir())
    np.save(tmp_path / "x.npy", np.repeat(picture[None].numpy(), 3, 0))
    code = """if True:
        import sys, numpy as np, onnxruntime as ort
        def run(name, **inputs):
            return ort.InferenceSession(name).run(None, inputs)[0]
        codes = run("out/encoder.onnx", x=np.load("x.npy"))
        np.save("codes.npy", codes)
        np.save("made.npy", run("out/decoder.onnx", codes=codes))
        np.save("logits.npy", run("out/prior.onnx", codes=codes, labels=np.array([[1], [2], [3]])))
        assert not {"torch", "pipelines", "stage2_prior"} & set(sys.modules)"""
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, timeout=120)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    example = example.replace("7, 7", "4, 4") + "assert image.shape == (1, 1, 8, 8) and codes.min() < codes.max()"
    subprocess.run([sys.executable, "-I", "-c", example], cwd=tmp_path / "out", check=True, timeout=120)
    codes, made, logits = (torch.from_numpy(np.load(tmp_path / f"{name}.npy")) for name in ("codes", "made", "logits"))
    expected = digits.encode(picture[None].repeat(3, 1, 1, 1))
    assert torch.equal(codes, expected)
    assert torch.equal(made.round().clamp(0, 255).to(torch.uint8), digits.decode(codes))
    torch.testing.assert_close(logits, digits.stage2(codes, torch.tensor([[1], [2], [3]])), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("graph, error, said", [
    ("decoder", 0.01, r"decoder.pt2: expected the original's x within 1e-05 .* difference of .*no file is left"),
    ("prior", 0.001, r"prior.pt2: expected the original's logits within 1e-05 .* difference of .*no file is left"),
    ("prior", float("nan"), r"prior.pt2: expected the original's logits within 1e-05 .* difference of nan"),
    ("encoder", 1, r"encoder.pt2: expected the original's codes, found \d+ of \d+ others; no file is left"),
])
def test_a_file_that_differs_is_refused_and_none_is_left(digits, tmp_path, monkeypatch, graph, error, said):
    def write(given, path):
        path.write_bytes(b"x")
        return lambda inputs: given.network(**inputs) + (error if given.name == graph else 0)

    monkeypatch.setattr(exports, "_write", write)
    x = digits.sample(2, seed=0).x
    with pytest.raises(InputError, match=said):
        digits.export(tmp_path / "out", x, formats=("pt2",))
    assert not (tmp_path / "out").exists()


def test_audio_exports_one_step_of_its_decoder():
    """The pretrained spoken digits: of a decoder that draws sample by sample the graph is its logits."""
    run = load("fsdd", "cpu")
    x, lengths = (torch.arange(2 * 8192) / 20).sin().view(2, 1, 8192) / 2, torch.tensor([8192, 5000])
    batch = Batch(x, torch.empty(2, 0, dtype=torch.int64), lengths=lengths)
    graphs = {graph.name: graph for graph in exports.graphs_of(run._loaded, batch)}
    given = graphs["decoder"].inputs
    assert given.keys() == {"codes", "levels", "labels"} and given["levels"].shape == (2, 1, 8192)
    assert {name: tuple(value.shape) for name, value in graphs["prior"].inputs.items()} == {
        "codes": (2, 128), "labels": (2, 2), "local": (2, 4, 128)}
    evaluated = run.stage1.evaluate(x, given["labels"])
    with torch.no_grad():
        logits = graphs["decoder"].network(**given)
    nats = torch.nn.functional.cross_entropy(logits, given["levels"][:, 0], reduction="none")
    torch.testing.assert_close(nats.double(), evaluated.value_nats[:, 0], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_takes_one_line(tiny_run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="^--items: expected a number >= 1, found 0"):
        script("--run", tiny_run, "--items", 0)
    with pytest.raises(InputError, match="nosuch"):
        script("--run", "mnist", "--data-root", tmp_path / "nosuch", "--out", tmp_path / "out")
    monkeypatch.setattr(exports, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(InputError, match=r"^--format: expected the extra \[export\] for onnx, found no_such_package"):
        script("--run", tiny_run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
