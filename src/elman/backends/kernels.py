"""Calls the compiled kernels with torch tensors: allocates the outputs, passes addresses and strides, runs on one call's behalf.

Nothing here knows autograd. ``native`` decides when to come here.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

try:
    from elman import _native
except ImportError as error:  # a pure-Python installation
    _native = None  # type: ignore[assignment]
    built = importlib.util.find_spec("elman._native") is not None
    _missing: str | None = str(error) if built else "this is the pure-Python package"
else:
    _missing = None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.spans import Spans
    from elman.backends.stack import Stack

if forced := os.environ.get("ELMAN_ISA"):
    if _native is None:
        raise ValueError(f"ELMAN_ISA is {forced!r}, but the kernels are not built here ({_missing}); unset it")
    try:
        _native.use(forced)
    except ValueError as error:
        raise ValueError(f"ELMAN_ISA is {forced!r}, but there is {error}; set it to one of these, or unset it for the best") from None

# How the kernels number cells and number types (csrc/kernels.h).
CELLS = {"rnn_tanh": 0, "rnn_relu": 1, "gru": 2, "lstm": 3}
NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}  # the last forward only
PLAIN = (Tensor, Parameter)  # a subclass may mean anything by its operations

States: TypeAlias = "tuple[Tensor, ...] | None"


class Kept(NamedTuple):
    """What ``backward`` needs of a run besides its inputs and outputs; None where there is no such thing.

    Attributes:
        hidden: the lower layers' outputs, (L-1, rows, D·H), with a projection P for H. Of padded rows only the steps they have.
        steps: what the cell keeps of each step, (L·D, rows, K, H).
        marks: with ``recompute``, instead of ``steps``: the cell's memory now and then, (L·D, marks, B, H).
    """

    hidden: Tensor | None
    steps: Tensor | None
    marks: Tensor | None


def available() -> bool:
    """Whether the kernels were built for this installation."""
    return _missing is None


def unavailable_reason() -> str | None:
    """Why they are not here; None if they are."""
    return _missing


def isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "scalar"; ELMAN_ISA forces one."""
    return _native.isa()


def isas() -> tuple[str, ...]:
    """The instruction sets that this processor and this build offer, the best first."""
    return tuple(_native.isas())


def fma_peak(threads: int, dtype: torch.dtype = torch.float32) -> float:
    """The ceiling of any kernel here: operations per second of multiply-adds in registers alone, on so many threads at once."""
    return _native.peak(NUMBERS[dtype], threads)


def sees_tensors() -> bool:
    """Whether torch shows its tensors to the kernels (DLPack's exchange, torch 2.10 and later)."""
    return _missing is None and hasattr(Tensor, "__dlpack_c_exchange_api__")


if sees_tensors():
    _native.offer_exchange(Tensor.__dlpack_c_exchange_api__)


def _dense(tensor: Tensor) -> Tensor:
    """The tensor as the kernels read it, copied if need be: contiguous, and its numbers in memory as they are."""
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.resolve_neg().contiguous()


def dense_addresses(tensors: Sequence[Tensor], shapes: tuple[tuple[int, ...], ...]) -> list[int] | None:
    """The tensors' addresses, if all are dense, on the CPU, of one dtype and these shapes; None if not, or if it takes long to tell."""
    return _native.dense_addresses(tensors, shapes) if _missing is None else None


