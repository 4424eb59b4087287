"""Which network is asked about: its kind, sizes and options, the data it runs on, and the code that makes just that."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from elman.show.kinds import KINDS, Kind

if TYPE_CHECKING:
    from typing import TypeVar

    import torch
    from torch import Tensor, nn

    from elman.backends import Stack
    from elman.cells import Cell

    M = TypeVar("M", bound=nn.Module)

DTYPES = ("float32", "float64", "float16", "bfloat16")

# Beyond this the tensors would not fit into the memory of the machines people sit at.
MOST_NUMBERS = 2**27
# Each layer has its rows in every table.
MOST_LAYERS = 1000


@dataclass(frozen=True)
class Spec:
    r"""A network and the data to run it on; sizes as ``torch.nn`` names them.

    >>> spec = Spec("rnn", 10, 20, bidirectional=True)
    >>> print("\n".join(spec.code))
    torch.manual_seed(0)
    rnn = elman.RNN(10, 20, bidirectional=True)
    x = torch.randn(5, 3, 10)
    output, h_n = rnn(x)

    Raises:
        ValueError: an unknown kind, dtype or nonlinearity, an option that the kind does not have, a size below 1, a projection that does
            not narrow, a dropout outside [0, 1], or more than ``MOST_NUMBERS`` numbers.
    """

    kind: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    nonlinearity: str = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    seq_len: int = 5
    batch: int = 3
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, tuple(KINDS))
        _one_of("dtype", self.dtype, DTYPES)
        if self.about.nonlinearities:
            _one_of("nonlinearity", self.nonlinearity, self.about.nonlinearities)
        elif self.nonlinearity != "tanh":
            raise ValueError(f"nonlinearity is an option of rnn; of {self.kind} it is part of the equations, got {self.nonlinearity!r}")
        for name in ("input_size", "hidden_size", "num_layers", "seq_len", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.proj_size and not self.about.projects:
            raise ValueError(f"proj_size is an option of lstm, not of {self.kind}, got {self.proj_size}")
        if not 0 <= self.proj_size < self.hidden_size:
            raise ValueError(f"proj_size must be below hidden_size, {self.hidden_size}, and 0 for no projection, got {self.proj_size}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be a probability between 0 and 1, got {self.dropout:g}")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed must fit into 64 bits, got {self.seed}")
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"at most {MOST_LAYERS} layers can be explained, got num_layers {self.num_layers}")
        if self.numbers > MOST_NUMBERS:
            # Decimal: a number that was typed may be too large for a float.
            raise ValueError(
                f"this network and its data would be {Decimal(self.numbers):.1e} numbers, and at most {MOST_NUMBERS:.1e} can be explained"
            )

    @property
    def about(self) -> Kind:
        return KINDS[self.kind]

    @property
    def cell(self) -> Cell:
        return self.about.cell(self.nonlinearity)

    @cached_property
    def stack(self) -> Stack:
        """The same as what a backend runs: the shapes of parameters and states."""
        from elman.backends import Stack

        return Stack(self.cell, self.input_size, self.hidden_size, self.num_layers, self.bidirectional, self.bias, self.proj_size)

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def gate_rows(self) -> int:
        """G·H: the rows of a weight matrix."""
        return len(self.cell.gates) * self.hidden_size

    @property
    def output_units(self) -> int:
        """How many numbers a direction puts out at each step: H, or P with a projection."""
        return self.proj_size or self.hidden_size

    def layer_inputs(self, layer: int) -> int:
        """How many numbers layer ``layer`` reads at each step."""
        return self.input_size if layer == 0 else self.num_directions * self.output_units

    @property
    def numbers(self) -> int:
        """How many numbers the parameters and the input and output of every layer are."""
        per_step = self.input_size + self.num_layers * self.num_directions * self.output_units
        return sum(map(prod, self.stack.shapes)) + self.seq_len * self.batch * per_step

    def options(self) -> dict[str, object]:
        """The constructor's keyword arguments that are not at their defaults."""
        given = asdict(self)
        names = ["num_layers", "bias", "batch_first", "dropout", "bidirectional"]
        if self.about.nonlinearities:
            names.insert(1, "nonlinearity")
        if self.about.projects:
            names.append("proj_size")
        return {name: given[name] for name in names if given[name] != getattr(Spec, name)}

    @property
    def code(self) -> tuple[str, ...]:
        """The lines that make this network and run it: typed in after ``import elman, torch`` they give the very numbers shown."""
        dtype = "" if self.dtype == "float32" else f", dtype=torch.{self.dtype}"
        options = "".join(f", {name}={value!r}" for name, value in self.options().items())
        lead = (self.batch, self.seq_len) if self.batch_first else (self.seq_len, self.batch)
        sizes = ", ".join(str(size) for size in (*lead, self.input_size))
        name = self.kind
        finals = ", ".join(f"{state}_n" for state in self.cell.states)
        finals = f"({finals})" if len(self.cell.states) > 1 else finals
        return (
            f"torch.manual_seed({self.seed})",
            f"{name} = elman.{self.about.module}({self.input_size}, {self.hidden_size}{options}{dtype})"
            + ("" if not self.dropout else ".eval()"),
            f"x = torch.randn({sizes}{dtype})",
            f"output, {finals} = {name}(x)",
        )

    def build(self, make: type[M]) -> M:
        """The network, of Elman's class or torch's, in evaluation mode (no dropout)."""
        import torch

        return make(self.input_size, self.hidden_size, **self.options(), dtype=getattr(torch, self.dtype)).eval()

    def data(self) -> Tensor:
        """An input, drawn from torch's generator."""
        import torch

        lead = (self.batch, self.seq_len) if self.batch_first else (self.seq_len, self.batch)
        return torch.randn(*lead, self.input_size, dtype=getattr(torch, self.dtype))

    def torch_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def _one_of(name: str, given: str, known: tuple[str, ...]) -> None:
    if given in known:
        return
    close = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise ValueError(f"unknown {name} {given!r}; {hint}")
