"""Which network is shown: its kind, sizes and options, the data it runs on, the code that makes just that, and a run of this code."""

from __future__ import annotations

import difflib
import warnings
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache, cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import elman

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from torch import nn

    from elman.backends import Stack
    from elman.layers.layer import RecurrentLayer

    M = TypeVar("M", bound=nn.Module)
    Index = TypeVar("Index")

# Each is a class of elman and of torch.nn by its name in capitals. What it computes its cell declares.
KINDS = ("rnn", "gru", "lstm")
DTYPES = ("float32", "float64", "float16", "bfloat16")
DEVICES = ("cpu", "cuda")

# More numbers than these do not fit into the memory of usual machines.
MOST_NUMBERS = 2**27
MOST_LAYERS = 1000
# Of more layers the lowest and the top one are shown.
MOST_LAYERS_SHOWN = 3


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
        ValueError: an unknown kind or dtype, what the network's class refuses, data of no size, or more than ``MOST_NUMBERS`` numbers.
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
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, known in {"kind": KINDS, "dtype": DTYPES, "device": DEVICES}.items():
            if (given := getattr(self, name)) not in known:
                close = difflib.get_close_matches(given, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
                raise ValueError(f"unknown {name} {given!r}; {hint}")
        if self.nonlinearity != "tanh" and self.kind != "rnn":
            raise ValueError(f"expected no nonlinearity, got {self.nonlinearity}: only an RNN has a choice")
        for name in ("seq_len", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"expected seed to fit into 64 bits, got {self.seed}")
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"expected num_layers to be at most {MOST_LAYERS} here, got {self.num_layers}")
        largest = max(self.input_size, self.hidden_size, self.seq_len, self.batch)
        if (numbers := largest if largest > MOST_NUMBERS else self.numbers) > MOST_NUMBERS:
            # Decimal: a number that was typed may be too large for a float.
            raise ValueError(f"expected at most {MOST_NUMBERS:.1e} numbers in this network and its data, got {Decimal(numbers):.1e}")

    @property
    def module(self) -> str:
        """The name of its class, in ``elman`` and in ``torch.nn``."""
        return self.kind.upper()

    @cached_property
    def stack(self) -> Stack:
        """What a backend runs: the cell, and the shapes of parameters and states. It is that of a network without memory."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network itself gives it
            stack: Stack = self.build(getattr(elman, self.module), device="meta").stack
        return stack

    @property
    def directions(self) -> tuple[str, ...]:
        return ("forward", "reverse") if self.bidirectional else ("forward",)

    @property
    def output_size(self) -> int:
        """How many numbers a direction puts out at each step: P with a projection, else H."""
        return self.proj_size or self.hidden_size

    @property
    def numbers(self) -> int:
        """How many numbers the parameters and the input and output of every layer are."""
        per_step = self.input_size + self.num_layers * len(self.directions) * self.output_size
        return sum(map(prod, self.stack.shapes)) + self.seq_len * self.batch * per_step

    @property
    def finals(self) -> tuple[str, ...]:
        """The final states by name: "h_n", "c_n"."""
        return tuple(f"{state}_n" for state in self.stack.cell.states)

    def in_order(self, step: Index, sequence: Index) -> tuple[Index, Index]:
        """Step and sequence as they index x and output."""
        return (sequence, step) if self.batch_first else (step, sequence)

    def output_code(self, step: int | str, sequence: int | str, columns: int | str | None = None) -> str:
        """A part of ``output``, as one writes it: "output[-1, :, 20:]"."""
        return indexed("output", *self.in_order(step, sequence), columns)

    def columns(self, direction: str) -> str | None:
        """Where a direction lies in the last axis of ``output``, as one writes it; None where it is all of it."""
        columns = f":{self.output_size}" if direction == "forward" else f"{self.output_size}:"
        return columns if self.bidirectional else None

    def trace_code(self, layer: int, direction: str | None, step: int, sequence: int | str, *unit: int, state: str = "h") -> str:
        """What a layer's state is after a step, as one writes it: "rnn.trace(x).h[0, 1, -1]"; without a direction that of both."""
        of_direction = ":" if direction is None else self.directions.index(direction)
        return indexed(f"{self.kind}.trace(x).{state}", layer, of_direction, *self.in_order(step, sequence), *unit)

    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments that are not at their defaults."""
        names = ("num_layers", "nonlinearity", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
        return {name: value for name, value in asdict(self).items() if name in names and value != getattr(Spec, name)}

    @property
    def code(self) -> tuple[str, ...]:
        """The lines that make this network and run it: after ``import elman, torch`` they give the numbers that are shown."""
        dtype = "" if self.dtype == "float32" else f", dtype=torch.{self.dtype}"
        there = "" if self.device == "cpu" else f".to({self.device!r})"  # moved, so that the seed gives the CPU's numbers
        options = "".join(f", {name}={value!r}" for name, value in self.options().items())
        finals = ", ".join(self.finals)
        return (
            f"torch.manual_seed({self.seed})",
            f"{self.kind} = elman.{self.module}({self.input_size}, {self.hidden_size}{options}{dtype}){there}"
            + (".eval()" if self.dropout else ""),
            f"x = torch.randn({', '.join(map(str, (*self.in_order(self.seq_len, self.batch), self.input_size)))}{dtype}){there}",
            f"output, {finals if len(self.finals) == 1 else f'({finals})'} = {self.kind}(x)",
        )

    def build(self, make: type[M], device: str | None = None) -> M:
        """The network, of Elman's class or torch's, in evaluation mode (no dropout), where it is made: on ``device``, else the CPU."""
        return make(self.input_size, self.hidden_size, **self.options(), device=device, dtype=getattr(torch, self.dtype)).eval()


def indexed(name: str, *index: object) -> str:
    """An index as one writes it, without None and without ":" at the end.

    >>> indexed("output", -1, ":", None)
    'output[-1]'
    """
    parts = [str(each) for each in index if each is not None]
    return f"{name}[{', '.join(parts[:-1] if parts[-1] == ':' else parts)}]"


class Run:
    """What there is after these lines, by default the network's own, without gradients; torch's generator is left as it was.

    >>> run = Run(Spec("rnn", 10, 20))
    >>> run["output[-1]"].equal(run["h_n[0]"])
    True
    """

    def __init__(self, spec: Spec, code: Sequence[str] = ()) -> None:
        self.names: dict[str, Any] = {"elman": elman, "torch": torch}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            exec("\n".join(code or spec.code), self.names)
        self.network: RecurrentLayer[Any] = self.names[spec.kind].eval()
        # Traced once, however often a trace is looked into.
        self.network.trace = cache(self.network.trace)

    def __getitem__(self, code: str) -> Any:
        """What an expression of Python gives there. It is one of ours, never a reader's."""
        with torch.no_grad():
            return eval(code, self.names)


def rounding(values: Tensor) -> float:
    """How far apart two ways to compute the same state may lie."""
    return float(64 * torch.finfo(values.dtype).eps * max(1.0, float(values.abs().max())))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a.double() - b.double()).abs().max())
