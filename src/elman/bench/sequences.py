"""Ragged, reset, traced and streamed sequences, timed, each compared with the alternative.

Ways to run a network are compared here, not libraries. Where two ways compute the same, they have first given the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
from elman.bench.agreement import check
from elman.bench.case import MODES
from elman.bench.race import race, ratio
from elman.bench.settings import torch_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from elman.bench.case import Mode
    from elman.bench.race import Timing

STEPS, BATCH, SIZE, STREAM_SIZE = 100, 32, 128, 64
CELL_STEPS, CELL_BATCH = 10, 16
RESETS = 0.01  # the share of steps that begin a fresh sequence

QUESTIONS: dict[str, str] = {
    "ragged": "lengths uniform in 1..T, compared with torch's pack, run, unpack",
    "padded": "the same lengths, compared with Elman's run of the whole padded batch",
    "resets": "resets at 1% of the steps, compared with the same call without resets",
    "trace": "trace(), compared with forward()",
    "cells": "10 steps of a cell in a Python loop, B=16, 64 units, compared with torch's cell",
    "stream": "stream.step on a NumPy array, B=1, 64 units, compared with torch's cell without gradients",
}


@dataclass(frozen=True)
class Answer:
    """One comparison for one kind of network.

    Attributes:
        question: its name in ``QUESTIONS``.
        elman: how long Elman's way took; ``beside`` the other.
    """

    cell: str
    mode: Mode
    question: str
    elman: Timing
    beside: Timing

    @property
    def ratio(self) -> float:
        """The other way's time over Elman's, paired by round."""
        return ratio(self.beside, self.elman)

    def to_dict(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "mode": self.mode,
            "question": self.question,
            "elman_s": self.elman.median,
            "beside_s": self.beside.median,
            "over_elman": self.ratio,
        }


def measure(cells: Sequence[str], modes: Sequence[Mode], *, threads: int, rounds: int, min_block_s: float) -> Iterator[Answer]:
    """Measure every comparison for every kind of network, and yield one result at a time.

    Args:
        cells: of "rnn", "gru", "lstm".
        modes: which of inference and training; a stream only infers.
        threads: of torch and Elman.
        rounds, min_block_s: of each race (``elman.bench.race``).

    Raises:
        WrongAnswerError: two ways do not give the same numbers.
    """
    for cell in cells:
        for mode in MODES:
            if mode in modes:
                for jobs, pairs in ((_layers, _PAIRS), (_cells, _CELLS)):
                    with torch_set(threads=threads):
                        timings = race(jobs(cell, mode), rounds=rounds, min_block_s=min_block_s)
                    for question, (ours, beside) in pairs.items():
                        yield Answer(cell, mode, question, timings[ours], timings[beside])
        if "infer" in modes:
            with torch_set(threads=threads):
                timings = race(_steps(cell), rounds=rounds, min_block_s=min_block_s)
            yield Answer(cell, "infer", "stream", timings["stream"], timings["cell"])


def number_of_answers(cells: Sequence[str], modes: Sequence[Mode]) -> int:
    """How many results :func:`measure` yields."""
    return len(cells) * (len(modes) * len(_PAIRS | _CELLS) + ("infer" in modes))


_PAIRS = {"ragged": ("ragged", "torch"), "padded": ("ragged", "whole"), "resets": ("resets", "whole"), "trace": ("trace", "whole")}
_CELLS = {"cells": ("ours", "theirs")}


def _layers(cell: str, mode: Mode) -> dict[str, Callable[[], Tensor]]:
    """Ways to run a layer over a padded batch, by name."""
    draw = torch.Generator().manual_seed(0)
    ours, theirs = _pair(cell, SIZE)
    x = torch.randn(STEPS, BATCH, SIZE, generator=draw)
    lengths = torch.randint(1, STEPS + 1, (BATCH,), generator=draw)
    reset = torch.rand(STEPS, BATCH, generator=draw) < RESETS

    def pack_and_unpack() -> Tensor:
        packed, _ = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(packed, total_length=STEPS)[0]

    ways: dict[str, Callable[[], Tensor]] = {
        "torch": pack_and_unpack,
        "ragged": lambda: ours(x, lengths=lengths)[0],
        "whole": lambda: ours(x)[0],
        "resets": lambda: ours(x, reset=reset)[0],
        "trace": lambda: ours.trace(x).output,
    }
    jobs = _as_jobs(ways, mode, x, (*ours.parameters(), *theirs.parameters()))
    for name, same in (("ragged", "torch"), ("trace", "whole")):
        _check(f"{name}, {cell}, {mode}", jobs[name], jobs[same])
    return jobs


def _cells(cell: str, mode: Mode) -> dict[str, Callable[[], Tensor]]:
    """A loop of a cell, Elman's and torch's."""
    ours, theirs = _pair(f"{cell}Cell", STREAM_SIZE)
    x = torch.randn(CELL_STEPS, CELL_BATCH, STREAM_SIZE)

    def loop(step: nn.Module) -> Tensor:
        hx = None
        for now in x.unbind():
            hx = step(now, hx)
        return hx[0] if isinstance(hx, tuple) else hx  # type: ignore[return-value]

    ways = {"ours": lambda: loop(ours), "theirs": lambda: loop(theirs)}
    jobs = _as_jobs(ways, mode, x, (*ours.parameters(), *theirs.parameters()))
    _check(f"cells, {cell}, {mode}", jobs["ours"], jobs["theirs"])
    return jobs


def _as_jobs(
    ways: Mapping[str, Callable[[], Tensor]], mode: Mode, x: Tensor, parameters: Sequence[Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """The ways as what is timed: in training with all gradients, of which x's is returned."""
    leaves = (x, *parameters)
    for leaf in leaves:
        leaf.requires_grad_(mode == "train")

    def job(way: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def train() -> Tensor:
            for leaf in leaves:
                leaf.grad = None
            way().sum().backward()  # type: ignore[no-untyped-call]
            return x.grad  # type: ignore[return-value]

        return train if mode == "train" else way

    return {name: job(way) for name, way in ways.items()}


def _check(what: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> None:
    got, expected = ({"numbers": job().detach().clone().numpy()} for job in (ours, theirs))
    check(what, got, expected)


def _steps(cell: str) -> dict[str, Callable[[], object]]:
    """One step at a time, NumPy in and NumPy out: a stream, and torch's cell as one would write it."""
    (layer, _), (_, theirs) = _pair(cell, STREAM_SIZE), _pair(f"{cell}Cell", STREAM_SIZE)
    theirs.requires_grad_(False)
    theirs.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x = torch.randn(1, STREAM_SIZE).numpy()
    stream = elman.stream(layer)
    state: list[Any] = [None]

    def step() -> object:
        with torch.no_grad():
            state[0] = theirs(torch.from_numpy(x), state[0])
        h = state[0][0] if isinstance(state[0], tuple) else state[0]
        return h.numpy()

    ways: dict[str, Callable[[], Any]] = {"stream": lambda: stream.step(x), "cell": step}
    for _ in range(3):
        got, expected = ({"output": ways[name]()} for name in ("stream", "cell"))
        check(f"stream, {cell}", got, expected)
    return ways


def _pair(cell: str, size: int) -> tuple[Any, Any]:
    """Elman's module and torch's, of the same numbers: a layer, or with "Cell" behind its name a cell."""
    torch.manual_seed(0)
    name = cell.removesuffix("Cell").upper() + "Cell" * cell.endswith("Cell")
    ours, theirs = (getattr(library, name)(size, size) for library in (elman, nn))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs
