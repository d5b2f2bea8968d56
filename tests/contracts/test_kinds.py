"""What every kind of data keeps, the project's and those in the user's folders: found by globbing."""

import argparse
import inspect
import subprocess
import sys

import pytest

from pipelines.api import load
from pipelines.commands.flags import add_completion_flags
from pipelines.files.errors import InputError
from pipelines.kinds import all_kinds, check_able, kind_of
from pipelines.kinds.base import COMPLETION, Kind

OPTIONAL = ("draw_scores", "reconstruct", "convert", "predict", "plot_latents", "find_files", "load_files",
            "write_item")


def pytest_generate_tests(metafunc):
    if "kind_name" in metafunc.fixturenames:
        metafunc.parametrize("kind_name", all_kinds())


def test_its_flags_are_those_that_it_names(kind_name):
    kind, parser = kind_of(kind_name), argparse.ArgumentParser()
    kind.add_sample_flags(parser.add_argument_group("own"))
    added = vars(parser.parse_args([]))
    assert set(added) == set(kind.sample_flags) and all(value is None for value in added.values())


def test_no_two_kinds_add_the_same_flag():
    """A kind that derives from another one shares its flags, and does not add them again."""
    adding = [kind for kind in all_kinds().values() if "add_sample_flags" in vars(type(kind))]
    flags = [flag for kind in adding for flag in kind.sample_flags]
    assert len(flags) == len(set(flags)) and {"keep", "seconds", "actions"} <= set(flags)
    assert not set(flags) & set(COMPLETION)


def test_the_flags_of_completion_are_those_that_the_parser_adds():
    parser = argparse.ArgumentParser()
    add_completion_flags(parser.add_argument_group("completion"))
    added = vars(parser.parse_args([]))
    assert set(added) == set(COMPLETION) and all(value is None for value in added.values())


def test_a_kind_that_completes_items_reads_masks(kind_name):
    kind = kind_of(kind_name)
    assert kind.completes == (type(kind).read_mask is not Kind.read_mask) == set(COMPLETION).issubset(kind.options)


def test_it_measures_by_four_functions_and_may_compare_items_by_two(kind_name):
    evaluation = kind_of(kind_name).evaluation
    parameters = {"check": 1, "figures": 3, "rows": 1, "draw": 3}
    if hasattr(evaluation, "features") or hasattr(evaluation, "draw_rows"):
        parameters |= {"features": 3, "draw_rows": 3}
    if hasattr(evaluation, "local_features") or hasattr(evaluation, "rows_of_item"):
        parameters |= {"local_features": 2, "rows_of_item": 1}
    for name, count in parameters.items():
        assert len(inspect.signature(getattr(evaluation, name)).parameters) == count, name


def test_what_it_leaves_out_is_refused_and_those_that_have_it_are_named(kind_name, tmp_path):
    kind = kind_of(kind_name)
    for method in OPTIONAL:
        able = [name for name, other in all_kinds().items()
                if any(method in vars(base) for base in type(other).__mro__ if base is not Kind)]
        if kind_name in able:
            check_able(kind, method, tmp_path)
            continue
        with pytest.raises(InputError, match=f"expected a run on {' or '.join(able)}, found one on {kind_name}$"):
            check_able(kind, method, tmp_path)


def test_signatures_are_those_of_the_base(kind_name):
    """What verbs and the door pass by name arrives: a method of a kind takes the parameters that `Kind` names."""
    kind = type(kind_of(kind_name))
    others = ("show", "code_fields", "sampler_options", "read_mask", "write_samples", "read", "check_views", "local",
              "codec_bits", "item_writer")
    for name in (*OPTIONAL, *others):
        base, own = (list(inspect.signature(getattr(cls, name)).parameters) for cls in (Kind, kind))
        assert own == base, name


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="^kind: expected one of .*image.*, found 'smell'$"):
        kind_of("smell")


def test_flags_are_known_before_torch_is_imported():
    code = ("import sys; from pipelines.kinds import all_kinds; assert len(all_kinds()) >= 4; "
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["mnist", "fsdd"])
def test_items_of_another_type_are_refused_in_one_line(name):
    run = load(name, "cpu")
    for x in (3, "nowhere.xyz", [], {"a": 1}):
        with pytest.raises(InputError) as refusal:
            run.encode(x)
        assert "expected" in str(refusal.value) and "found" in str(refusal.value) and "\n" not in str(refusal.value)


def test_training_shows_at_most_a_second_of_audio():
    """A decoder that draws sample by sample would hold a training up for minutes."""
    from types import SimpleNamespace

    import torch

    from pipelines.splits.base import Batch

    rate, asked, logged = 100, [], []

    class Model:
        def evaluate(self, x, labels):
            return SimpleNamespace(latent=SimpleNamespace(z_q=x))

        def decode_latent(self, z_q, labels, uniforms):
            asked.append(uniforms.shape)
            return z_q[..., : uniforms.shape[1]]

    log = SimpleNamespace(audio=lambda step, name, wave, hz: logged.append((name, len(wave), hz)))
    for length in (450, 30):
        batch = Batch(torch.zeros(3, 1, 500), torch.zeros(3, 0), lengths=torch.tensor([length, 500, 500]))
        kind_of("audio").show(Model(), batch, None, SimpleNamespace(facts={"sample_rate_hz": rate}), log, 1)
    assert asked == [(1, 100), (1, 30)]
    assert logged == [(name, size, rate) for size in (100, 30) for name in ("original", "reconstruction")]


def test_what_items_are_compared_by_has_words():
    for kind in all_kinds().values():
        assert hasattr(kind.evaluation, "features") == hasattr(kind.evaluation, "FEATURES")
