"""Which network is asked about: its kind, sizes and options, the data it runs on, and the code that makes just that."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from elman.show.kinds import KINDS, Kind

if TYPE_CHECKING:
    from typing import TypeVar

    import torch
    from torch import Tensor, nn

    from elman.cells import Cell

    M = TypeVar("M", bound=nn.Module)

DTYPES = ("float32", "float64", "float16", "bfloat16")

# Beyond this the tensors would not fit into the memory of the machines people sit at.
MOST_NUMBERS = 2**27


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
        ValueError: an unknown kind, dtype or nonlinearity, a size below 1, a dropout outside [0, 1], or more than ``MOST_NUMBERS`` numbers.
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
    seq_len: int = 5
    batch: int = 3
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, tuple(KINDS))
        _one_of("dtype", self.dtype, DTYPES)
        if KINDS[self.kind].nonlinearities:
            _one_of("nonlinearity", self.nonlinearity, KINDS[self.kind].nonlinearities)
        for name in ("input_size", "hidden_size", "num_layers", "seq_len", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be a probability between 0 and 1, got {self.dropout:g}")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed must fit into 64 bits, got {self.seed}")
        if self.numbers > MOST_NUMBERS:
            raise ValueError(
                f"this network and its data would be {self.numbers:.1e} numbers, and at most {MOST_NUMBERS:.1e} can be explained"
            )

    @property
    def about(self) -> Kind:
        return KINDS[self.kind]

    @property
    def cell(self) -> Cell:
        return self.about.cell(self.nonlinearity)

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def gate_rows(self) -> int:
        """G·H: the rows of a weight matrix."""
        return len(self.cell.gates) * self.hidden_size

    def layer_inputs(self, layer: int) -> int:
        """How many numbers layer ``layer`` reads at each step."""
        return self.input_size if layer == 0 else self.num_directions * self.hidden_size

    @property
    def numbers(self) -> int:
        """How many numbers the parameters and the input and output of every layer are."""
        rows = self.num_directions * self.gate_rows
        parameters = sum(rows * (self.layer_inputs(layer) + self.hidden_size + 2 * self.bias) for layer in range(self.num_layers))
        per_step = self.input_size + self.num_layers * self.num_directions * self.hidden_size
        return parameters + self.seq_len * self.batch * per_step

    def options(self) -> dict[str, object]:
        """The constructor's keyword arguments that are not at their defaults."""
        given = asdict(self)
        names = ["num_layers", "bias", "batch_first", "dropout", "bidirectional"]
        if self.about.nonlinearities:
            names.insert(1, "nonlinearity")
        return {name: given[name] for name in names if given[name] != getattr(Spec, name)}

    @property
    def code(self) -> tuple[str, ...]:
        """The lines that make this network and run it: typed in after ``import elman, torch`` they give the very numbers shown."""
        dtype = "" if self.dtype == "float32" else f", dtype=torch.{self.dtype}"
        options = "".join(f", {name}={value!r}" for name, value in self.options().items())
        lead = (self.batch, self.seq_len) if self.batch_first else (self.seq_len, self.batch)
        sizes = ", ".join(str(size) for size in (*lead, self.input_size))
        name = self.kind
        return (
            f"torch.manual_seed({self.seed})",
            f"{name} = elman.{self.about.module}({self.input_size}, {self.hidden_size}{options}{dtype})"
            + ("" if not self.dropout else ".eval()"),
            f"x = torch.randn({sizes}{dtype})",
            f"output, {self.about.state_code} = {name}(x)",
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
