"""Checkpoints are read as a whole and compared before they are used; nothing is removed before that."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.files.errors import InputError
from pipelines.training import checkpoint
from pipelines.training.checkpoint import (
    EMA,
    MODEL,
    OPTIMIZER,
    State,
    check_optimizer,
    check_weights,
    find_checkpoint,
    optimizer_state,
    read_part,
    read_state,
    restore,
    save_checkpoint,
    settle_pointers,
    write_parts,
)
from pipelines.training.loop import make_optimizer
from pipelines.training.settings import Settings

CPU = torch.device("cpu")
SETTINGS = Settings(weight_decay=0.1)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GroupNorm(2, 4))


def untrained() -> list[torch.nn.Module]:
    """Two with other weights than `network`'s."""
    return [torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GroupNorm(2, 4)) for _ in range(2)]


def trained(model: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer = make_optimizer(model, SETTINGS)
    for _ in range(2):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@pytest.fixture
def folder(tmp_path) -> Path:
    """A stage with two checkpoints, steps 10 (best) and 20 (latest)."""
    for step in (10, 20):
        model = network()
        optimizer = trained(model)
        save_checkpoint(tmp_path, State(step=step, best_step=10, best_score=0.5), model.state_dict(),
                        model.state_dict(), optimizer.state_dict())
    return tmp_path


def restored(folder: Path) -> None:
    newest = find_checkpoint(folder)
    model, average = network(), network()
    restore(newest, read_state(newest), model, average, make_optimizer(model, SETTINGS), CPU)


def rewritten(step_folder: Path, **changes: object) -> None:
    path = step_folder / "state.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_what_was_saved_is_restored(folder):
    newest = find_checkpoint(folder)
    model, average = untrained()
    optimizer = make_optimizer(model, SETTINGS)
    restore(newest, read_state(newest), model, average, optimizer, CPU)
    original = network()
    moments = trained(original).state_dict()["state"]
    for own in (model, average):
        assert all(torch.equal(own.state_dict()[name], value) for name, value in original.state_dict().items())
    found = optimizer.state_dict()["state"]
    assert found.keys() == moments.keys() == {0, 1, 2, 3}
    assert all(torch.equal(found[index][name], value) for index, own in moments.items() for name, value in own.items())


@pytest.mark.parametrize("name", [MODEL, EMA, OPTIMIZER])
def test_one_flipped_bit_of_any_part_is_found_and_nothing_is_used(name, folder):
    path = find_checkpoint(folder) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    newest, (model, average) = find_checkpoint(folder), untrained()
    before = [{key: value.clone() for key, value in own.state_dict().items()} for own in (model, average)]
    optimizer = make_optimizer(model, SETTINGS)
    with pytest.raises(InputError, match=rf"{name}: expected the checksum .* found .*: it is damaged"):
        restore(newest, read_state(newest), model, average, optimizer, CPU)
    for own, old in zip((model, average), before, strict=True):
        assert all(torch.equal(own.state_dict()[key], value) for key, value in old.items())
    assert not optimizer.state


@pytest.mark.parametrize("name", [MODEL, EMA, OPTIMIZER])
def test_a_missing_part_is_named(name, folder):
    (find_checkpoint(folder) / name).unlink()
    with pytest.raises(InputError, match=f"{name}: expected a part of this checkpoint, found no such file"):
        restored(folder)


def test_a_part_that_the_state_does_not_name_is_not_read(folder):
    """An average that was put there by hand is another's."""
    newest, model = find_checkpoint(folder), network()
    write_parts(newest, read_state(newest), model.state_dict())
    assert (newest / EMA).exists() and not checkpoint.has_part(newest, read_state(newest), EMA)
    with pytest.raises(InputError, match=f"{EMA}: expected a part of this checkpoint, found none"):
        read_part(newest, read_state(newest), EMA)


def test_a_checkpoint_in_another_ones_folder(folder):
    root = folder / "checkpoints"
    shutil.rmtree(root / "step-0000020")
    shutil.copytree(root / "step-0000010", root / "step-0000020")
    with pytest.raises(InputError, match="state.json: step: expected that of step-0000020, found 10"):
        restored(folder)


def test_nothing_is_removed_where_the_best_checkpoint_is_gone(folder):
    root = folder / "checkpoints"
    shutil.copytree(root / "step-0000010", root / "step-0000005")
    shutil.rmtree(root / "step-0000010")
    with pytest.raises(InputError, match="checkpoints: expected step-0000010, the best checkpoint, found none"):
        settle_pointers(folder, read_state(root / "step-0000020"))
    assert (root / "step-0000005").is_dir()


@pytest.mark.parametrize("key, value", [
    ("step", -1), ("step", 20.0), ("step", ...), ("best_step", 21), ("best_step", 0), ("best_step", "10"),
    ("best_score", None), ("best_score", "low"), ("best_score", float("nan")), ("bad_validations", -1),
    ("bad_validations", ...), ("stopped_early", 0), ("seconds", -1.0), ("seconds", float("inf")), ("seconds", None),
    ("stage1_hash", "ab"), ("parent_hash", 3), ("trained_at", "yesterday"), ("trained_at", 2026), ("checksums", {}),
    ("checksums", {MODEL: "ab"}), ("checksums", {MODEL: "ab" * 32, "../other": "ab" * 32}), ("more", 1),
])
def test_wrong_values_of_a_state(key, value, folder):
    newest = find_checkpoint(folder)
    rewritten(newest, **{key: value})
    with pytest.raises(InputError, match=r"state.json: .*expected .*, found") as error:
        read_state(newest)
    assert key in str(error.value) or key == "more" or value is ...


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_state_that_is_none(content, folder):
    newest = find_checkpoint(folder)
    (newest / "state.json").write_bytes(content)
    with pytest.raises(InputError, match="state.json: .*expected .*, found"):
        read_state(newest)


@pytest.mark.parametrize("change, message", [
    (lambda weights: weights.pop("0.bias"), "'0.bias' missing"),
    (lambda weights: weights.update(more=torch.zeros(1)), "'more' unknown"),
    (lambda weights: weights.update({"0.bias": torch.zeros(5)}), r"0.bias: expected shape \(4,\), found \(5,\)"),
    (lambda weights: weights.update({"0.bias": torch.zeros(4).long()}), "0.bias: expected torch.float32, found"),
    (lambda weights: weights["1.weight"][2:].fill_(torch.nan), "1.weight: expected finite values, found .*NaN"),
    (lambda weights: weights["1.weight"][:1].fill_(torch.inf), "1.weight: expected finite values"),
])
def test_weights_that_are_not_this_models(change, message, folder, tmp_path):
    weights = {name: value.clone() for name, value in network().state_dict().items()}
    change(weights)
    with pytest.raises(InputError, match=f"^model.safetensors: .*{message}"):
        check_weights(network(), weights, Path(MODEL))
    newest = find_checkpoint(folder)
    write_parts(newest, read_state(newest), weights, network().state_dict(), trained(network()).state_dict())
    with pytest.raises(InputError, match=message):
        restored(folder)


def test_half_precision_weights_are_taken():
    """Published runs are stored so."""
    check_weights(network(), {name: value.half() for name, value in network().state_dict().items()}, Path(MODEL))


@pytest.mark.parametrize("change, message", [
    (lambda found: found.pop("state"), "keys: expected exactly"),
    (lambda found: found.update(param_groups=found["param_groups"][:1]), "param_groups: expected 2 groups"),
    (lambda found: found["param_groups"][0].update(weight_decay=0.2), "weight_decay: expected 0.1, found 0.2"),
    (lambda found: found["param_groups"][0].update(betas=(0.9, 0.9)), "betas: expected"),
    (lambda found: found["param_groups"][1].update(params=[0]), "params: expected"),
    (lambda found: found["param_groups"][1].update(maximize=True), "maximize: expected False"),
    (lambda found: found["param_groups"][1].pop("betas"), r"param_groups\[1\]: expected"),
    (lambda found: found["param_groups"][0].update(lr=torch.nan), "lr: expected a finite number"),
    (lambda found: found["state"].update({7: {}}), "state: expected 4 parameters' moments"),
    (lambda found: found["state"][0].pop("exp_avg"), r"state\[0\]: expected exactly"),
    (lambda found: found["state"][0].update(exp_avg=torch.zeros(3, 4)), r"exp_avg: expected .*\(4, 3\)"),
    (lambda found: found["state"][0].update(exp_avg_sq=torch.zeros(4, 3).half()), "exp_avg_sq: expected .*float32"),
    (lambda found: found["state"][0].update(exp_avg=torch.zeros(()).expand(4, 3)), "exp_avg: expected one value"),
    (lambda found: found["state"][0].update(exp_avg=torch.zeros(4, 6)[:, ::2]), "exp_avg: expected one value a place"),
    (lambda found: found["state"][0].update(exp_avg=torch.zeros(4, 3).to_sparse()), "exp_avg: expected a tensor"),
    (lambda found: found["state"][0].update(exp_avg=torch.zeros(4, 3, device="meta")), "exp_avg: expected a tensor"),
    (lambda found: found["param_groups"][0].update(betas=[0.9, 0.999]), "betas: expected"),
    (lambda found: found["param_groups"][0].update(fused=1), "fused: expected True"),
    (lambda found: found["state"][0].update(step=3), r"state\[0\].step: expected a tensor"),
    (lambda found: found["state"][0]["exp_avg"].fill_(torch.nan), "exp_avg: expected finite values"),
])
def test_an_optimisers_state_that_is_not_this_ones(change, message):
    model = network()
    found = trained(network()).state_dict()
    check_optimizer(make_optimizer(model, SETTINGS), found, Path(OPTIMIZER))
    change(found)
    with pytest.raises(InputError, match=f"^optimizer.pt: .*{message}"):
        check_optimizer(make_optimizer(model, SETTINGS), found, Path(OPTIMIZER))


def test_an_option_of_another_version_of_torch_is_its_own_affair():
    found = trained(network()).state_dict()
    found["param_groups"][0]["of_the_future"] = True
    del found["param_groups"][0]["maximize"]
    check_optimizer(make_optimizer(network(), SETTINGS), found, Path(OPTIMIZER))


def test_format_1_has_no_checksums_and_its_folder_says_what_there_is(folder):
    newest = find_checkpoint(folder)
    rewritten(newest, format=..., checksums=..., stage1_hash=..., parent_hash=..., trained_at=...)
    assert read_state(newest).checksums is None
    restored(folder)
    weights = load_file(newest / MODEL)
    save_file({name: value + 1 for name, value in weights.items()}, newest / MODEL)
    restored(folder)  # nothing to compare with
    (newest / EMA).unlink()
    assert not checkpoint.has_part(newest, read_state(newest), EMA)


def test_an_optimiser_is_stored_the_same_from_a_gpu(tmp_path):
    """There its learning rate is a tensor and it is `capturable`: a run goes on from a CPU, and back."""
    model = network()
    optimizer, expected = trained(model), optimizer_state(trained(network()))
    for group in optimizer.param_groups:
        group["lr"], group["capturable"] = torch.tensor(group["lr"]), True
    found = optimizer_state(optimizer)
    assert [list(group) for group in found["param_groups"]] == [list(group) for group in expected["param_groups"]]
    for group, own in zip(found["param_groups"], expected["param_groups"], strict=True):
        assert group | {"lr": 0} == own | {"lr": 0} and type(group["lr"]) is float
        assert group["lr"] == pytest.approx(own["lr"])
    check_optimizer(optimizer, found, Path(OPTIMIZER))  # what runs on a GPU accepts what a CPU stored
    save_checkpoint(tmp_path, State(step=10), model.state_dict(), model.state_dict(), found)
    newest = find_checkpoint(tmp_path)
    restore(newest, read_state(newest), *untrained(), optimizer, CPU)
    assert all(isinstance(group["lr"], torch.Tensor) and group["capturable"] for group in optimizer.param_groups)


def test_moments_are_copies_in_the_order_of_their_parameter(folder):
    """A fused step relies on it; a file may have them in another one."""
    newest, (model, average) = find_checkpoint(folder), untrained()
    found = checkpoint.read_optimizer(newest, read_state(newest))
    turned = found["state"][0]["exp_avg"].t().contiguous().t()
    assert turned.stride() == (1, 4)
    found["state"][0]["exp_avg"] = turned
    write_parts(newest, read_state(newest), model.state_dict(), average.state_dict(), found)
    optimizer = make_optimizer(model, SETTINGS)
    restore(newest, read_state(newest), model, average, optimizer, CPU)
    assert optimizer.state_dict()["state"][0]["exp_avg"].stride() == (3, 1)
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], turned)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:100], lambda content: b"PK" + content,
                                    lambda content: content.replace(b"\x00\x00\x00@", b"\x00\x00\x01@", 1)])
