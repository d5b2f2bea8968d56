"""Local features and the figures of quality: they repeat, order sets as they should, and are off where they say
nothing."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from pipelines import load
from pipelines.data.audio import AudioSplit
from pipelines.data.digits import Digits
from pipelines.data.room import Room
from pipelines.evaluation import audio, audio_classifier, codes, comparison, image, local_features, quality, video
from pipelines.evaluation.local_features import ImageNetwork, image_features, rotated
from pipelines.evaluation.measured import Subject, measure
from pipelines.evaluation.quality import FIGURES, measure_quality, quality_rows, set_figures
from pipelines.reporting.sections import figures as report_figures
from pipelines.runs.card import flat, meaning
from pipelines.runs.settings import Evaluation
from pipelines.splits.base import Batch

CPU, ITEMS = torch.device("cpu"), 300


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(local_features, "STEPS", 20)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def held_out(digits) -> Batch:
    return digits.split("validation").batch(torch.arange(ITEMS))


@pytest.fixture(scope="module")
def tiny(tiny_run):
    """A run of both stages and what stage 1 makes of the held-out items."""
    loaded, data = load(tiny_run, "cpu")._loaded, Digits()
    return loaded, data, measure(loaded.stage1, data.split("validation"), 256, 0)


def evaluated(tiny, kind=image, **settings) -> dict | None:
    loaded, data, measured = tiny
    options = Evaluation(batch_size=256, **settings)
    subject = Subject(loaded, data, "validation", data.split("validation"), options, 0, CPU)
    return measure_quality(measured, subject, kind)


def test_a_network_is_a_function_of_the_training_items_whatever_the_number_of_threads(digits, held_out):
    first, before = image_features(digits, held_out, CPU), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.rand(7)
        second = image_features(digits, held_out, CPU)
        assert torch.get_num_threads() == 3
        assert second.digest == first.digest and second.accuracy == first.accuracy
        assert torch.equal(second.extract(held_out.x, None), first.extract(held_out.x, None))
    finally:
        torch.set_num_threads(before)
    fewer = SimpleNamespace(shape=digits.shape, label_names=digits.label_names, classes=digits.classes,
                            split=lambda name: digits.split("validation"))
    assert image_features(fewer, held_out, CPU).digest != first.digest
    features = first.extract(held_out.x, None)
    assert features.shape == (ITEMS, 64) and features.dtype == torch.float64 and first.task == "digit"
    assert 0.15 < first.accuracy < 1, "of ten classes, after 20 steps"


def test_changed_sets_lie_further_from_real_ones(digits, held_out, monkeypatch):
    """Real, noise of 10 levels, blurred, pixels shuffled; and the first three classes alone are less diverse."""
    monkeypatch.setattr(local_features, "STEPS", 150)
    x, train, generator = held_out.x, digits.split("train"), torch.Generator().manual_seed(0)
    noise = 10 * torch.randn(x.shape, generator=generator)
    order = torch.rand(ITEMS, 64, generator=generator).argsort(1)
    three = (train.labels[:, 0] < 3).nonzero()[:ITEMS, 0]
    sets = {"noise": (x + noise).clamp(0, 255).to(torch.uint8), "real": train.batch(torch.arange(ITEMS)).x,
            "three": train.batch(three).x,
            "blurred": F.avg_pool2d(x.float(), 5, 1, 2).to(torch.uint8),
            "shuffled": x.flatten(1).gather(1, order).view_as(x)}
    network = image_features(digits, held_out, CPU)
    real = network.extract(x, None)
    found = {name: set_figures(real, network.extract(own, None)) for name, own in sets.items()}
    distances = [found[name]["frechet_local_features"] for name in ("noise", "real", "blurred")]
    assert distances == sorted(distances) and 2 * distances[1] < distances[2]
    for name in ("blurred", "shuffled"):
        assert found[name]["coverage"] < 0.7 * found["real"]["coverage"], name
        assert found[name]["frechet_local_features"] > 2 * distances[1], name
    assert found["three"]["precision"] > 0.9 * found["real"]["precision"]
    assert found["three"]["recall"] < 0.7 * found["real"]["recall"]
    assert found["three"]["coverage"] < 0.5 * found["real"]["coverage"]


def test_the_figures_of_a_run_are_complete_and_repeat_to_the_digit(tiny, capsys):
    found = evaluated(tiny, quality=ITEMS)
    assert found == evaluated(tiny, quality=ITEMS) and found["num_items"] == ITEMS
    ((task, network),) = found["networks"].items()
    assert task == "digit" and set(network) == {"accuracy", "digest", "samples", "reconstructions", "real"}
    for name in ("samples", "reconstructions", "real"):
        assert set(network[name]) == set(FIGURES) and network[name]["frechet_local_features"] > 0
        assert all(0 <= network[name][key] <= 1 for key in ("precision", "recall", "coverage"))
    assert network["real"]["coverage"] > 0.9 and network["real"]["density"] == pytest.approx(1, abs=0.2)
    assert network["samples"]["frechet_local_features"] > 2 * network["real"]["frechet_local_features"]
    rows = quality_rows(found)
    assert len(rows) == 1 + 3 * len(FIGURES) and all(value is not None for _, value, _ in rows)
    assert rows[1] == ("Fréchet distance, local features: real items", network["real"]["frechet_local_features"], ".4g")
    assert rows[3] == ("  samples", network["samples"]["frechet_local_features"], ".4g")
    assert not [title for title, *_ in rows if "FID" in title] and max(len(title) for title, *_ in rows) < 46
    assert "evaluate.quality=0 leaves it out" in capsys.readouterr().err
    loaded, data, measured = tiny
    alone = SimpleNamespace(stage1=loaded.stage1, stage2=None)
    assert evaluated((alone, data, measured), quality=ITEMS)["networks"]["digit"]["samples"] is None


def test_there_are_no_figures_without_enough_items_a_network_or_the_wish(tiny, capsys, monkeypatch):
    monkeypatch.setattr(image, "local_features", lambda *_: pytest.fail("a network is trained"))
    assert evaluated(tiny, quality=0) is None and capsys.readouterr().err == ""
    assert evaluated(tiny, quality=quality.FEWEST - 1) is None
    assert capsys.readouterr().err == ("note: quality: not measured: expected 256 items of each set, or figures of "
                                       "real items vary as much as those of samples; found 255\n")
    assert evaluated(tiny, codes) is None
    assert "note: quality: not measured: items of the kind image have no network" in capsys.readouterr().err
    _, data, _ = tiny
    monkeypatch.setattr(data, "label_names", ())
    assert evaluated(tiny, audio, quality=ITEMS) is None
    assert capsys.readouterr().err == ("note: quality: not measured: digits has no labels to train a network on\n")
    assert quality_rows(None) == []


def test_images_without_labels_are_told_by_their_rotation(digits, held_out, monkeypatch):
    wide = torch.arange(8 * 3 * 5).view(8, 1, 3, 5)
    turned, turns = rotated(wide)
    assert turned.shape == (8, 1, 3, 3) and turns.tolist() == [0, 1, 2, 3] * 2
    for number in range(8):
        assert torch.equal(turned[number], wide[number, :, :, 1:4].rot90(number % 4, (1, 2)))
    monkeypatch.setattr(local_features, "STEPS", 60)
    monkeypatch.setattr(digits, "label_names", ())
    network = image_features(digits, held_out, CPU)
    assert network.task == "rotation" and 0.4 < network.accuracy < 1, "a quarter by chance"


def test_each_frame_of_a_clip_has_features():
    data = Room(episodes=6, frames=8, size=12, clip_length=4, validation_fraction=0.3)
    batch = data.split("validation").batch(torch.arange(2))
    network = image_features(data, batch, CPU)
    assert network.task == "rotation" and video.rows_of_item(data) == 4
    features = network.extract(batch.x, None)
    assert features.shape == (8, 64)
    assert torch.allclose(features[4 + 2], network.extract(batch.x[1:, :, 2:3], None)[0], atol=1e-6)


def test_large_images_cost_as_much_as_small_ones():
    sizes = [ImageNetwork(3, size, 10).convolutions[0](torch.zeros(1, 3, size, size + 4)).shape[2]
             for size in (8, 28, 32, 84, 128, 500)]
    assert max(sizes) < 20 and sizes[0] == 8


def test_audio_is_compared_in_the_features_of_each_classifier(monkeypatch):
    monkeypatch.setattr(audio_classifier, "STEPS", 2)
    lengths = torch.arange(600, 1800, 100)
    starts = lengths.cumsum(0) - lengths
    waves = torch.randint(-9000, 9000, (int(lengths.sum()),), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12)[:, None] // torch.tensor([1, 2]) % 2
    split = AudioSplit(waves.to(torch.int16), labels, lengths=lengths, starts=starts,
                       bounds=torch.stack([starts, starts + lengths], 1), crop=512, length=1800)
    data = SimpleNamespace(label_names=("nothing", "tone"), classes=(("a", "b"), ("low", "high")), sample_rate_hz=8000,
                           split=lambda name: split)
    subject, batch = Subject(None, data, "train", split, None, 0, CPU), split.batch(torch.arange(12))
    networks = audio.local_features(subject, batch)
    assert [own.task for own in networks] == ["nothing", "tone"] and networks[0].digest != networks[1].digest
    assert audio.trained(subject, 1) is audio.trained(subject, 1), "the classifier that accuracies are measured with"
    features = networks[1].extract(batch.x, batch.lengths)
    assert features.shape == (12, 192) and features.dtype == torch.float64
    logits = audio.trained(subject, 1).output(features.float())
    assert torch.equal(logits.argmax(1), audio_classifier.classify(audio.trained(subject, 1), batch.x, batch.lengths))


def figures_of(digest: str, samples: bool = True) -> dict:
    own = {name: dict.fromkeys(FIGURES, 0.5) for name in ("samples", "reconstructions", "real")}
    return {"num_items": 1000, "networks": {"digit": {"accuracy": 0.9, "digest": digest} | own
                                        | ({} if samples else {"samples": None})}}


def test_a_comparison_says_whether_figures_are_of_the_same_network():
    rows = [{"system": name, **comparison.quality(found)} for name, found in
            (("A", figures_of("1234")), ("B", figures_of("1234", samples=False)), ("C", None))]
    assert rows[0]["frechet_samples"] == rows[0]["coverage"] == rows[1]["frechet_real"] == 0.5
    assert rows[1]["frechet_samples"] is rows[1]["recall"] is rows[2]["frechet_real"] is None
    assert set(rows[0]) - {"system", "quality_network", "quality_items"} <= set(comparison.COLUMNS)
    assert comparison.legend(rows).endswith("the same network for all rows (digit 1234, 1000 items of each set).")
    other = rows + [{"system": "D", **comparison.quality(figures_of("5678"))}]
    assert "not to be compared (A: digit 1234, 1000 items of each set; " in comparison.legend(other)
    assert comparison.legend(rows[2:]) == comparison.legend([{"system": "WebP"}]) == comparison.LEGEND


def test_reports_and_cards_explain_the_figures():
    found = {"quality": figures_of("1234")}
    rows = list(report_figures.measured(found))
    assert len(rows) == 1 + 3 * len(FIGURES) and len({title for title, *_ in rows}) == len(rows)
    assert not [own for own in rows if "of your own" in own[-1]] and "1234, of 1,000 items" in rows[0][-1]
    assert list(report_figures.measured({"quality": None})) == []
    names = [name for name, _ in flat(found)]
    assert "quality.networks.digit.samples.frechet_local_features" in names
    assert len(names) == 1 + 3 * len(FIGURES) and all(map(meaning, names))
    assert meaning("nmse") == "squared error over the variance of the data" and meaning("other") == ""
