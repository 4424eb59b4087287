"""A program's run as the torch operator ``torch.ops.elman.program``: what torch.compile, torch.export and dispatch modes see.

The program is among the arguments, as a text: so a recorded graph depends on no Python object, and an exported file holds all that it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from ctypes import cast, py_object
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from elman.backends import inductor, kernels, reference
from elman.backends.operands import Operands
from elman.backends.operator import decompose_for_onnx, define, has_no_sequences, keep_output, kept_output, library, refuse_second_gradient
from elman.backends.program import call
from elman.backends.program.call import Kept
from elman.backends.program.followed import holds_tensors
from elman.backends.program.frozen import frozen_cell
from elman.backends.program.lookup import outside_modes, program_of
from elman.backends.program.program import Role
from elman.backends.program.stand_in import NotRecordedError
from elman.backends.program.text import program_from, text_of
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from elman.cells import Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.program.program import Program

# ``operands``: x; the initial states and the fresh states, if they are given; the step inputs; the random numbers, if they are drawn; the
# parameters. ``form``: the numbers of ``Form``. Results: the output, the final states, and, with ``save``, ``Kept`` of as many steps as x
# has. What there is not is an empty tensor, of one axis.
define("program(Tensor[] operands, Tensor? lengths, Tensor? reset, str text, int[] form, bool save) -> Tensor[]")
# ``gradients``: of the output and of the final states. ``needs_grad``: as ``call.backward`` takes it. Results: those that are needed.
define(
    "program_backward(Tensor?[] gradients, Tensor[] operands, Tensor? lengths, Tensor? reset, Tensor output, Tensor? hidden, Tensor? kept, "
    "str text, int[] form, bool[] needs_grad) -> Tensor[]"
)


def _described(address: int, units: int, dtype: torch.dtype, draws: bool) -> tuple[str, str]:
    """The program, as a text, of the cell whose ``id`` is given, with so many units, and an empty string; or an empty string, and why there
    is none.

    Older compilers (torch 2.8, 2.9) hand over nothing but constants, as an ``id`` is one. They guard that the cell stays this very one.
    """
    cell = cast(address, py_object).value
    with outside_modes():
        try:
            if not isinstance(cell, Cell):  # of what a compiled function makes, some hand over the id of another object
                raise NotRecordedError("does not run a cell that is made in compiled code")
            if holds_tensors(frozen_cell(cell)):  # compilers do not guard a tensor's numbers: see ``_guard``
                raise NotRecordedError("does not record a step that reads a tensor beside its arguments")
            return text_of(program_of(cell, dtype, draws, units=units)), ""
        except NotRecordedError as error:
            return "", str(error)


_described._dynamo_marked_constant = True  # type: ignore[attr-defined]  # called by Dynamo, not traced: see ``_guard``


def described(stack: Stack, dtype: torch.dtype, draws: bool) -> tuple[str, str]:
    """In a call that is recorded the cell's program, as a text, or why it has none, as the rest of a sentence: the other is empty."""
    return _described(id(stack.cell), stack.hidden_size, dtype, draws)