def _expect(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype or tensor.device.type != "cpu":
        raise RuntimeError(
            f"expected {name} of shape {tuple(shape)} and {dtype} on the CPU, got {tuple(tensor.shape)}, {tensor.dtype}, {tensor.device}"
        )


def check(stack: Stack, x: Tensor, states: States, params: Sequence[Tensor], spans: Spans, batch_first: bool) -> None:
    """Make sure that operands fit a stack, where ``layers`` has not done so: the kernels read as much memory as the stack's sizes say.

    Raises:
        RuntimeError: a shape, dtype or device does not fit.
    """
    dtype = x.dtype
    if dtype not in NUMBERS:
        raise RuntimeError(f"expected x of {', '.join(map(str, NUMBERS))}, got {dtype}")
    if spans.batch_sizes is None:
        _expect("x", x, (*x.shape[:2], stack.input_size) if x.dim() == 3 else (0, 0, stack.input_size), dtype)
    else:
        _expect("batch_sizes", spans.batch_sizes, (spans.batch_sizes.numel(),), torch.int64)
        _expect("x", x, (int(spans.batch_sizes.sum()), stack.input_size), dtype)
    steps, batch = _steps_and_batch(x, spans.batch_sizes, batch_first)
    if spans.lengths is not None:
        _expect("lengths", spans.lengths, (batch,), torch.int64)
    if spans.reset is not None:
        _expect("reset", spans.reset, (steps, batch), torch.bool)
    directions = stack.num_layers * stack.num_directions
    kinds: tuple[tuple[str, States, list[int]], ...] = (("initial", states, [directions, batch]), ("fresh", spans.fresh, [directions]))
    for kind, given, leading in kinds:
        if given is not None:
            if len(given) != len(stack.state_sizes):
                raise RuntimeError(f"expected {len(stack.state_sizes)} {kind} states, got {len(given)}")
            for name, state, width in zip(stack.cell.states, given, stack.state_sizes, strict=True):
                _expect(f"the {kind} {name}", state, (*leading, width), dtype)
    if len(params) != len(stack.shapes):
        raise RuntimeError(f"expected {len(stack.shapes)} parameters, got {len(params)}")
    for index, (param, shape) in enumerate(zip(params, stack.shapes, strict=True)):
        _expect(f"parameter {index}", param, shape, dtype)


def _read(params: Sequence[Tensor], stack: Stack) -> tuple[tuple[Tensor, ...], list[int]]:
    """The parameters as the kernels read them, copied if need be, and their addresses, which hold while the first lives."""
    addresses = dense_addresses(params, stack.shapes)
    if addresses is None:
        params = tuple([_dense(p) for p in params])
        addresses = [p.data_ptr() for p in params]
    return tuple(params), _five(addresses, stack)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _five(addresses: list[int], stack: Stack) -> list[int]:
    """Addresses of w_ih, w_hh, b_ih, b_hh and w_hr for each direction: null for what there is not."""
    tensors = stack.tensors_per_direction
    biases, projection = [] if stack.bias else [0, 0], [] if stack.proj_size else [0]
    return [
        address
        for i in range(0, len(addresses), tensors)
        for address in (*addresses[i : i + 2], *biases, *addresses[i + 2 : i + tensors], *projection)
    ]


def _readable(x: Tensor) -> Tensor:
    """A sequence as the kernels read it, copied if need be: its rows may lie anywhere, but each is contiguous."""
    return x if (x.stride()[-1] == 1 or x.shape[-1] == 1) and not x.is_neg() else x.resolve_neg().contiguous()


def _place(x: Tensor, batch_first: bool) -> tuple[int, int, int]:
    """Where a readable sequence lies: its address, and elements from one step to the next (packed: none) and from one row to the next."""
    strides = x.stride()
    if len(strides) == 2:
        return x.data_ptr(), 0, strides[0]
    return (x.data_ptr(), strides[1], strides[0]) if batch_first else (x.data_ptr(), strides[0], strides[1])


def new_sequence(like: Tensor, width: int) -> Tensor:
    """Memory for as many rows as ``like`` has, each of ``width`` numbers, not initialised."""
    # The strided form: of torch's ways to make a tensor like another it costs least.
    if like.dim() == 2:
        return like.new_empty_strided((like.shape[0], width), (width, 1))
    a, b, _ = like.shape
    return like.new_empty_strided((a, b, width), (b * width, width, 1))


def new_kept(stack: Stack, x: Tensor, steps: int | torch.SymInt, batch: int | torch.SymInt, rows: int | torch.SymInt) -> Kept:
    """Memory for what ``forward`` keeps of so many rows in all: in bfloat16 nothing."""
    if x.dtype is torch.bfloat16:
        return Kept(None, None, None)
    directions = stack.num_layers * stack.num_directions
    hidden = x.new_empty((stack.num_layers - 1, rows, stack.output_size)) if stack.num_layers > 1 else None
    numbers = _native.kept_numbers(CELLS[stack.cell.name])
    if numbers == 0:
        return Kept(hidden, None, None)
    if not stack.recompute:
        return Kept(hidden, x.new_empty((directions, rows, numbers, stack.hidden_size)), None)
    if len(stack.cell.states) == 1:  # its memory is its output, which is there
        return Kept(hidden, None, None)
    marks: int | torch.SymInt
    if isinstance(steps, torch.SymInt) or isinstance(batch, torch.SymInt):
        marks = torch.library.get_ctx().new_dynamic_size()
    else:
        marks = rows and _native.number_of_marks(CELLS[stack.cell.name], NUMBERS[x.dtype], steps, batch, stack.hidden_size)
    return Kept(hidden, None, x.new_empty((directions, marks, batch, stack.hidden_size)))


def _steps_and_batch(x: Tensor, batch_sizes: Tensor | None, batch_first: bool) -> tuple[int, int]:
    if batch_sizes is not None:
        return len(batch_sizes), int(batch_sizes[0])
    return (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])


