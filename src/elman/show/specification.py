"""Which network is shown: its kind, sizes and options, the data it runs on, the code that makes just that, and a run of this code."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import torch

import elman
from elman.zoo.by_name import cell_by_name, hint_of_kind, is_own

if TYPE_CHECKING:
    from torch import Tensor

    from elman.backends import Stack
    from elman.layers.recurrent import Recurrent

    Segment = tuple[int, int]  # the first and the last step of a part of a sequence

# Each is a class of elman and of torch.nn by its name in capitals. What it computes its cell declares.
KINDS = ("rnn", "gru", "lstm")
OPTIONS = ("num_layers", "nonlinearity", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
OPTIONS_OF_ONE_KIND = {"nonlinearity": "rnn", "proj_size": "lstm"}

# More numbers than these do not fit into the memory of usual machines.
MOST_NUMBERS = 2**27
MOST_LAYERS = 1000

_cell_by_name = cache(cell_by_name)  # a file is imported once, however many networks there are of its cells


@dataclass
class Spec:
    r"""A network and the data to run it on; sizes as ``torch.nn`` names them.

    >>> spec = Spec("rnn", 10, 20, bidirectional=True)
    >>> print("\n".join(spec.code))
    torch.manual_seed(0)
    rnn = elman.RNN(10, 20, bidirectional=True)
    x = torch.randn(5, 3, 10)
    output, h_n = rnn(x)

    ``kind`` is "rnn", "gru" or "lstm", or the name of a cell, "zoo.MGU" or "path/to/file.py:MyCell". ``reset`` has sequences, None standing
    for all, and the steps at which they begin afresh. What cannot be is a ValueError, and so are more than ``MOST_NUMBERS`` numbers.
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
    lengths: tuple[int, ...] | None = None
    reset: tuple[tuple[int | None, int], ...] = ()

    def __post_init__(self) -> None:
        self._check()
        self.own_cell = _cell_by_name(self.kind) if is_own(self.kind) else None
        # Its class in elman, of a built-in kind also in torch.nn, and what the network is called in the code and by its title.
        self.module, self.name = (self.kind.upper(), self.kind) if self.own_cell is None else ("Recurrent", "net")
        self.title = self.module if self.own_cell is None else repr(self.own_cell)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network itself gives it
            try:
                self.stack: Stack = self.build(getattr(elman, self.module), device="meta").stack  # that of a network without memory
            except (TypeError, AttributeError, RuntimeError) as error:  # what is wrong with somebody's cell
                raise ValueError(str(error)) from error
        self.directions = ("forward", "reverse") if self.bidirectional else ("forward",)
        self.output_size = self.proj_size or self.hidden_size  # of one direction
        self.finals = tuple(f"{state}_n" for state in self.stack.cell.states)
        ragged = [name for name, given in {"lengths": self.lengths is not None, "reset": bool(self.reset)}.items() if given]
        self.ragged = len(ragged) > 0
        # What the network is called with, and its trace, as one writes them: "x, lengths=lengths".
        self.arguments = ", ".join(["x", *(f"{name}={name}" for name in (*ragged, *self.stack.cell.step_inputs))])
        self.trace = f"{self.name}.trace({self.arguments})"
        per_step = self.input_size + self.num_layers * self.stack.output_size
        self._check_memory(sum(map(prod, self.stack.shapes)) + self.seq_len * self.batch * per_step)

    def _check(self) -> None:
        if self.kind not in KINDS and not is_own(self.kind):
            raise ValueError(f"unknown kind {self.kind!r}; {hint_of_kind(self.kind, KINDS)}")
        for name, kind in OPTIONS_OF_ONE_KIND.items():
            if (given := getattr(self, name)) != getattr(Spec, name) and self.kind != kind:
                raise ValueError(f"expected no {name}, got {given}: only an {kind.upper()} takes it")
        for name in ("seq_len", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"expected seed to fit into 64 bits, got {self.seed}")
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"expected num_layers to be at most {MOST_LAYERS} here, got {self.num_layers}")
        self._check_memory(max(self.input_size, self.hidden_size, self.seq_len, self.batch))
        if self.lengths is not None and len(self.lengths) != self.batch:
            raise ValueError(f"expected a length for each sequence of the batch, {self.batch} in all, got {len(self.lengths)}")
        for length in self.lengths or ():
            check_between("--lengths", length, self.seq_len)
        for sequence, step in self.reset:
            check_between("--reset step", step, self.seq_len - 1)
            check_between("--reset sequence", sequence or 0, self.batch - 1)

    def _check_memory(self, numbers: int) -> None:
        if numbers > MOST_NUMBERS:
            # Decimal: a number that was typed may be too large for a float.
            raise ValueError(f"expected at most {MOST_NUMBERS:.1e} numbers in this network and its data, got {Decimal(numbers):.1e}")

    def in_order(self, step: Any, sequence: Any) -> tuple[Any, Any]:
        """Step and sequence as they index x and output."""
        return (sequence, step) if self.batch_first else (step, sequence)

    def columns(self, direction: str) -> str | None:
        """Where a direction lies in the last axis of ``output``, as one writes it; None where it is all of it."""
        columns = f":{self.output_size}" if direction == "forward" else f"{self.output_size}:"
        return columns if self.bidirectional else None

    def output_code(self, step: int | str, sequence: int | str, columns: int | str | None = None) -> str:
        """A part of ``output``, as one writes it: "output[-1, :, 20:]"."""
        return indexed("output", *self.in_order(step, sequence), columns)

    def trace_code(self, layer: int, direction: str | None, step: int, sequence: int | str, *unit: int, of: str = "h") -> str:
        """What a state or gate of a layer is after a step, as one writes it: "rnn.trace(x).h[0, 1, -1]"; without a direction of both."""
        of_direction = ":" if direction is None else self.directions.index(direction)
        return indexed(f"{self.trace}.{of}", layer, of_direction, *self.in_order(step, sequence), *unit)

    @property
    def code(self) -> tuple[str, ...]:
        """The lines that make this network and run it: after ``import elman, torch`` they give the numbers that are shown."""
        dtype = "" if self.dtype == "float32" else f", dtype=torch.{self.dtype}"
        there = "" if self.device == "cpu" else f".to({self.device!r})"  # moved, so that the seed gives the CPU's numbers
        evaluated = ".eval()" if self.dropout or self.stack.cell.draws else ""
        cell = "" if self.own_cell is None else f"elman.{self.kind}(), " if self.kind.startswith("zoo.") else "cell, "
        options = "".join(f", {name}={value!r}" for name, value in self.options().items())
        lead, finals = self.in_order(self.seq_len, self.batch), ", ".join(self.finals)

        def data(make: str, *shape: int) -> str:
            return f"torch.{make}({', '.join(map(str, shape))}{dtype}){there}"

        lines = [
            *([f"# cell: {self.kind}"] if cell == "cell, " else ()),
            f"torch.manual_seed({self.seed})",
            f"{self.name} = elman.{self.module}({cell}{self.input_size}, {self.hidden_size}{options}{dtype}){there}{evaluated}",
            f"x = {data('randn', *lead, self.input_size)}",
        ]
        step_inputs = self.stack.cell.step_inputs.items()
        lines += [f"{name} = {data('rand', *lead, *[self.hidden_size] * len(size))}" for name, size in step_inputs]
        lines += [f"lengths = {list(self.lengths)}"] if self.lengths is not None else []
        lines += ["reset = torch.zeros({}, {}, dtype=torch.bool)".format(*lead)] if self.reset else []
        starts = (self.in_order(step, ":" if sequence is None else sequence) for sequence, step in self.reset)
        lines += ["reset[{}, {}] = True".format(*start) for start in starts]
        lines.append(f"output, {finals if len(self.finals) == 1 else f'({finals})'} = {self.name}({self.arguments})")
        return (*lines, f"last = {self.trace}.last") if self.ragged else tuple(lines)

    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments that are not at their defaults."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) != getattr(Spec, name)}

    def build(self, make: Any, device: str | None = None) -> Any:
        """The network, of Elman's class or torch's, in evaluation mode (no dropout), where it is made: on ``device``, else the CPU."""
        cell = () if self.own_cell is None else (self.own_cell,)
        dtype = getattr(torch, self.dtype)
        return make(*cell, self.input_size, self.hidden_size, **self.options(), device=device, dtype=dtype).eval()


