"""The kernels' door: addresses, sizes and strides in elements. Every argument is checked; a ValueError says what does not fit.

Cells are numbered 0 (rnn_tanh) and 1 (rnn_relu), number types 0 (float32) and 1 (float64). An address of 0 is null; csrc/kernels.h
says where it may be. Matrices of parameters and all states are dense. ``params`` and ``d_params`` hold, for each layer and direction, the
addresses of w_ih, w_hh, b_ih and b_hh. ``batch_sizes`` points to T int64 counts, or is null: every row lives all steps.
"""

from collections.abc import Sequence
from typing import Any

def use(isa: str, /) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def peak(number: int, threads: int) -> float: ...
def offer_exchange(capsule: object, /) -> None: ...
def dense_addresses(tensors: Sequence[object], shapes: tuple[tuple[int, ...], ...], /) -> list[int] | None: ...
def plain_forward(
    cell: int,
    input_size: int,
    hidden_size: int,
    layers: int,
    directions: int,
    bias: bool,
    shapes: tuple[tuple[int, ...], ...],
    params: tuple[object, ...],
    x: object,
    h_0: object,
    batch_first: bool,
    grad_mode: bool,
    classes: tuple[type, ...],
    threads: int,
    /,
) -> Any: ...
def activation(cell: int, number: int, source: int, target: int, count: int, /) -> None: ...
def forward(
    cell: int,
    number: int,
    steps: int,
    batch: int,
    input_size: int,
    hidden_size: int,
    layers: int,
    directions: int,
    batch_sizes: int,
    params: Sequence[int],
    threads: int,
    x: int,
    x_step: int,
    x_row: int,
    initial: int,
    output: int,
    output_step: int,
    output_row: int,
    final: int,
    hidden: int,
    /,
) -> None: ...
def backward(
    cell: int,
    number: int,
    steps: int,
    batch: int,
    input_size: int,
    hidden_size: int,
    layers: int,
    directions: int,
    batch_sizes: int,
    params: Sequence[int],
    threads: int,
    x: int,
    x_step: int,
    x_row: int,
    initial: int,
    output: int,
    output_step: int,
    output_row: int,
    hidden: int,
    d_output: int,
    d_output_step: int,
    d_output_row: int,
    d_output_column: int,
    d_final: int,
    d_x: int,
    d_x_step: int,
    d_x_row: int,
    d_initial: int,
    d_params: Sequence[int],
    /,
) -> None: ...
