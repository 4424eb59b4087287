"""What a stack is run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from elman.backends.spans import WHOLE, Spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from elman.backends.stack import Stack


class Operands(NamedTuple):
    """The tensors of a call.

    Attributes:
        x: (T, B, I) with any strides; packed, (N, I). Where a function takes batch_first beside the operands and says so, (B, T, I).
        states: one tensor for each of the cell's states, (L·D, B, H), or as wide as ``stack.state_sizes`` says; None for zeros.
        params: the flat list of parameters in torch's order.
        spans: which steps of each sequence are run.
    """

    x: Tensor
    states: tuple[Tensor, ...] | None
    params: Sequence[Tensor]
    spans: Spans = WHOLE

    def differentiable(self) -> tuple[Tensor, ...]:
        """All that can have a gradient: x, the states, what resets start from, the step inputs, the parameters. A node's inputs."""
        spans = self.spans
        return self.x, *(self.states or ()), *(spans.fresh or ()), *(spans.step_inputs or ()), *self.params

    def to(self, dtype: torch.dtype) -> Operands:
        """The operands in this dtype."""
        states = None if self.states is None else tuple([state.to(dtype) for state in self.states])
        return Operands(
            self.x.to(dtype), states, [param.to(dtype) for param in self.params], self.spans.with_numbers(lambda t: t.to(dtype))
        )

    def replaced(self, **changed: Any) -> Operands:
        """These operands with some replaced. torch 2.8 does not compile namedtuple's own ``_replace``."""
        values: Any = [changed.get(name, value) for name, value in zip(Operands._fields, self, strict=True)]
        return Operands(*values)

    def time_first(self, batch_first: bool, lead: int = 0) -> Operands:
        """The operands with x transposed, if it has its batch before its steps; ``lead``: how many axes it has before both."""
        return self.replaced(x=self.x.transpose(lead, lead + 1)) if batch_first else self

    def with_axes(self, left_out: int) -> Operands:
        """The operands with the axes that are left out of x and of the states (``Stack.left_out``)."""
        axes = (None,) * left_out
        return self.replaced(x=self.x[axes], states=None if self.states is None else tuple([state[axes] for state in self.states]))

    def without_unread(self) -> Operands:
        """The operands without what resets start from, where there are none."""
        if self.spans.reset is None and self.spans.fresh is not None:
            return self.replaced(spans=self.spans.replaced(fresh=None))
        return self

    def member(self, index: int) -> Operands:
        """Those of one member of an ensemble, whose axis all tensors have before their others."""
        states = None if self.states is None else tuple([state[index] for state in self.states])
        return Operands(self.x[index], states, tuple([param[index] for param in self.params]), self.spans.member(index))

    def of_layer(self, stack: Stack, index: int, x: Tensor) -> Operands:
        """Those of one layer of the stack, whose input is x."""
        directions, each = stack.num_directions, stack.num_directions * stack.tensors_per_direction
        own, spans = slice(index * directions, (index + 1) * directions), self.spans
        states, fresh, draws = (
            None if given is None else tuple([state[own] for state in given]) for given in (self.states, spans.fresh, spans.draws)
        )
        return Operands(x, states, self.params[index * each : (index + 1) * each], spans.replaced(fresh=fresh, draws=draws))