def _kept_counts(x: Tensor, spans: Spans, steps: int, batch: int) -> tuple[int, int, int]:
    """Of what is run: steps, rows of a step at most, and rows in all."""
    if spans.batch_sizes is not None:
        return steps, batch, x.shape[0]
    if spans.lengths is None:
        return steps, batch, steps * batch
    lengths = spans.lengths.tolist()
    return max(lengths), batch - lengths.count(0), sum(lengths)


def _sizes(
    stack: Stack, x: Tensor, steps: int, batch: int, spans: Spans
) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int]:
    """The first arguments of every kernel: what runs, its sizes, and the spans."""
    reset, reset_step, reset_row = (0, 0, 0) if spans.reset is None else (spans.reset.data_ptr(), *spans.reset.stride())
    return (
        CELLS[stack.cell.name],
        NUMBERS[x.dtype],
        steps,
        batch,
        stack.input_size,
        stack.hidden_size,
        stack.proj_size,
        stack.num_layers,
        stack.num_directions,
        _address(spans.batch_sizes),
        _address(spans.lengths),
        reset,
        reset_step,
        reset_row,
    )


def _what(stack: Stack) -> tuple[object, ...]:
    """What runs, for the kernels' quick entries; kept with the stack, which never changes."""
    known: tuple[object, ...] | None = stack.__dict__.get("_what")
    if known is None:
        known = (
            CELLS[stack.cell.name],
            stack.input_size,
            stack.hidden_size,
            stack.proj_size,
            stack.num_layers,
            stack.num_directions,
            stack.bias,
            stack.shapes,
        )
        stack.__dict__["_what"] = known
    return known


def open_stream(
    stack: Stack,
    batch: int,
    params: Sequence[object],
    states: Sequence[object],
    fresh: tuple[tuple[object, ...], ...],
    entries: dict[str, Tensor],
    names: tuple[str, ...],
) -> _native.Stream:
    """Kernels that run a stack a step at a time (csrc/stream_binding.cpp says what the arguments are)."""
    sizes = (stack.input_size, stack.hidden_size, stack.proj_size, stack.num_layers)
    cell = CELLS[stack.cell.name]
    return _native.Stream(cell, *sizes, stack.bias, batch, params, states, fresh, PLAIN, entries, names)


def plain_forward(
    stack: Stack, x: Tensor, states: States, params: tuple[Tensor, ...], batch_first: bool, grad_mode: bool, keep: bool
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None, Tensor | None] | bool | None:
    """Run a stack over plain tensors, so far unchecked, in one step behind the binding.

    Returns:
        The outputs, the final states, and with ``keep`` the first two of ``Kept``; None, with nothing done, if the call is not of this
        kind; False if it would be, but for gradients that are wanted with ``grad_mode``.
    """
    done: tuple[Tensor, tuple[Tensor, ...], Tensor | None, Tensor | None] | bool | None = _native.plain_forward(
        _what(stack), params, x, states, batch_first, grad_mode, keep, PLAIN, torch.get_num_threads()
    )
    return done


def forward(
    stack: Stack,
    x: Tensor,
    states: States,
    params: Sequence[Tensor],
    spans: Spans,
    batch_first: bool,
    keep: bool,
    roomy: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Kept]:
    """Run a stack.

    Args:
        x: (T, B, I), with batch_first (B, T, I), or packed (N, I).
        keep: whether ``backward`` will follow.
        roomy: of padded rows keep all T·B steps, zeros where there is none, so that no size depends on the lengths.

    Returns:
        The outputs, laid out as x; the final states; and what ``backward`` needs besides.
    """
    x = _readable(x)
    steps, batch = _steps_and_batch(x, spans.batch_sizes, batch_first)
    output = new_sequence(x, stack.output_size)
    padded = roomy and spans.lengths is not None
    kept = Kept(None, None, None)
    if keep:
        kept = new_kept(stack, x, *((steps, batch, steps * batch) if padded else _kept_counts(x, spans, steps, batch)))
    if padded and kept.marks is not None:
        kept.marks.zero_()
    return output, _forward_into(stack, x, states, params, spans, batch_first, steps, batch, output, kept, padded), kept