def run(stack: Stack, operands: Operands, batch_first: bool, save: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a stack through the operator: the outputs and the final states. ``save``: whether a gradient will follow."""
    x, states, params, spans = operands
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.bfloat16
    text, _ = described(stack, dtype, spans.draws is not None)
    if torch.compiler.is_dynamo_compiling():
        _guard(stack, x, params, spans)
    _, lengths, reset, fresh, step_inputs, draws = spans
    options = stack.hidden_size, stack.num_layers, stack.num_directions, stack.bias, stack.recompute, batch_first
    form = [*map(int, options), int(states is not None), int(fresh is not None), int(draws is not None)]
    tensors = [x, *(states or ()), *(fresh or ()), *(step_inputs or ()), *(draws or ()), *params]
    output, *finals = torch.ops.elman.program(tensors, lengths, reset, text, form, save)[: 1 + len(stack.cell.states)]
    return output, tuple(finals)


def _guard(stack: Stack, x: Tensor, params: Sequence[Tensor], spans: Spans) -> None:
    """Take a step whose results nobody uses. The compiler drops it, and compiles anew once something changes that the step has read."""
    first, sequence = stack.layers[0], x.new_zeros(1, stack.input_size)
    step_inputs = [sequence.new_zeros(1, 1, *[stack.hidden_size] * bool(size)) for size in stack.cell.step_inputs.values()]
    draws = None if spans.draws is None else tuple([sequence.new_zeros(1, 1, 1, stack.hidden_size) for _ in stack.cell.draws])
    spans = Spans(step_inputs=tuple(step_inputs), draws=draws)
    reference.step(first, Operands(sequence, None, params[: stack.tensors_per_direction], spans))


def form_of(numbers: Sequence[int]) -> Form:
    """Raises a RuntimeError if there are too many or too few, or a flag is neither 0 nor 1."""
    names = Form._fields
    if len(numbers) != len(names) or not {0, 1}.issuperset(numbers[names.index("bias") :]):
        raise RuntimeError(f"expected form to be {', '.join(names)}, from bias on 0 or 1, got {list(numbers)}")
    return Form(*numbers)


class Form(NamedTuple):
    """What the operators are told of a stack and a call."""

    hidden_size: int
    num_layers: int
    num_directions: int
    bias: int
    recompute: int
    batch_first: int
    has_states: int
    has_fresh: int
    has_draws: int


def counts(program: Program, form: Form) -> tuple[int, ...]:
    """How many operands there are of each kind before the parameters: x, initial states, fresh states, step inputs, random numbers."""
    states = program.states
    return 1, states * form.has_states, states * form.has_fresh, len(program.step_inputs), program.draws * form.has_draws


class Call(ABC):
    """The arguments of both operators, taken apart: a run by a device's kernels."""

    def __init__(self, operands: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None, text: str, form: Sequence[int]) -> None:
        kernels.require("torch.ops.elman.program")
        self.program = program_from(text)
        self.checked = call.kernel_of(self.program)  # which raises unless the program is one
        self.form = made = form_of(form)
        each = counts(self.program, made)
        if len(operands) <= sum(each):
            raise RuntimeError(f"expected more than {sum(each)} operands, the parameters last, got {len(operands)}")
        rest = iter(operands)
        (self.x,), states, fresh, step_inputs, draws = ([next(rest) for _ in range(count)] for count in each)
        if self.x.dim() != 3:
            raise RuntimeError(f"expected x of shape (T, B, I), got {tuple(self.x.shape)}")
        spans = Spans(None, lengths, reset, tuple(fresh) or None, tuple(step_inputs) or None, tuple(draws) or None)
        self.operands = Operands(self.x, tuple(states) or None, tuple(rest), spans)
        self.steps, self.batch = self.x.shape[1::-1] if made.batch_first else self.x.shape[:2]
        self.directions = made.num_layers * made.num_directions
        self.width = made.num_directions * made.hidden_size

    @abstractmethod
    def forward(self, save: bool) -> list[Tensor]:
        """The results, of a batch that has sequences."""

    @abstractmethod
    def backward(
        self,
        output: Tensor,
        hidden: Tensor | None,
        kept: Tensor | None,
        grad_output: Tensor | None,
        grad_finals: Sequence[Tensor | None],
        needs_grad: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        """The gradients, of what ``forward`` gave; None where they are not needed."""

    @abstractmethod
    def kept_size(self, rows: Any) -> Any:
        """How many numbers are kept of so many steps of sequences."""

    def hidden_shape(self, rows: Any) -> tuple[Any, ...]:
        return self.form.num_layers - 1, rows, self.width

    def results(self, save: bool) -> list[Tensor]:
        """Memory for all results."""
        x = self.x
        finals = [x.new_empty(self.directions, self.batch, self.form.hidden_size) for _ in range(self.program.states)]
        return [x.new_empty(*x.shape[:-1], self.width), *finals, *(self.saved() if save else (x.new_empty(0), x.new_empty(0)))]

    def saved(self) -> tuple[Tensor, Tensor]:
        """Memory for what is saved of as many steps as x has."""
        rows, several = self.steps * self.batch, self.form.num_layers > 1
        return self.x.new_empty(self.hidden_shape(rows) if several else 0), self.x.new_empty(self.kept_size(rows))


class _CpuCall(Call):
    """By the compiled kernels."""

    @property
    def _run(self) -> tuple[call.Kernel, call.Numbers, Operands, bool]:
        form = self.form
        sizes = form.hidden_size, 0, form.num_layers, form.num_directions, bool(form.bias), bool(form.recompute), 0, 0
        return self.checked, ("", self.x.shape[-1], *sizes), self.operands, bool(form.batch_first)

    def forward(self, save: bool) -> list[Tensor]:
        output, finals, kept = call.forward(*self._run, save)
        saved = [self.x.new_empty(0) if own is None else own for own in kept]
        if self.operands.spans.lengths is not None and save:  # of fewer steps than x has
            saved = [_at_the_beginning(own, padded) for own, padded in zip(saved, self.saved(), strict=True)]
        return [output, *finals, *saved]

    def backward(
        self,
        output: Tensor,
        hidden: Tensor | None,
        kept: Tensor | None,
        grad_output: Tensor | None,
        grad_finals: Sequence[Tensor | None],
        needs_grad: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        if (lengths := self.operands.spans.lengths) is not None:
            hidden, kept = self._of_these_steps(hidden, kept, int(lengths.sum()))
        return call.backward(*self._run, output, Kept(hidden, kept), grad_output, grad_finals, tuple(needs_grad))

    def kept_size(self, rows: Any) -> Any:  # csrc/program/call.h
        program, recompute = self.program, self.form.recompute
        reads = {index for role, index in program.reads if role in (Role.STATE, Role.NEW_STATE)}
        states = sum(bool(recompute) or state in reads for state in range(1, program.states))
        arrays = states + (0 if recompute else program.saved + len(program.products) - 1)
        line = 64 // self.x.element_size()
        lines = (rows * self.form.hidden_size + line - 1) // line
        return (self.directions * arrays * (lines + (lines + 1) % 2) + min(arrays, 1)) * line

    def _of_these_steps(self, hidden: Tensor | None, kept: Tensor | None, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """What was saved of so many steps, from memory for all steps of x."""
        if hidden is not None:
            shape = self.hidden_shape(rows)
            hidden = hidden.view(-1)[: prod(shape)].view(shape)
        return hidden, None if kept is None else kept[: self.kept_size(rows)]


def _at_the_beginning(own: Tensor, padded: Tensor) -> Tensor:
    padded.view(-1)[: own.numel()].copy_(own.view(-1))
    return padded


def call_on(device: str) -> type[Call]:
    """A run by the kernels of a kind of device."""
    if device == "cpu":
        return _CpuCall
    from elman.backends.cuda.recorded import CudaCall

    return CudaCall


def _call(operands: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None, text: str, form: Sequence[int]) -> Call:
    return call_on(operands[0].device.type if operands else "cpu")(operands, lengths, reset, text, form)


@torch.library.impl(library, "program", "CUDA")
@torch.library.impl(library, "program", "CPU")
def program(operands: list[Tensor], lengths: Tensor | None, reset: Tensor | None, text: str, form: list[int], save: bool) -> list[Tensor]:
    made = _call(operands, lengths, reset, text, form)
    return made.results(save) if has_no_sequences(made.x, None, bool(made.form.batch_first)) else made.forward(save)


@torch.library.impl(library, "program_backward", "CUDA")
@torch.library.impl(library, "program_backward", "CPU")
def program_backward(
    gradients: list[Tensor | None],
    operands: list[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    output: Tensor,
    hidden: Tensor | None,
    kept: Tensor | None,
    text: str,
    form: list[int],
    needs_grad: list[bool],
) -> list[Tensor]:
    made = _call(operands, lengths, reset, text, form)
    if has_no_sequences(made.x, None, bool(made.form.batch_first)):
        return [torch.zeros_like(t) for t, needed in zip(made.operands.differentiable(), needs_grad, strict=True) if needed]
    found = made.backward(output, hidden, kept, gradients[0], gradients[1:], needs_grad)
    return [gradient.contiguous() for gradient in found if gradient is not None]


def _program_fake(
    operands: list[Tensor], lengths: Tensor | None, reset: Tensor | None, text: str, form: list[int], save: bool
) -> list[Tensor]:
    inductor.teach(torch.ops.elman.program.default, __name__, lambda operands, *_: operands[0], gives_none=False)
    return _call(operands, lengths, reset, text, form).results(save)


def _program_backward_fake(
    gradients: list[Tensor | None], operands: list[Tensor], lengths: Tensor | None, reset: Tensor | None, *rest: Any
) -> list[Tensor]:
    inductor.teach(torch.ops.elman.program_backward.default, __name__, lambda _, operands, *__: operands[0], gives_none=False)
    *_, text, form, needs_grad = rest
    made = _call(operands, lengths, reset, text, form)
    return [t.new_empty(t.shape) for t, needed in zip(made.operands.differentiable(), needs_grad, strict=True) if needed]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    operands, lengths, reset, ctx.text, ctx.form, ctx.save = inputs
    results, *finals, hidden, kept = output
    ctx.finals = len(finals)
    ctx.save_for_backward(lengths, reset, hidden if hidden.dim() > 1 else None, kept, *operands)
    ctx.set_materialize_grads(False)
    if ctx.save:
        keep_output(ctx, results)


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    lengths, reset, hidden, kept, *operands = ctx.saved_tensors
    output = kept_output(ctx)
    if output is None:  # run once more, as in eager code; a compiler sees twice the same and runs it once
        output, *_, hidden, kept = torch.ops.elman.program(operands, lengths, reset, ctx.text, ctx.form, True)
        hidden = hidden if hidden.dim() > 1 else None
    *before, draws = counts(program_from(ctx.text), form_of(ctx.form))
    needs = list(map(bool, ctx.needs_input_grad[0]))
    drawn = slice(sum(before), sum(before) + draws)  # random numbers have no gradients
    needs_grad = needs[: drawn.start] + needs[drawn.stop :]
    arriving = gradients[: 1 + ctx.finals]
    backward = torch.ops.elman.program_backward
    computed = iter(backward(arriving, operands, lengths, reset, output, hidden, kept, ctx.text, ctx.form, needs_grad))
    needs[drawn] = [False] * draws
    return [next(computed) if needed else None for needed in needs], *[None] * 5


torch.library.register_fake("elman::program", _program_fake, lib=library)
torch.library.register_fake("elman::program_backward", _program_backward_fake, lib=library)
torch.library.register_autograd("elman::program_backward", refuse_second_gradient, lib=library)
torch.library.register_autograd("elman::program", _differentiate, setup_context=_keep, lib=library)


def _to_onnx(operands: list[Tensor], lengths: Tensor | None, reset: Tensor | None, text: str, form: list[int], save: bool) -> Any:
    """What ``torch.onnx.export`` makes of the operator. Whoever else asks torch's table for a decomposition gets none."""
    if not torch.onnx.is_in_onnx_export():
        return NotImplemented
    from elman.backends import onnx
    from elman.backends.program.recorded_cell import RecordedCell

    # A loop's gradient, which nobody exports, would need the sizes of its sums.
    made = _call([operand.detach() for operand in operands], lengths, reset, text, form)
    if made.form.has_draws:
        raise RuntimeError("expected a network in evaluation, got one whose cell draws random numbers: call eval() before it is exported")
    x, sizes = made.x, made.form
    layers = sizes.hidden_size, sizes.num_layers, sizes.num_directions == 2, bool(sizes.bias)
    stack = Stack(RecordedCell(made.program), x.shape[-1], *layers)
    output, finals = onnx.run(stack, made.operands.time_first(bool(sizes.batch_first)))
    return [output.transpose(0, 1) if sizes.batch_first else output, *finals, x.new_empty(0), x.new_empty(0)]


decompose_for_onnx(torch.ops.elman.program.default, _to_onnx, _program_fake)
