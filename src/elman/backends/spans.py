"""Which steps of each sequence of a batch are run, and where it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Spans(NamedTuple):
    """The spans of time of a batch's sequences. All None: every sequence is run through all steps, in one piece.

    Attributes:
        batch_sizes: the input is packed, (N, I), and this says how many sequences have each step: int64 on the CPU, contiguous, at
            least 1, non-increasing. Never together with ``lengths``.
        lengths: how many steps each sequence has, (B,): int64 on the CPU, contiguous, from 0 to T. What lies beyond is not read, outputs
            there are 0, and so are gradients. The reverse direction begins at a sequence's last step. Final states are those after a
            sequence's last step; of a sequence without steps, the initial ones.
        reset: where a sequence is cut and begins afresh, (T, B), bool, on x's device, with any strides; packed, with the sequences in the
            order of the packing. True at t: what is before step t and what is from t on are run as if one by one. In the forward
            direction the state before step t is ``fresh``, at t = 0 too; in the reverse direction the state that comes to step t-1 from
            step t is.
        fresh: what a reset starts from: one tensor for each of the cell's states, (L·D, H), with a projection the first (L·D, P); None
            for zeros.
        step_inputs: the inputs of every step besides x, in the order of the cell's ``step_inputs``: (T, B), or (T, B, H) with a number for
            each unit. None where the cell has none.
        draws: uniform random numbers in the order of the cell's ``draws``: (L·D, T, B, H), or the same ones at all steps, (L·D, B, H). None
            where the cell has none, and in evaluation.
    """

    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    reset: Tensor | None = None
    fresh: tuple[Tensor, ...] | None = None
    step_inputs: tuple[Tensor, ...] | None = None
    draws: tuple[Tensor, ...] | None = None

    def is_whole(self) -> bool:
        """Whether every sequence is run through all steps, in one piece."""
        return self.batch_sizes is None and self.lengths is None and self.reset is None

    def replaced(self, **changed: Any) -> Spans:
        """These spans with some values replaced. torch 2.8 does not compile namedtuple's own ``_replace``."""
        return Spans(*[changed.get(name, value) for name, value in zip(Spans._fields, self, strict=True)])

    def borders(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``batch_sizes``, ``lengths`` and ``reset``. torch 2.8 does not compile a slice of a namedtuple."""
        return self.batch_sizes, self.lengths, self.reset

    def copies(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Copies of ``borders``, for a node to keep: the caller may write into its tensors."""
        batch_sizes, lengths, reset = (None if t is None else t.clone() for t in self.borders())
        return batch_sizes, lengths, reset

    def with_numbers(self, change: Callable[[Tensor], Tensor]) -> Spans:
        """These spans with a function applied to each floating-point tensor (fresh states, step inputs, draws)."""
        fresh, step_inputs, draws = (
            None if each is None else tuple(map(change, each)) for each in (self.fresh, self.step_inputs, self.draws)
        )
        return self.replaced(fresh=fresh, step_inputs=step_inputs, draws=draws)

    def member(self, index: int) -> Spans:
        """Those of one member of an ensemble, whose axis all tensors have before their others."""
        batch_sizes, lengths, reset = (None if t is None else t[index] for t in self.borders())
        return self.replaced(batch_sizes=batch_sizes, lengths=lengths, reset=reset).with_numbers(lambda t: t[index])

    def tensors(self) -> list[Tensor | None]:
        """All that there is, and None for each of the first three that there is not."""
        return [*self.borders(), *(self.fresh or ()), *(self.step_inputs or ()), *(self.draws or ())]


WHOLE = Spans()


class Traced(NamedTuple):
    """All intermediate values of a run.

    Attributes:
        hidden: the outputs of every layer, (L, T, B, D·H), with a projection P for H.
        finals: the final states, (L·D, B, H) each, as ``Backend.run`` gives them.
        states: the cell's states but the first after each step, by name, (L·D, T, B, H) each. 0 beyond a sequence's length.
        gates: the gates at each step, by name, laid out as the states.
    """

    hidden: Tensor
    finals: tuple[Tensor, ...]
    states: dict[str, Tensor]
    gates: dict[str, Tensor]

    def to(self, dtype: torch.dtype) -> Traced:
        """A copy with all tensors in this dtype."""
        return Traced(
            self.hidden.to(dtype),
            tuple([final.to(dtype) for final in self.finals]),
            {name: each.to(dtype) for name, each in self.states.items()},
            {name: each.to(dtype) for name, each in self.gates.items()},
        )


def unwrapped(numbers: Tensor) -> Tensor:
    """The tensor itself; under torch.func's transforms the one that is mapped over, with all of vmap's examples."""
    while torch._C._functorch.is_functorch_wrapped_tensor(numbers):
        numbers = torch._C._functorch.get_unwrapped(numbers)
    return numbers


def flat_list(numbers: Tensor) -> list[Any]:
    """A tensor's numbers in one list; under torch.func's transforms with those of all of vmap's examples."""
    with torch._C._DisableFuncTorch():  # torch 2.8 and earlier wrap what they make of the tensor
        return unwrapped(numbers).reshape(-1).tolist()