def indexed(name: str, *index: object) -> str:
    """An index as one writes it, without None and without ":" at the end: "output[-1]"."""
    parts = [str(each) for each in index if each is not None]
    return f"{name}[{', '.join(parts[:-1] if parts[-1] == ':' else parts)}]"


class Run:
    """What there is after a network's code, without gradients; torch's generator is left as it was."""

    def __init__(self, spec: Spec) -> None:
        self.names: dict[str, Any] = {"elman": elman, "torch": torch, "cell": spec.own_cell}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            exec("\n".join(spec.code), self.names)
        self.network: Recurrent[Any] = self.names[spec.name].eval()
        if not spec.ragged:  # traced once, however often a trace is looked into
            self.network.trace = cache(self.network.trace)

    def __getitem__(self, code: str) -> Any:
        """What an expression of Python gives there. It is one of ours, never a reader's."""
        with torch.no_grad():
            return eval(code, self.names)

    def alone(self, spec: Spec, sequence: int, segment: Segment) -> Any:
        """The final states of a segment of a sequence that is run by itself."""
        part = spec.in_order(slice(segment[0], segment[1] + 1), slice(sequence, sequence + 1))
        with torch.no_grad():
            finals = self.network(self["x"][part], **{name: self[name][part] for name in spec.stack.cell.step_inputs})[1]
        return (finals[0] if isinstance(finals, tuple) else finals)[:, 0]


def check_between(name: str, given: int, most: int) -> None:
    if not 0 <= given <= most:
        raise ValueError(f"{name} must be between 0 and {most}, got {given}")


def rounding(values: Tensor) -> float:
    """How far apart two ways to compute the same state may lie."""
    return float(64 * torch.finfo(values.dtype).eps * max(1.0, float(values.abs().max())))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a.double() - b.double()).abs().max())
