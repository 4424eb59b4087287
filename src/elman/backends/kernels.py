"""Calls the compiled kernels with torch tensors: copies what they cannot read as it lies, and allocates the outputs.

Nothing here knows autograd; ``native`` decides when to come here. Nor is anything checked here: the kernels' door (csrc/contracts.h) looks
at every tensor that comes through, and raises a RuntimeError that says which does not fit the stack.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

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
    from collections.abc import Callable, Sequence

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


def threads_used() -> int:
    """How many threads the last kernel ran on that the calling thread called: 1 to torch's number; 0 without the kernels."""
    return _native.threads_used() if _missing is None else 0


def sees_tensors() -> bool:
    """Whether torch shows its tensors to the kernels (DLPack's exchange, torch 2.10 and later)."""
    return _missing is None and hasattr(Tensor, "__dlpack_c_exchange_api__")


if sees_tensors():
    _native.offer_exchange(Tensor.__dlpack_c_exchange_api__)


def _some_lack_memory(*tensors: Tensor | None) -> bool:
    """Whether some are the zeros that torch keeps no memory for, which are to be copied. Asked once the kernels have refused a call."""
    return any(t is not None and t._is_zerotensor() for t in tensors)


def _dense(tensor: Tensor) -> Tensor:
    """The tensor as the kernels read it, copied if need be: contiguous, and its numbers in memory as they are."""
    if tensor._is_zerotensor():
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.resolve_neg().contiguous()


def reads(stack: Stack, params: Sequence[Tensor]) -> bool:
    """Whether the kernels read these parameters as they lie, which are then what the stack needs; False, too, if it takes long to tell."""
    return _missing is None and stack.cell.name in CELLS and _native.reads(_what(stack), params)


def _readable(x: Tensor) -> Tensor:
    """A sequence as the kernels read it, copied if need be: its rows may lie anywhere, but each is contiguous."""
    return x if (x.stride()[-1] == 1 or x.shape[-1] == 1) and not x.is_neg() and not x._is_zerotensor() else _dense(x.resolve_neg())


def new_sequence(like: Tensor, width: int) -> Tensor:
    """Memory for as many rows as ``like`` has, each of ``width`` numbers, not initialised."""
    if like.dim() != 3:
        return like.new_empty((*like.shape[:-1], width))
    a, b, _ = like.shape  # the strided form: of torch's ways to make a tensor like another it costs least
    return like.new_empty_strided((a, b, width), (b * width, width, 1))


def new_kept(stack: Stack, x: Tensor, steps: int | torch.SymInt, batch: int | torch.SymInt, rows: int | torch.SymInt) -> Kept:
    """Memory for what ``forward`` keeps of so many rows in all: in bfloat16 nothing."""
    if x.dtype is torch.bfloat16:
        return Kept(None, None, None)
    directions = stack.num_layers * stack.num_directions
    hidden = x.new_empty((stack.num_layers - 1, rows, stack.output_size)) if stack.num_layers > 1 else None
    numbers = _native.saved_numbers(CELLS[stack.cell.name])
    if numbers == 0:
        return Kept(hidden, None, None)
    if not stack.recompute:
        return Kept(hidden, x.new_empty((directions, rows, numbers, stack.hidden_size)), None)
    if len(stack.cell.states) == 1:  # its memory is its output, which is there
        return Kept(hidden, None, None)
    marks = number_of_marks(len(stack.cell.gates) * stack.hidden_size * x.element_size(), steps, batch)
    return Kept(hidden, None, x.new_empty((directions, marks, batch, stack.hidden_size)))


