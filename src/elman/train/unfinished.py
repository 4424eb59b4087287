"""A training that has not come to its end, in a file: safetensors, and as JSON in its metadata what is no tensor. Data only, nothing in
it is ever run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from elman._files import write
from elman.train.curve import CurvePoint
from elman.train.fit import Progress, Step
from elman.train.tensor_file import serialize

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from elman.train.char_model import CharModel
    from elman.train.corpus import Corpus
    from elman.train.text import TextSettings

FORMAT = "elman.Training"
_FREE = ("prompt", "sample_length", "temperature")
"""Settings that the training does not depend on."""


class ResumeError(ValueError):
    """There is nothing to go on from, or not for these settings; the message says why."""


@dataclass(frozen=True)
class Unfinished:
    """A training between two steps.

    Attributes:
        progress: where it stands.
        curve: the learning curve so far.
        bits: the cost of each step since the curve's last point.
        settings: what it was started with, as options.
        text: a digest of what it learns.
    """

    progress: Progress
    curve: list[CurvePoint]
    bits: list[float]
    settings: dict[str, Any]
    text: str

    def require(self, settings: TextSettings, corpus: Corpus) -> None:
        """Refuse to go on with another text or with other settings: no training would come to the same weights.

        Raises:
            ResumeError: they are others.
        """
        if corpus.sha256 != self.text:
            raise ResumeError("--resume: expected the text that the training was started with, got another: give the same files")
        given = options(settings)
        differing = [name for name in given if given[name] != self.settings.get(name)]
        if differing:
            before, now = (_shown({name: each.get(name) for name in differing}) for each in (self.settings, given))
            raise ResumeError(f"--resume: expected the options that the training was started with, {before}, got {now}")

    def require_network(self, model: CharModel, streams: int) -> None:
        """Refuse to go on with another network: that of a cell whose file has been changed, or of a file that no training wrote.

        Raises:
            ResumeError: the file's tensors are not those of a training of this network.
        """
        weights, progress = model.state_dict(), self.progress
        state = torch.empty(model.rnn.num_layers, streams, model.rnn.hidden_size, device="meta")
        moments = {
            index: {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            for index, parameter in enumerate(model.parameters())
            if index in progress.adam  # which has none of a parameter that gets no gradient
        }
        states = (state,) * len(model.cell.states) if model.cell else (state,)
        generators = [torch.get_rng_state()] * max(1, len(progress.generators))
        expected = _tensors(Progress(progress.step, states, weights, weights, moments, generators))
        found = _tensors(progress)
        for name in sorted(expected.keys() | found.keys()):
            form, got = (_form(each.get(name)) for each in (expected, found))
            if form != got:
                raise ResumeError(
                    f"--resume: expected a training of this network, {name} {form}, got {got}: the cell or the file has been changed"
                )
        try:
            for generator in progress.generators:
                torch.Generator().set_state(generator)
        except RuntimeError as error:
            raise ResumeError(f"--resume: expected the state of a random generator, got another: {error}") from error


def options(settings: TextSettings) -> dict[str, Any]:
    """What a training depends on, by the options' names."""
    named = asdict(settings.fit) | {name: value for name, value in vars(settings).items() if name not in ("fit", *_FREE)}
    return {name.replace("_", "-"): repr(value) if name == "cell" and value is not None else value for name, value in named.items()}


def _shown(values: dict[str, Any]) -> str:
    """Options as they are written.

    >>> _shown({"steps": None, "seconds": 90.0, "chunk": 8})
    '--seconds 90 --chunk 8'
    """
    written = {name: f"{value:g}" if isinstance(value, float) else value for name, value in values.items() if value is not None}
    return " ".join(f"--{name} {value}" for name, value in written.items()) or "none"


def save(unfinished: Unfinished, path: Path) -> None:
    """Write it, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    progress = unfinished.progress
    tensors = {"bits": torch.tensor(unfinished.bits, dtype=torch.float64), **_tensors(progress)}
    facts = {
        "step": asdict(progress.step),
        "states": len(progress.state) if isinstance(progress.state, tuple) else None,
        "curve": [asdict(point) for point in unfinished.curve],
        "settings": unfinished.settings,
        "text": unfinished.text,
    }
    metadata = {"format": FORMAT, "training": json.dumps(facts, allow_nan=False)}
    write(path, serialize({name: value.contiguous() for name, value in tensors.items()}, metadata))


def load(path: Path) -> Unfinished:
    """Read what :func:`save` wrote.

    Raises:
        ResumeError: there is no such file, or it holds something else.
        OSError: it cannot be read.
    """
    try:
        path.open("rb").close()  # safetensors' errors do not name the file
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ResumeError(f"--resume: {path} does not hold a training: its format is {metadata.get('format')!r}, not {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        facts = json.loads(metadata["training"])
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("adam", tensors).items():
            index, _point, name_of_number = name.partition(".")
            adam.setdefault(int(index), {})[name_of_number] = value
        states = tuple(tensors[f"state.{index}"] for index in range(facts["states"] or 1))
        generators = _below("generator", tensors)
        step: Any = Step(**facts["step"])
        if not (isinstance(step.number, int) and step.number > 0 and 0 <= step.fraction < 1 and min(step.characters, step.seconds) >= 0):
            raise TypeError(step)
        progress = Progress(
            step,
            states[0] if facts["states"] is None else states,
            _below("model", tensors),
            _below("proven", tensors),
            adam,
            [generators[str(index)] for index in range(len(generators))],
        )
        curve = [CurvePoint(**point) for point in facts["curve"]]
        wrong = [point for point in curve if not all(isinstance(number, int | float) for number in astuple(point))]
        if wrong:
            raise TypeError(wrong[0])
        bits = [float(each) for each in tensors["bits"].tolist()]
        return Unfinished(progress, curve, bits, {**facts["settings"]}, facts["text"])
    except FileNotFoundError:
        raise ResumeError(
            f"--resume: expected an unfinished training in {path.parent}, found none: it has finished or was ended before it saved "
            "anything, or --out is another folder; "
            "leave out --resume to start one"
        ) from None
    except ResumeError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ResumeError(f"--resume: {path} does not hold a training: {error}") from error


def _tensors(progress: Progress) -> dict[str, Tensor]:
    """What of it is tensors, by the names that they have in a file."""
    states = progress.state if isinstance(progress.state, tuple) else (progress.state,)
    return {
        **{f"generator.{index}": generator for index, generator in enumerate(progress.generators)},
        **{f"state.{index}": state for index, state in enumerate(states)},
        **{f"model.{name}": value for name, value in progress.model.items()},
        **{f"proven.{name}": value for name, value in progress.proven.items()},
        **{f"adam.{index}.{name}": value for index, each in progress.adam.items() for name, value in each.items()},
    }


def _form(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