def trace(stack: Stack, x: Tensor, states: States, params: Sequence[Tensor], spans: Spans) -> tuple[Tensor, tuple[Tensor, ...], Kept]:
    """Run a stack over x, (T, B, I), and keep everything.

    Returns:
        The outputs of every layer, (L, T, B, D·H); the final states; and what ``backward`` needs: ``hidden``, the same outputs of all
        layers but the last, and ``steps``, (L·D, T, B, K, H).
    """
    x = _readable(x)
    steps, batch, _ = x.shape
    outputs = x.new_empty((stack.num_layers, steps, batch, stack.output_size))
    numbers, directions = _native.kept_numbers(CELLS[stack.cell.name]), stack.num_layers * stack.num_directions
    kept = Kept(
        outputs[:-1] if stack.num_layers > 1 else None,
        x.new_empty((directions, steps, batch, numbers, stack.hidden_size)) if numbers else None,
        None,
    )
    return outputs, _forward_into(stack, x, states, params, spans, False, steps, batch, outputs[-1], kept, True), kept


def _forward_into(
    stack: Stack,
    x: Tensor,
    states: States,
    params: Sequence[Tensor],
    spans: Spans,
    batch_first: bool,
    steps: int,
    batch: int,
    output: Tensor,
    kept: Kept,
    kept_padded: bool,
) -> tuple[Tensor, ...]:
    """Run a stack into memory that is there, and return the final states."""
    params, addresses = _read(params, stack)
    states, fresh = _all_dense(states), _all_dense(spans.fresh)
    directions = stack.num_layers * stack.num_directions
    finals = tuple([x.new_empty((directions, batch, width)) for width in stack.state_sizes])
    _native.forward(
        *_sizes(stack, x, steps, batch, spans),
        addresses,
        torch.get_num_threads(),
        *_place(x, batch_first),
        _addresses(states, stack),
        _addresses(fresh, stack),
        *_place(output, batch_first),
        _addresses(finals, stack),
        _address(kept.hidden),
        _address(kept.steps),
        _address(kept.marks),
        kept_padded,
    )
    return finals


def _all_dense(states: States) -> States:
    return None if states is None else tuple([_dense(state) for state in states])


def _addresses(states: Sequence[Tensor | None] | None, stack: Stack) -> list[int]:
    """One address for each of the cell's states."""
    return [0] * len(stack.cell.states) if states is None else list(map(_address, states))


def backward(
    stack: Stack,
    x: Tensor,
    states: States,
    params: tuple[Tensor, ...],
    spans: Spans,
    batch_first: bool,
    output: Tensor,
    kept: Kept,
    d_output: Tensor | None,
    d_finals: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
    d_kept: Kept | None = None,
    roomy: bool = False,
) -> Sequence[Tensor | None]:
    """The gradients of a run.

    Args:
        output, kept: what ``forward`` or ``trace`` gave; of the latter's outputs the last layer's.
        d_output, d_finals: the gradients of the outputs and final states; None for zeros.
        wanted: which gradients are wanted: x's, the initial states', the fresh states' (if there are any), then each parameter's.
        d_kept: after ``trace``: the gradients of what was kept; None after ``forward``.
        roomy: as ``forward`` was told.

    Returns:
        The gradients in the order of ``wanted``, None where not wanted.
    """
    usual = d_kept is None and spans.is_whole() and not spans.fresh and not stack.recompute and x.dtype is not torch.bfloat16
    if usual:  # in one step behind the binding
        done: list[Tensor | None] | None = _native.plain_backward(
            _what(stack),
            params,
            x,
            states,
            batch_first,
            output,
            kept.hidden,
            kept.steps,
            d_output,
            d_finals,
            wanted,
            PLAIN,
            torch.get_num_threads(),
        )
        if done is not None:
            return done
    for gradient in (d_output, *d_finals):
        if gradient is not None and gradient.dtype is not x.dtype:
            raise RuntimeError(f"expected gradients of {x.dtype}, as x is, got {gradient.dtype}: was x changed where it was saved?")
    # Unusual, so perhaps wrong: what was saved may have been given other memory since, which no count of writes tells.
    check(stack, x, states, params, spans, batch_first)
    steps, batch = _steps_and_batch(x, spans.batch_sizes, batch_first)
    padded = d_kept is not None or (roomy and spans.lengths is not None)
    counts = (steps, batch, steps * batch) if padded else _kept_counts(x, spans, steps, batch)
    _check_results(stack, x, batch, counts, output, kept, d_output, d_finals, d_kept)
    if x.dtype is torch.bfloat16:
        return _backward_widened(stack, x, states, params, spans, batch_first, d_output, d_finals, wanted)
    x, output = _readable(x), _readable(output)
    read, addresses = _read(params, stack)
    states, fresh = _all_dense(states), _all_dense(spans.fresh)
    kept = Kept(*(None if t is None else _dense(t) for t in kept))
    arriving = Kept(*(None if t is None else _dense(t) for t in d_kept or (None, None, None)))
    d_finals = tuple([None if d is None else _dense(d) for d in d_finals])
    wants = iter(wanted)
    d_x = new_sequence(x, stack.input_size) if next(wants) else None
    d_states = [torch.empty_like(state) if next(wants) else None for state in states or ()]
    d_fresh = [torch.empty_like(state) if next(wants) else None for state in fresh or ()]
    d_params = [torch.empty_like(p) if want else None for p, want in zip(read, wants, strict=True)]
    d_rows = (0, 0, 0, 0)
    if d_output is not None:
        if any(d_output.stride()) or d_output.is_neg():
            d_output = _readable(d_output)
            d_rows = (*_place(d_output, batch_first), 1)
        else:  # one number stands for all, as in the gradient of a sum
            d_rows = (d_output.data_ptr(), 0, 0, 0)
    _native.backward(
        *_sizes(stack, x, steps, batch, spans),
        addresses,
        torch.get_num_threads(),
        *_place(x, batch_first),
        _addresses(states, stack),
        _addresses(fresh, stack),
        *_place(output, batch_first),
        _address(kept.hidden),
        _address(kept.steps),
        _address(kept.marks),
        padded,
        *d_rows,
        _address(arriving.hidden),
        _address(arriving.steps),
        _addresses(d_finals, stack),
        *((0, 0, 0) if d_x is None else _place(d_x, batch_first)),
        _addresses(d_states or None, stack),
        _addresses(d_fresh or None, stack),
        _five(list(map(_address, d_params)), stack),
    )
    return [d_x, *d_states, *d_fresh, *d_params]


