"""The learning curve: bits per character on the text that is being learned and on held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.train.evaluate import bits_per_character

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.train.char_model import CharModel
    from elman.train.fit import Step

_POINTS = 20
_GLIMPSE_PIECES, _GLIMPSE_LENGTH = 32, 512
"""The curve is measured on this many pieces of the held-out text, of this many characters each."""


@dataclass(frozen=True)
class CurvePoint:
    """A point of the learning curve: bits per character on the text just read (a mean since the point before) and on held-out text."""

    step: int
    characters: int
    seconds: float
    train_bits: float
    held_out_bits: float


class Recorder:
    """Keeps the learning curve: points lie closer together early on, where the curve is steep.

    Args:
        model: that is trained.
        held_out: the held-out text.
        after_step: called after every step, with the curve's newest point if there is one.

    Attributes:
        curve: the points so far.
        bits: the cost of each step since the last of them.
        steps: steps done.
    """

    def __init__(self, model: CharModel, held_out: bytes, after_step: Callable[[Step, CurvePoint | None], bool | None] | None) -> None:
        stride = max(len(held_out) // _GLIMPSE_PIECES, 1)
        self._glimpse = b"".join(
            held_out[begin : begin + min(stride, _GLIMPSE_LENGTH)] for begin in range(0, _GLIMPSE_PIECES * stride, stride)
        )
        self._model, self._after_step = model, after_step
        self.curve: list[CurvePoint] = []
        self.bits: list[float] = []
        self.steps = 0

    def __call__(self, step: Step) -> bool | None:
        self.bits.append(step.bits)
        self.steps = step.number
        point = None
        if step.fraction >= ((len(self.curve) + 1) / _POINTS) ** 2:
            point = CurvePoint(
                step.number,
                step.characters,
                step.seconds,
                sum(self.bits) / len(self.bits),
                bits_per_character(self._model, self._glimpse, _GLIMPSE_PIECES),
            )
            self.bits.clear()
            self.curve.append(point)
        return self._after_step(step, point) if self._after_step else None
