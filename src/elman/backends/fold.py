"""A call as a form and a flat list of tensors, and its conversion to one batch of vmap's examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from elman.backends.operands import Operands
from elman.backends.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.program.transformed import TransformedRun
    from elman.backends.stack import Stack

Tensors: TypeAlias = "tuple[Tensor | None, ...]"


@dataclass(frozen=True)
class Form:
    """The parts of a call that are not tensors.

    Attributes:
        stack, batch_first: as ``call.forward`` takes them.
        starts, freshes: how many initial states and step inputs, and how many fresh states there are.
        save: whether a gradient is to follow.
        needs_grad: of a gradient, which are made: as ``call.backward`` takes it.
        examples: of a gradient: how many examples lie one after another in the batch, each of which gets the parameters' gradients of its
            own; 0: they are summed.
        program: what runs a cell of one's own (``program.transformed``), which gives nothing step by step to save or to split; None: the
            kernels for x's device.
    """

    stack: Stack
    batch_first: bool
    starts: int
    freshes: int
    save: bool = False
    needs_grad: tuple[bool, ...] = ()
    examples: int = 0
    program: TransformedRun | None = None

    @property
    def count(self) -> int:
        """How many tensors there are among the operands, None among them."""
        return 4 + self.starts + self.freshes + len(self.stack.shapes)


class NodeOperands(NamedTuple):
    """A call's tensors. As a node's inputs they lie in one flat list.

    ``starts`` are the initial states, if there are any, and behind them the step inputs: of all these the second axis is the batch.
    """

    x: Tensor
    batch_sizes: Tensor | None
    lengths: Tensor | None
    reset: Tensor | None
    starts: tuple[Tensor, ...]
    fresh: tuple[Tensor, ...]
    params: tuple[Tensor, ...]

    @staticmethod
    def of(form: Form, flat: Sequence[Any]) -> NodeOperands:
        middle, end = 4 + form.starts, 4 + form.starts + form.freshes
        x, batch_sizes, lengths, reset = flat[:4]
        return NodeOperands(x, batch_sizes, lengths, reset, tuple(flat[4:middle]), tuple(flat[middle:end]), tuple(flat[end : form.count]))

    def flat(self) -> Tensors:
        return *self[:4], *self.starts, *self.fresh, *self.params

    def differentiable(self) -> tuple[Tensor, ...]:
        return self.x, *self.starts, *self.fresh, *self.params

    def member(self, form: Form, index: int) -> NodeOperands:
        """Those of one member of an ensemble."""
        return NodeOperands.of(form, [None if t is None else t[index] for t in self.flat()])

    def of_call(self, form: Form) -> Operands:
        """The operands as a call takes them."""
        lengths = None if self.lengths is None else self.lengths.contiguous()  # vmap's examples may share them, or lie across
        states = len(self.starts) - len(form.stack.cell.step_inputs)
        spans = Spans(self.batch_sizes, lengths, self.reset, self.fresh or None, self.starts[states:] or None)
        return Operands(self.x, self.starts[:states] or None, self.params, spans)


class Fold:
    """Merges the axis of vmap's examples with that of the batch: in front of it or, for packed sequences, behind it."""

    def __init__(self, size: int, form: Form, packed: bool) -> None:
        self.size, self.inner, self.form = size, int(packed), form
        lead = form.stack.lead
        self.x = lead if packed or form.batch_first else lead + 1  # the axis of the batch in x, in states, and in what is saved
        self.state, self.saved = lead + 1, lead + 1 if packed else lead + 2
        # In x, batch_sizes, lengths, reset, the initial states and the step inputs.
        self.axes = (self.x, None, lead, lead + 1, *([self.state] * form.starts))

    def operands(self, flat: Sequence[Tensor | None], dims: Sequence[int | None]) -> list[Tensor | None]:
        """A call's operands for all examples at once, which share what has no batch."""
        end = len(self.axes)
        x, batch_sizes, *rest = self.each(flat[:end], dims[:end], self.axes)
        return [x, None if batch_sizes is None else batch_sizes * self.size, *rest, *flat[end:]]

    def each(self, tensors: Sequence[Tensor | None], dims: Sequence[int | None], axes: Sequence[int | None]) -> list[Tensor | None]:
        return [self._join(*each) for each in zip(tensors, dims, axes, strict=True)]

    def _join(self, tensor: Tensor | None, dim: int | None, axis: int | None) -> Tensor | None:
        if tensor is None or axis is None:
            return tensor
        return place(tensor, dim, axis + self.inner, self.size).flatten(axis, axis + 1)

    def undo(self, tensors: Sequence[Tensor | None], axes: Sequence[int | None]) -> tuple[Tensors, tuple[int | None, ...]]:
        """The tensors with an axis of examples, but where there is no batch; and where it is."""
        sizes = (-1, self.size) if self.inner else (self.size, -1)
        pairs = [
            (t, None) if t is None or axis is None else (split(t, axis, sizes), axis + self.inner)
            for t, axis in zip(tensors, axes, strict=True)
        ]
        return tuple([t for t, _ in pairs]), tuple([axis for _, axis in pairs])


class Ensemble:
    """The axis of vmap's examples as that of an ensemble's members: before all others, and made one with that of members there are."""

    def __init__(self, size: int, stack: Stack) -> None:
        if size == 0:
            raise RuntimeError("expected an ensemble of at least one network, got none: an axis that vmap maps over has size 0")
        self.size, self.is_nested = size, stack.members > 0
        self.stack = stack.of(size * max(1, stack.members))

    def join(self, tensors: Sequence[Tensor | None], dims: Sequence[int | None]) -> list[Any]:
        """A call's tensors, of all members."""
        placed = [None if t is None else place(t, dim, 0, self.size) for t, dim in zip(tensors, dims, strict=True)]
        return [None if t is None else t.flatten(0, 1) for t in placed] if self.is_nested else placed

    def part(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """What a call gives, with the axis of examples first."""
        return tuple([None if t is None else split(t, 0, (self.size, -1)) for t in tensors] if self.is_nested else tensors)


def place(tensor: Tensor, dim: int | None, axis: int, size: int) -> Tensor:
    """The tensor with its axis of examples moved here; if it has none, expanded to this size."""
    if dim == axis:
        return tensor
    if dim is not None:
        return tensor.movedim(dim, axis)
    shape = tensor.shape
    return tensor.expand(size, *shape) if axis == 0 else tensor.unsqueeze(axis).expand(*shape[:axis], size, *shape[axis:])


def split(tensor: Tensor, axis: int, sizes: tuple[int, int]) -> Tensor:
    """The tensor with one axis split into two."""
    return torch.unflatten(tensor, axis, sizes)
