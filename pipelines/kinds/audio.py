"""Audio: float32 (1, t) in [-1, 1] at one rate, padded with zeros, with lengths in samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError
from pipelines.kinds.base import Items, Kind, Medium, Written, ranges, write_ranking

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch, Data
    from pipelines.training.log import RunLog

SHOWN_S = 1.0  # of a validation clip, as training shows it: a WaveNet draws sample by sample, and ranks wait
SHOWN_SAMPLES = 8  # clips in the overview of samples
SHOWN_PAIRS = 6  # clips in an overview of originals and what became of them
LONGEST_S = 7200.0  # of a sample, as of a file that is read
HEARD_S = 4.0  # of a clip on a page
SHOWN_LONGEST_S = 20.0  # of each of these, from its beginning


class Audio(Kind):
    name = "audio"
    hub_task = "audio-to-audio"
    padded = any_size = True
    sample_flags = ("seconds",)
    completes = True

    def show(self, model: nn.Module, batch: Batch, labels: Tensor | None, example: Example, log: RunLog,
             step: int) -> None:
        import torch

        from pipelines.splits.noise import generator

        rate, labels = example.facts["sample_rate_hz"], None if labels is None else labels[:1]
        length = min(int(batch.lengths[0]), round(SHOWN_S * rate))
        uniforms = torch.from_numpy(generator(0, 0).random((1, length))).to(batch.x.device)
        made = model.decode_latent(model.evaluate(batch.x[:1], labels).latent.z_q, labels, uniforms)
        for name, wave in (("original", batch.x), ("reconstruction", made)):
            log.audio(step, name, wave[0, 0, :length].float().cpu(), rate)

    def check_views(self, views: int) -> None:
        if views != 1:
            raise InputError(f"extract.views: expected 1 for audio, whose items are whole clips, found {views}")

    def code_fields(self, batch: Batch, codes: Tensor, data: Data) -> dict[str, Tensor]:
        from pipelines.splits.base import code_lengths

        return {"lengths": code_lengths(batch, codes.shape[1])}

    def add_sample_flags(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--seconds", type=float,
                            help="duration of each clip (default: drawn from the training clips with the same labels)")

    def sampler_options(self, loaded: LoadedRun, **flags: Any) -> dict[str, Any]:
        seconds = flags.get("seconds")
        if (gap := self.gap(loaded, flags)) is not None:
            if seconds is not None:
                raise InputError(f"seconds: expected none with a recording to complete, found {seconds!r}")
            return {"gap": gap}
        if flags.get("complete") is not None:
            raise InputError("mask: expected the seconds to fill, as 0.2-0.35, found none")
        if seconds is None:
            return {}
        if not isinstance(seconds, int | float):
            raise InputError(f"seconds: expected a number, found {seconds!r}")
        spec, rate = loaded.stage2.codes, loaded.stage1.example.facts["sample_rate_hz"]
        hop = spec.shape[-1] // spec.grid[0]
        length = round(seconds * rate / hop) if 0 < seconds <= LONGEST_S else 0  # not of NaN, nor of infinity
        if not length:
            raise InputError(f"seconds: expected more than 0, at most {LONGEST_S:g}, found {seconds}")
        return {"length": length}

    def write_samples(self, folder: Path, samples: Samples, example: Example) -> Path:
        import torch

        from pipelines.generation.labels import classes_of
        from pipelines.media.audio import spectrograms, write_wav

        rate, captions = example.facts["sample_rate_hz"], []
        waves = [wave[:length] for wave, length in zip(samples.x[:, 0], samples.lengths.tolist(), strict=True)]
        files = []
        for number, wave in enumerate(waves):
            words = [classes_of(example, name)[samples.label(name)[number]] for name in samples.label_names]
            captions.append(" ".join(words))
            files.append(f"{'-'.join([f'{number:05d}', *words])}.wav")
            write_wav(folder / files[-1], wave, rate)
        if (gap := samples.gap) is not None:
            write_ranking(folder, samples, example, files)
            waves, captions = ([rows[number] for number in samples.ranking] for rows in (waves, captions))
            if gap.count == 1:  # it, and its candidates, the likeliest first
                given = torch.where(gap.hidden, 0.0, gap.x[:, 0])[0, : int(gap.lengths[0])]
                waves, captions = [given, *waves], ["given", *captions]
        spectrograms(folder / "spectrograms.png", waves[:SHOWN_SAMPLES], captions[:SHOWN_SAMPLES], rate)
        return folder / "spectrograms.png"

    def read(self, loaded: LoadedRun, x: Any) -> Items:
        """Files are resampled, mixed down and scaled as in training; arrays and tensors are at the run's rate: (t,) or
        (1, t) for one waveform, (n, 1, t) for a batch, or a list of waveforms of any lengths."""
        items = self.read_any(loaded, x)
        refuse_long(loaded, items)
        return items

    def read_any(self, loaded: LoadedRun, x: Any, whole: bool = False) -> Items:
        """Several waveforms, of which one is longer than the run's items, are padded to the longest."""
        import numpy as np
        import torch

        from pipelines.generation.recordings import padded, read_recordings

        stage1 = loaded.stage1
        rate = stage1.example.facts["sample_rate_hz"]
        if isinstance(x, (str, Path)):
            waves, lengths = padded(read_recordings(stage1, Path(x)).waves, stage1)
            return Items(waves, not Path(x).is_dir(), lengths)
        if isinstance(x, (list, tuple)):
            if not x:
                raise InputError("audio: expected at least one waveform, found an empty list")
            parts = [self.read_any(loaded, one) for one in x]
            waves = [wave[0, :length] for part in parts for wave, length in zip(part.x, part.lengths, strict=True)]
            waves, lengths = padded(waves, stage1)
            return Items(waves, False, lengths)
        if not isinstance(x, (np.ndarray, torch.Tensor)):
            raise InputError("audio: expected a path, a NumPy array, a tensor or a list of these, found "
                             f"{type(x).__name__}")
        if isinstance(x, np.ndarray) and x.dtype.kind == "f":
            x = np.ascontiguousarray(x, dtype=np.float32)
        x = torch.as_tensor(x) if isinstance(x, torch.Tensor) or x.dtype.kind in "fiub" else x
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            raise InputError(f"audio: expected floating-point samples in [-1, 1] at {rate} Hz, found {x.dtype}")
        if x.ndim not in (1, 2, 3) or (x.ndim > 1 and x.shape[-2] != 1) or not x.numel():
            raise InputError(f"audio: expected shape (t,), (1, t) or (n, 1, t), found {tuple(x.shape)}")
        waves, lengths = padded(list(x.float().reshape(-1, x.shape[-1])), stage1)
        return Items(waves, x.ndim < 3, lengths)

    def load_any(self, loaded: LoadedRun, paths: list[Path], whole: bool = False
                 ) -> Iterator[tuple[list[Path], Items]]:
        """Each recording that is longer than the run's items by itself."""
        from pipelines.data.audio_files import load_audio_files
        from pipelines.generation.recordings import batches, padded

        size, rate = loaded.stage1.example.shape[-1], loaded.stage1.example.facts["sample_rate_hz"]
        readable, waves = load_audio_files(paths, rate, loaded.stage1.config["data"].get("peak", 0.0))
        for rows in batches([len(wave) for wave in waves], size, len(waves)):
            x, lengths = padded([waves[row] for row in rows], loaded.stage1)
            yield [readable[row] for row in rows], Items(x, False, lengths)

    def find_files(self, loaded: LoadedRun, source: Path) -> list[Path]:
        from pipelines.data.audio_files import find_audio_files

        return find_audio_files(source)

    def load_files(self, loaded: LoadedRun, paths: list[Path]) -> tuple[list[Path], Items]:
        from pipelines.data.audio_files import load_audio_files
        from pipelines.generation.recordings import padded

        rate = loaded.stage1.example.facts["sample_rate_hz"]
        readable, waves = load_audio_files(paths, rate, loaded.stage1.config["data"].get("peak", 0.0))
        x, lengths = padded(waves, loaded.stage1)
        items = Items(x, False, lengths)
        refuse_long(loaded, items, [str(path) for path in readable])
        return readable, items

    def write_item(self, stem: Path, x: Tensor, example: Example, exact: bool) -> Path:
        from pipelines.media.audio import write_wav

        path = stem.with_name(f"{stem.name}.wav")
        write_wav(path, x[0], example.facts["sample_rate_hz"])
        return path

    def media(self, x: Tensor, example: Example) -> list[Medium]:
        """At most `HEARD_S` of it, from its beginning."""
        from pipelines.media.audio import spectrogram_bytes, wav_bytes

        rate, width = example.facts["sample_rate_hz"], 240
        wave = x[0, : round(HEARD_S * rate)]
        return [Medium("image/png", spectrogram_bytes(wave, rate, width=width), width),
                Medium("audio/wav", wav_bytes(wave, rate))]

    def media_note(self, example: Example) -> str:
        return (f"Spectrograms span 0 to {example.facts['sample_rate_hz'] / 2000:g} kHz from bottom to top, and each "
                f"clip's duration, at most {HEARD_S:g} s, from left to right.")

    def read_mask(self, loaded: LoadedRun, mask: Any, item: Any, items: Items) -> Tensor:
        """Seconds, "0.2-0.35" or "0.1-0.2,0.4-0.5", or pairs of numbers; or booleans (t,) or (n, t), one per sample."""
        import torch

        size, rate = items.x.shape[-1], loaded.stage1.example.facts["sample_rate_hz"]
        real = torch.arange(size) < items.lengths[:, None]
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
            if mask.ndim not in (1, 2) or not 1 <= mask.shape[-1] <= size:
                raise InputError(f"mask: expected at most {size} booleans, found shape {tuple(mask.shape)}")
            hidden = torch.nn.functional.pad(mask.reshape(-1, mask.shape[-1]), (0, size - mask.shape[-1]))
            return hidden & real
        hidden, longest = torch.zeros(1, size, dtype=torch.bool), int(items.lengths.max()) / rate
        for start, end in ranges(mask, "seconds", longest):
            hidden[:, round(start * rate) : round(end * rate)] = True
        return hidden & real

    def codec_bits(self, loaded: LoadedRun, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        from pipelines.media.lossless import audio_bits

        levels = loaded.stage1.module.likelihood.levels(x)[:, 0]
        return audio_bits(levels, lengths, loaded.stage1.example.facts["sample_rate_hz"])

    def draw_scores(self, loaded: LoadedRun, out: Path, names: list[str], captions: list[str], items: Items,
                    scores: Scores) -> Path:
        """Spectrograms with the bits over time below them."""
        from pipelines.media.audio import spectrograms
        from pipelines.media.heat import chosen, plot_over_time

        rate, lengths = loaded.stage1.example.facts["sample_rate_hz"], items.lengths.tolist()
        hop, waves = items.x.shape[-1] // scores.code_map.shape[1], []
        for number, (name, words, length) in enumerate(zip(names, captions, lengths, strict=True)):
            waves.append(items.x[number, 0, :length])
            count = -(-length // hop)
            data = scores.data_map[number, : count * hop].view(count, hop).sum(1)
            data[:-1] /= hop
            data[-1] /= length - (count - 1) * hop
            plot_over_time(out / f"{number:05d}-{name}.png", waves[-1], rate, hop / rate,
                           scores.code_map[number, :count], data, words)
        shown = [*(number for group in chosen(len(waves), SHOWN_SAMPLES // 2).values() for number in group)]
        spectrograms(out / "overview.png", [waves[number] for number in shown],
                     [captions[number] for number in shown], rate)
        return out / "overview.png"

    def reconstruct(self, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str], seed: int,
                    batch_size: int, whole: bool = False) -> Written:
        return self._decode(loaded, source, out, labels, seed, batch_size, "reconstruction", "")

    def convert(self, loaded: LoadedRun, source: Path, out: Path, label: str, target: str, seed: int,
                batch_size: int) -> Written:
        from pipelines.generation.labels import class_number, classes_of

        stage1 = loaded.stage1
        if label not in stage1.condition_on:
            raise InputError(f"{loaded.run.root}: expected a decoder that is conditioned on {label!r}, found one "
                             f"conditioned on {list(stage1.condition_on)}")
        class_number(label, target, classes_of(stage1.example, label))
        first = {name: classes_of(stage1.example, name)[0] for name in stage1.condition_on}
        return self._decode(loaded, source, out, first | {label: target}, seed, batch_size, target, f"-{target}")

    @property
    def evaluation(self) -> ModuleType:
        from pipelines.evaluation import audio

        return audio

    def _decode(self, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str], seed: int,
                batch_size: int, title: str, ending: str) -> Written:
        """Writes the decoding of each recording as soon as it is made, and an overview of the first ones."""
        import torch

        from pipelines.generation.labels import decoder_labels
        from pipelines.generation.recordings import decoded_recordings, read_recordings
        from pipelines.media.audio import comparison, write_wav
        from pipelines.metrics.spectral_distance import log_spectral_distance
        from pipelines.ranks.shares import first, leave_to_first

        stage1, rate = loaded.stage1, loaded.stage1.example.facts["sample_rate_hz"]
        decoder_labels(stage1, labels, 1)  # refused before anything is read
        found = read_recordings(stage1, source)
        given = decoder_labels(stage1, labels, len(found.names))
        most, distances = round(SHOWN_LONGEST_S * rate), []
        shown: list[tuple[Tensor, Tensor]] = []
        made = decoded_recordings(stage1, found.waves, given, seed, batch_size)
        for number, (name, before, after) in enumerate(zip(found.names, found.waves, made, strict=True)):
            if not first():
                continue
            out.mkdir(parents=True, exist_ok=True)
            write_wav(out / f"{number:05d}-{name}{ending}.wav", after, rate)
            lengths = torch.tensor([len(before)])
            distances.append(float(log_spectral_distance(before[None, None], after[None, None], rate, lengths)))
            if len(shown) < SHOWN_PAIRS:
                shown.append((before[:most], after[:most].clone()))
        leave_to_first()
        originals, others = (list(waves) for waves in zip(*shown, strict=True))
        comparison(out / "spectrograms.png", {"original": originals, title: others},
                   {"original": found.names[:SHOWN_PAIRS]}, rate)
        return Written(len(found.names), out / "spectrograms.png",
                       f"log-spectral distance {sum(distances) / len(distances):.2f} dB")


def refuse_long(loaded: LoadedRun, items: Items, names: Sequence[str] | None = None) -> None:
    """Raises InputError for recordings that are longer than the run's items."""
    size, rate = loaded.stage1.example.shape[-1], loaded.stage1.example.facts["sample_rate_hz"]
    for number in (items.lengths > size).nonzero().flatten().tolist():
        raise InputError(f"audio: expected at most {size} samples ({size / rate:.2f} s at {rate} Hz), the longest item "
                         f"of the run, found more in {number if names is None else names[number]}")
