"""A cell of the zoo or of a file, timed: Elman's network of it, and the same step in a Python loop of torch's operators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import elman
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from elman.bench.agreement import check
from elman.bench.race import race, ratio
from elman.bench.render import Page, Table, microseconds, ratio_text, versions_text
from elman.language import _, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from elman.bench.case import Mode
    from elman.bench.machine import Machine
    from elman.bench.race import Timing
    from elman.cells import Cell

STEPS, BATCH, SIZES = 100, 16, (64, 128)

_reference = ReferenceBackend()


@dataclass(frozen=True)
class OwnRow:
    """A cell at a size in a mode.

    Attributes:
        cell: as it shows itself.
        size: I and H.
        backend: what Elman ran it on, as ``elman.why`` says it.
        elman, loop: how long either took.
    """

    cell: str
    mode: Mode
    size: int
    backend: str
    elman: Timing
    loop: Timing

    @property
    def ratio(self) -> float:
        """The loop's time over Elman's, paired by round."""
        return ratio(self.loop, self.elman)

    def to_dict(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "mode": self.mode,
            "size": self.size,
            "backend": self.backend,
            "elman_s": self.elman.median,
            "loop_s": self.loop.median,
            "over_elman": self.ratio,
        }


def measure(cells: Sequence[Cell], modes: Sequence[Mode], *, threads: int, rounds: int, min_block_s: float) -> Iterator[OwnRow]:
    """Time every cell at every size in every mode, in evaluation, without random numbers.

    Raises:
        WrongAnswerError: the two ways do not give the same numbers.
    """
    torch.set_num_threads(threads)
    for cell in cells:
        for size in SIZES:
            torch.manual_seed(0)
            net = elman.Recurrent(cell, size, size).eval()
            x = torch.randn(STEPS, BATCH, size)
            shapes = {name: (STEPS, BATCH, *[size] * len(of)) for name, of in cell.step_inputs.items()}
            beside = {name: torch.rand(shape) for name, shape in shapes.items()}
            for mode in modes:
                jobs = _jobs(net, x, beside, mode)
                of = ["output"] if mode == "infer" else [f"the gradient of {name}" for name, _ in net.named_parameters()]
                numbers = {name: {what: each.numpy() for what, each in zip(of, job(), strict=True)} for name, job in jobs.items()}
                check(f"{cell!r}, {size}, {mode}", numbers["elman"], numbers["loop"])
                timings = race(jobs, rounds=rounds, min_block_s=min_block_s)
                yield OwnRow(repr(cell), mode, size, elman.why(net, x, **beside), timings["elman"], timings["loop"])


def _jobs(net: elman.Recurrent[Any], x: Tensor, beside: dict[str, Tensor], mode: Mode) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Either way to run the network: the output, or in training the gradients of the parameters."""
    params, spans = tuple(net.parameters()), Spans(step_inputs=tuple(beside.values()) or None)

    def forward() -> Tensor:
        output: Tensor = net(x, **beside)[0]
        return output

    def loop() -> Tensor:
        return _reference.run(net.stack, x, None, params, spans)[0]

    def run(forward: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        if mode == "infer":
            with torch.no_grad():
                return (forward(),)
        return torch.autograd.grad(forward().sum(), params, allow_unused=True, materialize_grads=True)

    return {"elman": partial(run, forward), "loop": partial(run, loop)}


def page(rows: Sequence[OwnRow], machine: Machine, threads: int, rounds: int) -> Page:
    """A line for each cell, size and mode, and what ran it."""
    header = ["", "I=H", "", "µs", _("loop"), _("loop/elman")]
    body = [[row.cell, str(row.size), row.mode, microseconds(row.elman), microseconds(row.loop), ratio_text(row.ratio)] for row in rows]
    notes = [
        _("loop: the same step in a Python loop of torch's operators, µs."),
        *dict.fromkeys(f"{row.cell}{_(': ')}{translated(row.backend)}" for row in rows),
        f"T={STEPS}, B={BATCH}; " + _("medians of {rounds} interleaved rounds, threads: {threads}.", rounds=rounds, threads=threads),
    ]
    return Page([Table("", header, body, words=(0, 2))], [*notes, versions_text(machine)])