def _check_results(
    stack: Stack,
    x: Tensor,
    batch: int,
    counts: tuple[int, int, int],
    output: Tensor,
    kept: Kept,
    d_output: Tensor | None,
    d_finals: Sequence[Tensor | None],
    d_kept: Kept | None,
) -> None:
    """The same of what came of a run, and of the gradients that arrive.

    Args:
        counts: of what is kept: steps, rows of a step, and rows in all.
    """
    rows = counts[2]
    directions, numbers = stack.num_layers * stack.num_directions, _native.kept_numbers(CELLS[stack.cell.name])
    for name, tensor in (("output", output), ("output's gradient", d_output)):
        if tensor is not None:
            _expect(name, tensor, (*x.shape[:-1], stack.output_size), x.dtype)
    for name, tensor, width in zip(stack.cell.states, d_finals, stack.state_sizes, strict=True):
        if tensor is not None:
            _expect(f"{name}_n's gradient", tensor, (directions, batch, width), x.dtype)
    for name, tensors in (("kept", kept), ("kept's gradient", d_kept or kept)):
        if tensors.hidden is not None:
            _expect_rows(
                f"the lower layers' outputs, {name},", tensors.hidden, rows * (stack.num_layers - 1), (stack.output_size,), x.dtype
            )
        if tensors.steps is not None:
            _expect_rows(f"what each step left, {name},", tensors.steps, rows * directions, (numbers, stack.hidden_size), x.dtype)
    if kept.marks is not None and rows:
        marks = _native.number_of_marks(CELLS[stack.cell.name], NUMBERS[x.dtype], *counts[:2], stack.hidden_size)
        _expect_rows("the memory's marks", kept.marks, directions * marks * counts[1], (stack.hidden_size,), x.dtype)


def _expect_rows(name: str, tensor: Tensor, least: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The same for so many rows at least, in any number of axes."""
    rows = math.prod(tensor.shape[: -len(shape)])
    _expect(name, tensor, (*tensor.shape[: -len(shape)], *shape), dtype)
    if rows < least:
        raise RuntimeError(f"expected {name} of {least} rows, got {rows}")


def _backward_widened(
    stack: Stack,
    x: Tensor,
    states: States,
    params: tuple[Tensor, ...],
    spans: Spans,
    batch_first: bool,
    d_output: Tensor | None,
    d_finals: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
) -> Sequence[Tensor | None]:
    """The gradients of a run in bfloat16: the network runs once more, and back, in float32, and what comes of it is rounded."""
    x, params = x.float(), tuple([p.float() for p in params])
    states = None if states is None else tuple([state.float() for state in states])
    spans = spans._replace(fresh=None if spans.fresh is None else tuple([state.float() for state in spans.fresh]))
    d_output = None if d_output is None else d_output.float()
    d_finals = tuple([None if d is None else d.float() for d in d_finals])
    output, _, kept = forward(stack, x, states, params, spans, batch_first, keep=True)
    found = backward(stack, x, states, params, spans, batch_first, output, kept, d_output, d_finals, wanted)
    return [None if gradient is None else gradient.bfloat16() for gradient in found]
