"""A call as a form and a flat list of tensors, and its conversion to one batch of vmap's examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from elman.backends.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.stack import Stack

Tensors: TypeAlias = "tuple[Tensor | None, ...]"


@dataclass(frozen=True)
class Form:
    """The parts of a call that are not tensors.

    Attributes:
        stack, batch_first: as ``call.forward`` takes them.
        starts, freshes: how many initial and fresh states there are.
        save: whether a gradient is to follow.
        needs_grad: of a gradient, which are made: as ``call.backward`` takes it.
        examples: of a gradient: how many examples lie one after another in the batch, each of which gets the parameters' gradients of its
            own; 0: they are summed.
    """

    stack: Stack
    batch_first: bool
    starts: int
    freshes: int
    save: bool = False
    needs_grad: tuple[bool, ...] = ()
    examples: int = 0

    @property
    def count(self) -> int:
        """How many tensors there are among the operands, None among them."""
        return 4 + self.starts + self.freshes + len(self.stack.shapes)


class Operands(NamedTuple):
    """A call's tensors. As a node's inputs they lie in one flat list."""

    x: Tensor
    batch_sizes: Tensor | None
    lengths: Tensor | None
    reset: Tensor | None
    states: tuple[Tensor, ...]
    fresh: tuple[Tensor, ...]
    params: tuple[Tensor, ...]

    @staticmethod
    def of(form: Form, flat: Sequence[Any]) -> Operands:
        middle, end = 4 + form.starts, 4 + form.starts + form.freshes
        x, batch_sizes, lengths, reset = flat[:4]
        return Operands(x, batch_sizes, lengths, reset, tuple(flat[4:middle]), tuple(flat[middle:end]), tuple(flat[end : form.count]))

    def flat(self) -> Tensors:
        return *self[:4], *self.states, *self.fresh, *self.params

    def differentiable(self) -> tuple[Tensor, ...]:
        return self.x, *self.states, *self.fresh, *self.params

    def spans(self) -> Spans:
        lengths = None if self.lengths is None else self.lengths.contiguous()  # vmap's examples may share them, or lie across
        return Spans(self.batch_sizes, lengths, self.reset, self.fresh or None)


class Fold:
    """Merges the axis of vmap's examples with that of the batch: in front of it or, for packed sequences, behind it."""

    def __init__(self, size: int, form: Form, packed: bool) -> None:
        self.size, self.inner, self.form = size, int(packed), form
        self.x = 0 if packed or form.batch_first else 1  # the axis of the batch in x, and in what is saved
        self.saved = 1 if packed else 2

    def operands(self, flat: Sequence[Tensor | None], dims: Sequence[int | None]) -> list[Tensor | None]:
        """A call's operands for all examples at once, which share what has no batch."""
        end = 4 + self.form.starts
        x, batch_sizes, *rest = self.each(flat[:end], dims[:end], (self.x, None, 0, 1, *([1] * self.form.starts)))
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


def place(tensor: Tensor, dim: int | None, axis: int, size: int) -> Tensor:
    """The tensor with its axis of examples moved here; if it has none, expanded to this size."""
    if dim is None:
        return tensor.unsqueeze(axis).expand(*tensor.shape[:axis], size, *tensor.shape[axis:])
    return tensor.movedim(dim, axis)


def split(tensor: Tensor, axis: int, sizes: tuple[int, int]) -> Tensor:
    """The tensor with one axis split into two."""
    return torch.unflatten(tensor, axis, sizes)
