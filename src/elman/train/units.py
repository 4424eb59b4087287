"""Hidden units over a line of text: what each of some units does while the model reads, and what it seems to follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elman.train.evaluate import as_characters, bits_of_each, evaluating
from elman.train.features import features

if TYPE_CHECKING:
    from elman.train.char_model import CharModel

_STUDIED, _ACTIVITIES = 1 << 16, 1 << 24
"""On how many characters units are compared with features, and how many numbers all units over them may be: 256 units over all of them."""

_WEAK = 0.25
"""A correlation below this is not worth showing."""


@dataclass(frozen=True)
class Unit:
    """A hidden unit of the last layer.

    Attributes:
        index: which one.
        follows: the feature of the text that it goes with; None for one that was chosen since it varies most.
        correlation: Pearson's, of the unit with the feature; negative if the unit is low where the feature is high.
        values: the unit after each character of the line, in [-1, 1].
    """

    index: int
    follows: str | None
    correlation: float | None
    values: list[float]


@dataclass(frozen=True)
class Line:
    """A line of text as the model read it.

    Attributes:
        text: what is not printable ASCII is a mark.
        bits: what each character cost.
        units: what some units did.
        studied: on how many characters the units were compared with features.
    """

    text: str
    bits: list[float]
    units: list[Unit]
    studied: int


def read_line(model: CharModel, text: bytes, code: bool) -> Line:
    """Let the model read a line of a text, after all that stands before it there (at most some 65,000 characters).

    The line is the one in which most features change. The units are, for each feature, the one that follows it most closely over the
    whole text; where features lack a follower, units that vary most over the text make up the number.

    Args:
        model: a trained one.
        text: held-out text.
        code: it is Python.
    """
    text = text[: max(80, min(_STUDIED, _ACTIVITIES // model.sizes["hidden_size"]))]
    characters = as_characters(text)[:, None]
    known = features(text, code)
    begin, end = _telling_line(text, known)

    hidden = []
    state = None
    with evaluating(model):
        for start in range(0, len(characters), 1024):
            output, state = model.hidden(characters[start : start + 1024], state)
            hidden.append(output[:, 0])
    activity = torch.cat(hidden)
    bits = bits_of_each(model, characters[:end])[begin:end, 0]
    chosen = _chosen(activity, known)
    units = [Unit(index, name, correlation, activity[begin:end, index].tolist()) for index, name, correlation in chosen]
    shown = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in text[begin:end])
    return Line(shown, bits.tolist(), units, len(text))


def _telling_line(text: bytes, known: dict[str, Tensor]) -> tuple[int, int]:
    """Where the line begins and ends, of printable ASCII, in which most features change; if there is none, the first 80 characters."""
    best, place, begin = 0, (0, min(80, len(text))), 0
    for line in text.split(b"\n"):
        end = begin + len(line)
        indentation = len(line) - len(line.lstrip())
        if 48 <= len(line) <= 96 and indentation <= 8 and line.isascii() and line.decode().isprintable():
            changing = sum(bool(values[begin:end].std() > 0) for values in known.values())
            if changing > best:
                best, place = changing, (begin, end)
        begin = end + 1
    return place


def _chosen(activity: Tensor, known: dict[str, Tensor]) -> list[tuple[int, str | None, float | None]]:
    """As many units as features, none twice: (unit, feature, correlation), the closest first, then those that vary most."""
    standard = torch.stack([_standardise(values) for values in known.values()], dim=1)
    correlations = _standardise(activity).t() @ standard / len(activity)
    names, left = list(known), correlations.clone()
    chosen: list[tuple[int, str | None, float | None]] = []
    for _ in names:
        unit, feature = divmod(int(left.abs().argmax()), len(names))
        if left[unit, feature].abs() < _WEAK:
            break
        chosen.append((unit, names[feature], correlations[unit, feature].item()))
        left[unit, :] = 0
        left[:, feature] = 0
    followers = {unit for unit, _, _ in chosen}
    lively = [unit for unit in activity.var(0, correction=0).argsort(descending=True).tolist() if unit not in followers]
    return chosen + [(unit, None, None) for unit in lively[: len(names) - len(chosen)]]


def _standardise(values: Tensor) -> Tensor:
    """Mean zero and variance one over the characters; a constant becomes zero."""
    centred = values - values.mean(0)
    return centred / centred.square().mean(0).sqrt().clamp(min=1e-6)