def test_an_optimisers_file_of_format_1_is_checked_by_its_own_sums(damage, folder):
    newest = find_checkpoint(folder)
    rewritten(newest, format=..., checksums=..., stage1_hash=..., parent_hash=..., trained_at=...)
    path = newest / OPTIMIZER
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="optimizer.pt: expected a whole optimiser state, found one that cannot be"):
        restored(folder)


@pytest.mark.parametrize("content", [b"", b"\xff", b"step-0000030", b"../step-0000020", b"step-\0", b"x" * 2000])
def test_a_pointer_that_names_nothing(content, folder):
    (folder / "checkpoints" / "latest").write_bytes(content)
    with pytest.raises(InputError, match="latest: expected the name of a checkpoint beside it.*, found"):
        find_checkpoint(folder)


def test_where_latest_is_gone_the_last_step_is_taken_for_it(folder, capsys):
    checkpoint.settle_latest(folder)
    assert capsys.readouterr().err == ""
    (folder / "checkpoints" / "latest").unlink()
    checkpoint.settle_latest(folder)
    assert find_checkpoint(folder).name == "step-0000020"
    assert "latest: expected the name of the newest checkpoint, found no such file" in capsys.readouterr().err
    shutil.rmtree(folder / "checkpoints")
    checkpoint.settle_latest(folder)
    assert find_checkpoint(folder) is None


def test_only_checkpoints_are_removed_and_of_a_link_only_the_link(folder, tmp_path):
    root = folder / "checkpoints"
    shutil.copytree(root / "step-0000010", tmp_path / "elsewhere")
    (root / "step-0000005").symlink_to(tmp_path / "elsewhere")
    shutil.copytree(root / "step-0000010", root / "step-0000010-kept")
    settle_pointers(folder, read_state(root / "step-0000020"))
    assert sorted(path.name for path in root.glob("step-*")) == ["step-0000010", "step-0000010-kept", "step-0000020"]
    assert (tmp_path / "elsewhere" / MODEL).exists()
