"""The kernels' door: addresses, sizes and strides in elements. Every argument is checked; a ValueError says what does not fit.

Cells are numbered 0 (rnn_tanh), 1 (rnn_relu), 2 (gru) and 3 (lstm), functions 0 (tanh), 1 (relu) and 2 (sigmoid), number types
0 (float32), 1 (float64) and, for ``forward`` with nothing kept, 2 (bfloat16). An address of 0 is null; csrc/kernels.h says where it may
be. Matrices of parameters and all states are dense. ``params`` and ``d_params`` hold, for each layer and direction, the addresses of
w_ih, w_hh, b_ih, b_hh and w_hr; ``initial``, ``fresh``, ``final`` and their gradients one for each of the cell's states. ``proj_size`` is
0 without a projection. ``batch_sizes`` points to T int64 counts of packed sequences, or ``lengths`` to B int64 lengths of padded ones;
where both are null, every row lives all steps. ``resets`` points to bytes, or is null: no resets.
"""

from collections.abc import Sequence
from typing import Any

def use(isa: str, /) -> None: ...
def isa() -> str: ...
def assume_barrier(seconds: float, /) -> None: ...
def isas() -> list[str]: ...
def peak(number: int, threads: int) -> float: ...
def offer_exchange(capsule: object, /) -> None: ...
def dense_addresses(tensors: Sequence[object], shapes: tuple[tuple[int, ...], ...], /) -> list[int] | None: ...
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
def kept_numbers(cell: int, /) -> int: ...
def number_of_marks(cell: int, number: int, steps: int, batch: int, hidden_size: int, /) -> int: ...
def activation(function: int, number: int, source: int, target: int, count: int, /) -> None: ...
def forward(
    cell: int,
    number: int,
    steps: int,
    batch: int,
    input_size: int,
    hidden_size: int,
    proj_size: int,
    layers: int,
    directions: int,
    batch_sizes: int,
    lengths: int,
    resets: int,
    resets_step: int,
    resets_row: int,
    params: Sequence[int],
    threads: int,
    x: int,
    x_step: int,
    x_row: int,
    initial: Sequence[int],
    fresh: Sequence[int],
    output: int,
    output_step: int,
    output_row: int,
    final: Sequence[int],
    hidden: int,
    kept: int,
    marks: int,
    kept_padded: bool,
    /,
) -> None: ...
def backward(
    cell: int,
    number: int,
    steps: int,
    batch: int,
    input_size: int,
    hidden_size: int,
    proj_size: int,
    layers: int,
    directions: int,
    batch_sizes: int,
    lengths: int,
    resets: int,
    resets_step: int,
    resets_row: int,
    params: Sequence[int],
    threads: int,
    x: int,
    x_step: int,
    x_row: int,
    initial: Sequence[int],
    fresh: Sequence[int],
    output: int,
    output_step: int,
    output_row: int,
    hidden: int,
    kept: int,
    marks: int,
    kept_padded: bool,
    d_output: int,
    d_output_step: int,
    d_output_row: int,
    d_output_column: int,
    d_hidden: int,
    d_kept: int,
    d_final: Sequence[int],
    d_x: int,
    d_x_step: int,
    d_x_row: int,
    d_initial: Sequence[int],
    d_fresh: Sequence[int],
    d_params: Sequence[int],
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
