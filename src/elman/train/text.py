"""The whole way from a text to a trained model and what is worth knowing about it: ``elman train text``."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from elman import why
from elman._files import to_json, write
from elman.train import memory, outputs, unfinished
from elman.train.char_model import CharModel
from elman.train.curve import CurvePoint, Recorder
from elman.train.evaluate import bits_per_character, compressors
from elman.train.fit import FitSettings, Progress, Step, fit
from elman.train.processes import OneProcess, on_this_machine
from elman.train.sample import sample
from elman.train.unfinished import Unfinished
from elman.train.units import Line, read_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from elman import Cell
    from elman.train.corpus import Corpus


@dataclass(frozen=True)
class TextSettings:
    """What is trained, and how.

    Attributes:
        fit: how long and how fast.
        embedding_size, hidden_size, num_layers, cell: of the :class:`~elman.train.char_model.CharModel`.
        seed: of the initial weights, of what the cell draws in training, and of the sample.
        prompt: what the sample goes on from.
        sample_length: characters to write.
        temperature: of the sample.
    """

    fit: FitSettings
    embedding_size: int = 64
    hidden_size: int = 256
    num_layers: int = 2
    cell: Cell | None = None
    seed: int = 0
    prompt: bytes = b"\n"
    sample_length: int = 800
    temperature: float = 0.7


@dataclass(frozen=True)
class Outcome:
    """A trained model and what is worth knowing about it.

    Attributes:
        last: the last step of the training.
        curve: the learning curve.
        bits: bits per character of the whole held-out text.
        compressed: what compressors reach on it, by name.
        written: a sample.
        line: a line of held-out text, and what hidden units did over it.
        processes: how many trained it.
    """

    model: CharModel
    settings: TextSettings
    corpus: Corpus
    last: Step
    curve: list[CurvePoint] = field(repr=False)
    bits: float
    compressed: dict[str, float]
    written: bytes
    line: Line
    processes: int = 1

    def metrics(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        corpus, fitted = self.corpus, self.settings.fit
        return {
            "corpus": {
                "name": corpus.name,
                "train_files": len(corpus.train),
                "train_characters": len(corpus.train_text),
                "held_out_files": [file.name for file in corpus.held_out],
                "held_out_characters": len(corpus.held_out_text),
                "left_out": corpus.left_out,
                "sha256": corpus.sha256,
            },
            "model": {
                **self.model.sizes,
                **({} if self.settings.cell is None else {"cell": repr(self.settings.cell)}),
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            },
            "training": {
                **asdict(fitted),
                "processes": self.processes,
                "seed": self.settings.seed,
                "steps_done": self.last.number,
                "characters": self.last.characters,
                "seconds": round(self.last.seconds, 3),
                "characters_per_second": round(self.last.characters / self.last.seconds),
                "finished": self.last.fraction >= 1,
                "backend": why(self.model.rnn, torch.zeros(fitted.chunk, fitted.streams, self.model.sizes["embedding_size"])),
            },
            outputs.FIGURE: {"elman": self.bits, **self.compressed},
            "curve": [asdict(point) for point in self.curve],
        }


def train_text(
    corpus: Corpus,
    settings: TextSettings,
    after_step: Callable[[Step, CurvePoint | None], bool | None] | None = None,
    *,
    before: Callable[[CharModel], object] | None = None,
    keep: Callable[[CharModel], object] | None = None,
    save: Callable[[Unfinished], object] | None = None,
    resume: Path | None = None,
    processes: OneProcess | None = None,
) -> Outcome:
    """Train a character model on a corpus, and measure it.

    Args:
        corpus: what is learned, and what is held out.
        settings: which model, and how it is trained. Streams and chunk are cut to what the text has to offer.
        after_step: called after every step, with the learning curve's newest point if there is one; when it returns False, training ends
            there and what has been learned so far is measured.
        before: called with the untrained model; what it raises ends the training before it begins.
        keep: called with the trained model as soon as the training ends, in whatever way, after a step at least: what fails later, or ended
            the training, does not lose the weights.
        save: called every minute, and when ``after_step`` ends the training, with the training as it stands, to be written at once.
        resume: the file of a training with the same corpus and settings: this one goes on where it stood, to the same numbers.
        processes: those that train together, of which this is the first; the others call :func:`take_part`. None for this one alone.

    Raises:
        DivergedError: the training went astray; ``keep`` gets the last weights that had not.
        TooLargeError: the training does not fit into memory.
        ResumeError: ``resume`` is no such file, or of another network.
        ValueError: the processes cannot share the streams equally.
    """
    processes, text = processes or OneProcess(), None
    earlier: Unfinished | None = None
    try:
        settings = replace(settings, fit=settings.fit.within(len(corpus.train_text)))
        settings.fit.share(processes)
        if resume:
            earlier = unfinished.load(resume)
            earlier.require(settings, corpus)
        memory.require(settings, len(corpus.train_text) + len(corpus.held_out_text), on_this_machine())
        model = _untrained(settings)
        if earlier:
            earlier.require_network(model, settings.fit.streams)
        if before:
            before(model)
        text = corpus.sha256
    finally:
        start = earlier.progress if earlier else None
        processes.broadcast((text, start))  # the others wait for it
    recorder = Recorder(model, corpus.held_out_text, after_step)
    if earlier:
        recorder.curve, recorder.bits, recorder.steps = earlier.curve, earlier.bits, earlier.progress.step.number

    def note(progress: Progress) -> None:
        if save:
            save(Unfinished(progress, recorder.curve, recorder.bits, unfinished.options(settings), corpus.sha256))

    try:
        with _drawing(settings, processes):
            last = fit(model, corpus.train_text, settings.fit, recorder, processes, start=start, save=note)
    finally:
        if keep and recorder.steps:
            keep(model)
    code = sum(file.name.endswith(".py") for file in corpus.held_out) * 2 > len(corpus.held_out)
    return Outcome(
        model=model,
        settings=settings,
        corpus=corpus,
        last=last,
        curve=recorder.curve,
        bits=bits_per_character(model, corpus.held_out_text),
        compressed=compressors(corpus.held_out_text),
        written=sample(model, settings.prompt, settings.sample_length, settings.temperature, settings.seed),
        line=read_line(model, corpus.held_out_text, code),
        processes=processes.world_size,
    )


def take_part(corpus: Corpus, settings: TextSettings, processes: OneProcess) -> None:
    """Train beside the first of several processes, which calls :func:`train_text` with the same corpus and settings, unless it cannot.

    Raises:
        DivergedError: as there.
        ValueError: the text is not the first's.
    """
    text, start = processes.broadcast((None, None))
    if text is None:  # the first says why
        return
    if text != corpus.sha256:
        raise ValueError(f"expected the same text in all {processes.world_size} processes, got another here: let all read the same files")
    model = _untrained(settings)
    with _drawing(settings, processes):
        fit(model, corpus.train_text, settings.fit, processes=processes, start=start)


def _untrained(settings: TextSettings) -> CharModel:
    with _seeded(settings.seed):
        return CharModel(settings.embedding_size, settings.hidden_size, settings.num_layers, settings.cell)


def _drawing(settings: TextSettings, processes: OneProcess) -> AbstractContextManager[None]:
    """What the cell draws in training: in each process other numbers, and none of those that made the weights."""
    return _seeded(settings.seed + 1 + processes.global_rank)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of this seed; afterwards torch's generator stands where it stood."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def write_metrics(outcome: Outcome, path: Path) -> None:
    """Write all figures, as JSON."""
    write(path, (to_json(outcome.metrics()) + "\n").encode())
