"""Voices: speech that is recorded or dropped, its reconstruction, and the same words in another voice."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pipelines.api import TrainedRun
from pipelines.explorer.items import given_item, sample_rate_hz, spectrogram
from pipelines.explorer.page import Arguments, Context, Page, as_file, call, wav
from pipelines.files.errors import InputError
from pipelines.generation.labels import classes_of, decoder_labels
from pipelines.generation.recordings import decoded_recordings, read_recordings
from pipelines.media.audio import decibels

LONGEST_S = 20.0  # of a recording: a WaveNet draws it sample by sample
LARGEST_SEED = 2**53 - 1  # what JavaScript holds exactly
SPEAKER = "speaker"  # the label that says whose voice it is, where a run has one of this name


class Voices(Page):
    name, title, place = "voices", "Voices", 40

    def why_not(self, run: TrainedRun) -> str | None:
        if run.kind != "audio":
            return f"this run is on {run.kind}: voices are of runs on audio"
        if run.num_codes is None:
            return "this run has latents without codes: a voice is changed by decoding codes with another label"
        if not run._loaded.stage1.condition_on:
            return "this run's decoder is conditioned on no label, such as the speaker: it has one voice"
        return None

    @call
    def about(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """The voices, and what a recording may be."""
        own = context.loaded.stage1
        return {"label": voice_label(context), "voices": list(classes_of(own.example, voice_label(context))),
                "others": {name: list(classes_of(own.example, name)) for name in own.condition_on
                           if name != voice_label(context)},
                "rate": sample_rate_hz(context), "longest": LONGEST_S, "draws": context.loaded.stage2 is not None}

    @call
    def hear(self, context: Context, arguments: Arguments) -> Iterator[dict[str, Any]]:
        """The original: a "file", the held-out recording of this "number", or else one that the prior draws in the
        voice `spoken`. Then its codes decoded in that voice, the reconstruction, and in the voice `other`. A held-out
        recording is reconstructed in its own voice."""
        about, seed = self.about(context, arguments), arguments.integer("seed", 0, LARGEST_SEED, 0)
        label, rate = about["label"], about["rate"]
        voices = {"reconstruction": arguments.choice("spoken", about["voices"], about["voices"][0]),
                  "conversion": arguments.choice("other", about["voices"], about["voices"][-1])}
        rest = {name: arguments.named_texts("labels").get(name, classes[0]) for name, classes in
                about["others"].items()}
        wave, own = self._original(context, arguments, {label: voices["reconstruction"]} | rest, seed)
        voices["reconstruction"] = own.get(label, voices["reconstruction"])
        loudest = float(decibels(wave, rate).max())

        def heard(version: str, made: Tensor, voice: str | None) -> dict[str, Any]:
            return {"version": version, "voice": voice, "audio": wav(made, rate), "seconds": len(made) / rate,
                    "image": spectrogram(made, rate, loudest), "khz": rate / 2000}

        yield heard("original", wave, None)
        for version, voice in voices.items():
            labels = decoder_labels(context.loaded.stage1, rest | {label: voice}, 1)
            yield heard(version, next(decoded_recordings(context.loaded.stage1, [wave], labels, seed, 1)), voice)

    @staticmethod
    def _original(context: Context, arguments: Arguments, labels: dict[str, str], seed: int
                  ) -> tuple[Tensor, dict[str, str]]:
        """A wave (t,) at the run's rate, and the labels that are known of it."""
        stage1 = context.loaded.stage1
        if arguments.has("file"):
            with as_file(arguments.upload("file")) as path:
                wave = read_recordings(stage1, path).waves[0]
            seconds = len(wave) / sample_rate_hz(context)
            if seconds > LONGEST_S:
                raise InputError(f"file: expected at most {LONGEST_S:g} s of audio, found {seconds:.1f} s")
            return wave, {}
        if arguments.has("number"):
            given = given_item(context, arguments)
            return given.x[0, 0, : given.length], given.labels
        if context.loaded.stage2 is None:
            raise InputError("file: expected a recording for a run without a prior, found none")
        drawn = context.run.sample(1, seed=seed, labels=labels)
        return drawn.x[0, 0, : int(drawn.lengths[0])], labels


def voice_label(context: Context) -> str:
    """The label of the decoder that says whose voice it is: `speaker`, or the first of a run that has none."""
    names = context.loaded.stage1.condition_on
    return SPEAKER if SPEAKER in names else names[0]
