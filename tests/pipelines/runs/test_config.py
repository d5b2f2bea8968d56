"""What a configuration may say, and what it gets when it says something else."""

import pytest

from pipelines.commands.hydra import expand_train
from pipelines.files.errors import InputError
from pipelines.runs.config import build
from pipelines.runs.store import first_difference

QUANTIZER = "stage1_vqvae.bottlenecks.vq.EMAQuantizer"


def test_train_is_short_for_the_stage():
    assert expand_train("train.lr=1", "stage2") == "stage2.lr=1"
    assert expand_train("+train.new=1", "stage1") == "+stage1.new=1"
    assert expand_train("train=long", "stage1") == "train@stage1=long"
    assert expand_train("data.root=train.x", "stage1") == "data.root=train.x"


@pytest.mark.parametrize("target", [
    "os.system", "torch.load", "torch.hub.load", "builtins.eval", "pipelines.data.mnist", "torch.nn.Linear",
    "stage1_vqvae.autoencoder.torch.load", "subprocess.Popen", "stage1_vqvae.likelihoods.gaussian.math.sqrt",
    "stage2_prior.sampling.torch", "Linear", 7,
])
def test_a_run_may_name_only_what_the_stages_define(target):
    with pytest.raises(InputError, match="_target_"):
        build({"_target_": target}, trusted_only=True)


def test_a_foreign_target_deep_inside_is_refused_too():
    tree = {"_target_": "stage1_vqvae.autoencoder.Autoencoder", "encoder": [{"a": {"_target_": "os.system"}}]}
    with pytest.raises(InputError, match="os.system"):
        build(tree, trusted_only=True)


def test_trusted_targets_are_built():
    assert build({"_target_": QUANTIZER, "num_codes": 8, "dim": 4}, trusted_only=True).num_codes == 8
    assert build({"_target_": "torch.nn.ReLU"}, trusted_only=True)
    assert build({"_target_": QUANTIZER, "_partial_": True, "dim": 4})(num_codes=3).num_codes == 3


@pytest.mark.parametrize("argument, value, message", [
    ("num_code", 8, "found 'num_code'"),
    ("num_codes", "abc", "num_codes: expected int, found 'abc'"),
    ("num_codes", 1.5, "num_codes: expected int, found 1.5"),
    ("decay", True, "decay: expected float, found True"),
    ("num_codebooks", 3, "num_codebooks=3"),
])
def test_wrong_arguments_are_named(argument, value, message):
    with pytest.raises(InputError) as caught:
        build({"_target_": QUANTIZER, argument: value})
    assert message in str(caught.value)


def test_differences_that_a_resumed_run_may_have():
    old = {"seed": 0, "train": {"steps": 10, "lr": 1.0, "device": "cpu", "log_every": 5}, "data": {"root": "a"}}
    new = {"seed": 0, "train": {"steps": 20, "lr": 1.0, "device": "cuda", "log_every": 1}, "data": {"root": "b"}}
    assert first_difference(old, new) is None
    assert first_difference(old, new | {"seed": 1}) == ("seed", 0, 1)
    assert first_difference(old, new | {"train": new["train"] | {"lr": 2.0}}) == ("train.lr", 1.0, 2.0)
    assert first_difference(old, {"seed": 0, "train": old["train"]}) == ("data", {"root": "a"}, None)
