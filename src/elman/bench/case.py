"""The cases of a benchmark: a network, the size of its input, and the arithmetic it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from elman.cells import Cell, ElmanTanh, Gru, Lstm

Mode = Literal["infer", "train"]
MODES: tuple[Mode, ...] = get_args(Mode)

Arrays = dict[str, "np.ndarray[Any, np.dtype[Any]]"]

_CELLS: dict[str, type[Cell]] = {"rnn": ElmanTanh, "gru": Gru, "lstm": Lstm}
GATES = {kind: len(cell.gates) for kind, cell in _CELLS.items()}
CELLS = tuple(GATES)


@dataclass(frozen=True)
class Case:
    """A network and the size of its input, float32, with bias.

    >>> case = Case("rnn", steps=50, batch=64, input_size=512, hidden_size=512)
    >>> case.flops("infer"), case.flops("train")
    (3355443200, 10066329600)
    """

    cell: str
    steps: int
    batch: int
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def finals(self) -> tuple[str, ...]:
        """The final states' names."""
        return tuple([f"{state}_n" for state in _CELLS[self.cell].states])

    @property
    def layer_input_sizes(self) -> tuple[int, ...]:
        """The features that each layer reads."""
        return (self.input_size,) + (self.num_directions * self.hidden_size,) * (self.num_layers - 1)

    @property
    def suffixes(self) -> tuple[tuple[str, ...], ...]:
        """The suffixes of torch's parameter names, by layer and direction."""
        return tuple(tuple(f"_l{layer}{end}" for end in ("", "_reverse")[: self.num_directions]) for layer in range(self.num_layers))

    def flops(self, mode: Mode) -> int:
        """Floating-point operations of the matrix products, 2·T·B·G·H·(I + H) for each layer and direction.

        Training takes three times as many: forward, the gradients of what the weights were multiplied by, and those of the weights.
        """
        gate_rows = GATES[self.cell] * self.hidden_size
        products = sum(gate_rows * (inputs + self.hidden_size) for inputs in self.layer_input_sizes) * self.num_directions
        return 2 * self.steps * self.batch * products * (3 if mode == "train" else 1)

    def arrays(self, seed: int = 0) -> tuple[Arrays, Arrays]:
        """The input, ``{"x": (T, B, I)}``, and parameters by torch's names, from torch's initial distribution."""
        draw = np.random.default_rng(seed)
        bound = self.hidden_size**-0.5
        rows = GATES[self.cell] * self.hidden_size
        parameters: Arrays = {}
        for inputs, suffixes in zip(self.layer_input_sizes, self.suffixes, strict=True):
            for suffix in suffixes:
                shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, self.hidden_size), "bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    parameters[name + suffix] = draw.uniform(-bound, bound, shape).astype(np.float32)
        x = draw.standard_normal((self.steps, self.batch, self.input_size)).astype(np.float32)
        return {"x": x}, parameters

    def __str__(self) -> str:
        layers = f" ×{self.num_layers}" if self.num_layers > 1 else ""
        return f"{self.steps},{self.batch},{self.input_size},{self.hidden_size}{layers}{' ⇄' if self.bidirectional else ''}"


# Sizes, each as a case of the smallest cell; `cases_of` gives them for any.
_SIZES = tuple(
    Case("rnn", *sizes)
    for sizes in (
        (5, 3, 10, 20),
        (1000, 1, 32, 32),
        (100, 1, 64, 64),
        (100, 1, 256, 256),
        (100, 16, 64, 64),
        (100, 32, 128, 128),
        (50, 64, 256, 256),
        (50, 64, 512, 512),
    )
)
_TOUR = (
    Case("rnn", 5, 3, 10, 20),
    Case("rnn", 5, 3, 10, 20, bidirectional=True),
    Case("rnn", 4, 3, 5, 10, num_layers=2),
)
_EDGE = (
    Case("rnn", 100, 16, 100, 100),  # no whole number of vectors
    Case("rnn", 100, 3, 65, 65),  # one unit more than a vector holds, one sequence more than a pair
    Case("rnn", 100, 16, 16, 1),  # a single unit
    Case("rnn", 100, 2, 128, 128),  # two sequences for two threads
    Case("rnn", 100, 16, 1024, 32),  # nearly all of it is the input's projection
    Case("rnn", 1, 1, 64, 64),  # a single step: nothing is repeated
    Case("rnn", 1, 64, 256, 256),
    Case("rnn", 50, 8, 64, 64, num_layers=4, bidirectional=True),
)

_LONG = tuple(
    Case("rnn", 512, batch, size, size)
    for sizes, batches in (((128, 256), (1, 16, 64, 128, 256)), ((512,), (16, 64, 128)), ((768, 1024), (16, 64)))
    for size in sizes
    for batch in batches
)

GRIDS: dict[str, tuple[Case, ...]] = {"sizes": _SIZES, "tour": _TOUR, "edge": _EDGE, "long": _LONG, "all": _SIZES + _TOUR[1:] + _EDGE}
"""By name, in the order of their row numbers, which start at 1.

``sizes``: from the notebook's to wide batches. ``tour``: the three networks that ``elman tour`` shows. ``edge``: where a library built for
round numbers and long sequences would look worst. ``long``: 512 steps of 128 to 1024 units, for a GPU.
"""


def cases_of(cell: str, grid: str) -> tuple[Case, ...]:
    """A grid's cases, of one cell.

    >>> print(*cases_of("gru", "tour"), sep="; ")
    5,3,10,20; 5,3,10,20 ⇄; 4,3,5,10 ×2
    """
    return tuple(replace(case, cell=cell) for case in GRIDS[grid])
