"""What training and evaluation say of themselves: of collapsed codes, of classifiers, of codes that are missing."""

from types import SimpleNamespace

import pytest
import torch

from pipelines.evaluation import shared
from pipelines.evaluation.classifier import bounded_steps
from pipelines.evaluation.image_classifier import train_image_classifier
from pipelines.evaluation.measured import Subject
from pipelines.files.errors import InputError
from pipelines.splits.base import Batch

SHORT = ("stage1.steps=60", "stage1.validate_every=20", "stage1.checkpoint_every=20")


def test_a_learning_rate_that_collapses_the_codes_is_reported_once_in_words(tiny, command, tmp_path):
    """lr=0.1 leaves one code in use; it used to end without a word. A resume does not repeat it."""
    arguments = *tiny, *SHORT, f"runs_dir={tmp_path}", "stage1.lr=0.1"
    lines = [line for line in command("train_stage1", *arguments).stderr.splitlines() if "warning: " in line]
    assert len(lines) == 1 and "codes in use on validation, expected more than 3.2" in lines[0]
    assert "of 32 codes" in lines[0] and "lower stage1.lr from 0.1 to 0.001" in lines[0]
    assert "warning: " not in command("train_stage1", *arguments, "stage1.steps=80").stderr


def test_a_healthy_training_gets_no_warning(tiny, command, tmp_path):
    assert "warning: " not in command("train_stage1", *tiny, *SHORT, f"runs_dir={tmp_path}").stderr


def test_evaluation_without_the_codes_of_a_prior_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    for name in ("others_nats", "measure", "sample_posterior"):
        monkeypatch.setattr(shared, name, lambda *_: pytest.fail("measured first"))
    module = SimpleNamespace(bottleneck=None)
    loaded = SimpleNamespace(stage1=SimpleNamespace(module=module), stage2=object(),
                             run=SimpleNamespace(codes=tmp_path / "codes"))
    subject = Subject(loaded, None, "validation", None, SimpleNamespace(batch_size=1), 0, torch.device("cpu"))
    with pytest.raises(InputError, match="codes: expected the codes that the prior is measured on, found none"):
        shared.measure_shared(subject)


@pytest.mark.parametrize(("items", "steps"), [(60_000, 1500), (1617, 1500), (343, 322), (30, 200), (1, 200)])
def test_a_classifier_of_few_items_is_trained_for_few_steps(items, steps):
    assert bounded_steps(1500, 128, items) == steps
    assert bounded_steps(10, 128, items) == 10


class Images:
    """Four 4x4 images of two classes."""

    def __len__(self) -> int:
        return 4

    def batch(self, indices):
        x = (indices % 2 * 255).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
        return Batch(x, (indices % 2)[:, None])


def test_a_classifier_is_announced(capsys, monkeypatch):
    monkeypatch.setattr("pipelines.evaluation.classifier.FEWEST", 3)
    train_image_classifier(Images(), 0, 2, (1, 4, 4), torch.device("cpu"))
    assert capsys.readouterr().err.startswith(
        "classifier: 4 steps on 4 training items (evaluate.classifier=false leaves it out)\n")