def number_of_marks(width: int, steps: int | torch.SymInt, batch: int | torch.SymInt) -> int | torch.SymInt:
    """How many times the kernels mark a cell's memory, for gates of ``width`` bytes in a row: before each chunk of the backward pass.

    As csrc/kernels.h has it, but of sizes that a compiler knows by symbols alone: a number that came from there would be one more
    symbol, at which it cuts the program in two.
    """
    at_least: Callable[[int, int | torch.SymInt], int | torch.SymInt] = torch.sym_max
    chunk = at_least(1, 8 * 1024 * 1024 // at_least(1, width * batch))
    return (steps + chunk - 1) // chunk


def _steps_and_batch(x: Tensor, batch_sizes: Tensor | None, batch_first: bool) -> tuple[int, int]:
    """Steps and rows; whatever, where there are none: the kernels' door says so."""
    if batch_sizes is not None:
        return batch_sizes.numel(), int(batch_sizes.flatten()[:1].sum())
    first, second, *_ = (*x.shape, 0, 0)
    return (second, first) if batch_first else (first, second)


def _kept_counts(x: Tensor, spans: Spans, steps: int, batch: int) -> tuple[int, int, int]:
    """Of what is run: steps, rows of a step at most, and rows in all."""
    if spans.batch_sizes is not None:
        return steps, batch, x.shape[0]
    if spans.lengths is None:
        return steps, batch, steps * batch
    lengths = spans.lengths.flatten().tolist()
    return max(lengths, default=0), batch - lengths.count(0), sum(lengths)


def _what(stack: Stack) -> tuple[object, ...]:
    """What runs, as the kernels are told; kept with the stack, which never changes."""
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
    done: tuple[Tensor, tuple[Tensor, ...], Tensor | None, Tensor | None] | bool | None
    try:
        done = _native.plain_forward(_what(stack), params, x, states, batch_first, grad_mode, keep, PLAIN, torch.get_num_threads())
    except RuntimeError:
        if not _some_lack_memory(x, *(states or ()), *params):
            raise
        done = None
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
    return output, _forward_into(stack, x, states, params, spans, batch_first, batch, output, kept, padded), kept


def trace(stack: Stack, x: Tensor, states: States, params: Sequence[Tensor], spans: Spans) -> tuple[Tensor, tuple[Tensor, ...], Kept]:
    """Run a stack over x, (T, B, I), and keep everything.

    Returns:
        The outputs of every layer, (L, T, B, D·H); the final states; and what ``backward`` needs: ``hidden``, the same outputs of all
        layers but the last, and ``steps``, (L·D, T, B, K, H).
    """
    x = _readable(x)
    steps, batch, _ = x.shape
    outputs = x.new_empty((stack.num_layers, steps, batch, stack.output_size))
    numbers, directions = _native.saved_numbers(CELLS[stack.cell.name]), stack.num_layers * stack.num_directions
    kept = Kept(
        outputs[:-1] if stack.num_layers > 1 else None,
        x.new_empty((directions, steps, batch, numbers, stack.hidden_size)) if numbers else None,
        None,
    )
    return outputs, _forward_into(stack, x, states, params, spans, False, batch, outputs[-1], kept, True), kept


def _forward_into(
    stack: Stack,
    x: Tensor,
    states: States,
    params: Sequence[Tensor],
    spans: Spans,
    batch_first: bool,
    batch: int,
    output: Tensor,
    kept: Kept,
    kept_padded: bool,
) -> tuple[Tensor, ...]:
    """Run a stack into memory that is there, and return the final states."""
    directions = stack.num_layers * stack.num_directions
    finals = tuple([x.new_empty((directions, batch, width)) for width in stack.state_sizes])
    _native.forward(*_inputs(stack, x, states, params, spans, batch_first, kept_padded), output, finals, *kept)
    return finals


def _inputs(
    stack: Stack, x: Tensor, states: States, params: Sequence[Tensor], spans: Spans, batch_first: bool, kept_padded: bool
) -> tuple[Any, Any, Tensor, Any, Any, Any, Any, Any, bool, bool, int]:
    """The first arguments of every kernel: what runs, and on what."""
    read = params if reads(stack, params) else _all_dense(params)
    starts = _all_dense(states), _all_dense(spans.fresh)
    return _what(stack), read, x, *starts, *spans[:3], batch_first, kept_padded, torch.get_num_threads()


def _all_dense(tensors: Sequence[Tensor] | None) -> tuple[Tensor, ...] | None:
    return None if tensors is None else tuple([_dense(t) for t in tensors])


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
        try:
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
        except RuntimeError:
            if not _some_lack_memory(x, *(states or ()), *params, d_output, *d_finals):
                raise
            done = None
        if done is not None:
            return done
    d_output, d_finals = _or_none(d_output), tuple(map(_or_none, d_finals))
    for t in (*params, *(states or ()), *(spans.fresh or ()), d_output, *d_finals):
        if t is not None and t.dtype is not x.dtype:
            raise RuntimeError(f"expected all tensors of {x.dtype}, as x is, got {t.dtype}: was x changed where it was saved?")
    if x.dtype is torch.bfloat16:
        return _backward_widened(stack, x, states, params, spans, batch_first, d_output, d_finals, wanted)
    x, output, params = _readable(x), _readable(output), tuple([_dense(p) for p in params])
    if d_output is not None and (any(d_output.stride()) or d_output.is_neg()):
        d_output = _readable(d_output)  # where it is one number that stands for all, as in the gradient of a sum, the kernels read it so
    wants = iter(wanted)
    d_x = new_sequence(x, stack.input_size) if next(wants) else None
    d_states, d_fresh, d_params = (
        [t.new_empty(t.shape) if next(wants) else None for t in tensors] for tensors in (states or (), spans.fresh or (), params)
    )
    _native.backward(
        *_inputs(stack, x, states, params, spans, batch_first, d_kept is not None or roomy),
        output,
        *_kept_dense(kept),
        d_output,
        *_kept_dense(d_kept)[:2],
        tuple([None if d is None else _dense(d) for d in d_finals]),
        d_x,
        d_states or None,
        d_fresh or None,
        d_params,
    )
    return [d_x, *d_states, *d_fresh, *d_params]


def _or_none(gradient: Tensor | None) -> Tensor | None:
    """A gradient; None for zeros without memory."""
    return None if gradient is None or gradient._is_zerotensor() else gradient


def _kept_dense(kept: Kept | None) -> Kept:
    return Kept(*(None if t is None else _dense(t) for t in kept or (None, None, None)))


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
