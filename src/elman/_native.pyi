"""The kernels' door. Operands are tensors, NumPy arrays or other buffers, or None where there is none; all are looked at in C++.

What does not fit raises a RuntimeError that says what was expected and what came, a TypeError or a ValueError, and nothing is written.

Cells are numbered 0 (rnn_tanh), 1 (rnn_relu), 2 (gru) and 3 (lstm), functions 0 (tanh), 1 (relu) and 2 (sigmoid), number types 0
(float32) and 1 (float64). ``what`` is (cell, I, H, P, L, D, bias), P being 0 without a projection. Operands are of one dtype: float32,
float64, or for ``forward`` with nothing kept bfloat16, for which in a buffer uint16 stands. csrc/kernels.h says what each is for; their
shapes:

x, output, d_output, d_x: (T, B, columns), with ``batch_first`` (B, T, columns), packed (N, columns); each row contiguous.
batch_sizes, (T,), or lengths, (B,): int64, contiguous; neither: every row lives all steps. reset: (T, B), bool or uint8.
params, d_params: a list or tuple in torch's order. initial, final, fresh and their gradients: of one for each of the cell's states.
hidden, kept, marks and their gradients: contiguous, (..., D*P), (..., K, H) and (..., H). All but params may be None, or have None in them,
where kernels.h has "may be null".
"""

from collections.abc import Sequence
from typing import Any

def use(isa: str, /) -> None: ...
def isa() -> str: ...
def assume_barrier(seconds: float, /) -> None: ...
def threads_used() -> int: ...
def usable_processors() -> int: ...
def processor_quota(membership: str, mount: str, /) -> float: ...
def isas() -> list[str]: ...
def peak(number: int, threads: int) -> float: ...
def offer_exchange(capsule: object, /) -> None: ...
def reads(what: tuple[object, ...], params: Sequence[object], /) -> bool: ...
def plain_forward(
    what: tuple[object, ...],
    params: tuple[object, ...],
    x: object,
    initial: tuple[object, ...] | None,
    batch_first: bool,
    grad_mode: bool,
    keep: bool,
    classes: tuple[type, ...],
    threads: int,
    /,
) -> Any: ...
def plain_backward(
    what: tuple[object, ...],
    params: tuple[object, ...],
    x: object,
    initial: tuple[object, ...] | None,
    batch_first: bool,
    output: object,
    hidden: object,
    kept: object,
    d_output: object,
    d_final: tuple[object, ...],
    wanted: tuple[bool, ...],
    classes: tuple[type, ...],
    threads: int,
    /,
) -> Any: ...
def saved_numbers(cell: int, /) -> int: ...
def number_of_checkpoints(cell: int, number: int, steps: int, batch: int, hidden_size: int, /) -> int: ...
def activation(function: int, source: object, target: object, /) -> None: ...
def forward(
    what: tuple[object, ...],
    params: Sequence[object],
    x: object,
    initial: Sequence[object] | None,
    fresh: Sequence[object] | None,
    batch_sizes: object,
    lengths: object,
    reset: object,
    batch_first: bool,
    kept_padded: bool,
    threads: int,
    output: object,
    final: Sequence[object],
    hidden: object,
    kept: object,
    marks: object,
    /,
) -> None: ...
def backward(
    what: tuple[object, ...],
    params: Sequence[object],
    x: object,
    initial: Sequence[object] | None,
    fresh: Sequence[object] | None,
    batch_sizes: object,
    lengths: object,
    reset: object,
    batch_first: bool,
    kept_padded: bool,
    threads: int,
    output: object,
    hidden: object,
    kept: object,
    marks: object,
    d_output: object,
    d_hidden: object,
    d_kept: object,
    d_final: Sequence[object] | None,
    d_x: object,
    d_initial: Sequence[object] | None,
    d_fresh: Sequence[object] | None,
    d_params: Sequence[object],
    /,
) -> None: ...

class Stream:
    """A network that runs a step at a time: weights packed once, states written where they lie. Of torch it knows nothing."""

    def __init__(
        self,
        cell: int,
        input_size: int,
        hidden_size: int,
        proj_size: int,
        layers: int,
        bias: bool,
        batch: int,
        params: Sequence[object],
        states: Sequence[object],
        fresh: tuple[tuple[object, ...], ...],
        classes: tuple[type, ...],
        entries: dict[str, Any],
        names: Sequence[str],
        /,
    ) -> None: ...
    def is_current(self) -> bool: ...
    def step(self, x: object, out: object | None, /) -> Any: ...

class Tuner:
    """How many threads a call runs on (csrc/tuner.h), for tests: the kernels have one of their own."""

    def __init__(self) -> None: ...
    def choose(self, kind: int, multiply_adds: float, most: int, /) -> int: ...
    def learn(self, kind: int, multiply_adds: float, threads: int, seconds: float, /) -> None: ...
