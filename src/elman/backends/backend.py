"""The interface of a backend: it gives a reason to refuse a call, or runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.operands import Operands
    from elman.backends.spans import Traced
    from elman.backends.stack import Stack


class Backend(ABC):
    """Runs a stack of layers over a batch of sequences. Stateless.

    The operands have been checked by ``layers``: shapes fit, dtypes and devices agree. Their x is (T, B, I), or packed (N, I);
    batch_first: it is a transposed view of a (B, T, I) tensor, and the output should have the same layout.
    """

    name: ClassVar[str]
    device: ClassVar[str | None] = None  # the kind of device that it runs on; None: any

    @property
    def label(self) -> str:
        """The name that users see, with the instruction set if there is a choice."""
        return self.name

    def unavailable_reason(self) -> str | None:
        """Why it runs no call at all here, as a clause; None if it may run some."""
        return None

    @abstractmethod
    def refuses(self, stack: Stack, operands: Operands) -> str | None:
        """Why it does not run this call, as the rest of a sentence that begins with its name ("does not run ..."); None if it does."""

    @abstractmethod
    def run(self, stack: Stack, operands: Operands, batch_first: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The outputs, (T, B, D·H) or packed (N, D·H), and the final states, shaped like ``states``. With a projection, P for H."""

    @abstractmethod
    def trace(self, stack: Stack, operands: Operands) -> Traced:
        """Run the stack as ``run`` does, and return every step's states and gates, all differentiable. x is not packed."""

    def run_unchecked(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        batch_first: bool,
        step_inputs: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """``run`` for unchecked whole sequences, by a backend that checks every operand itself.

        Args:
            states, params: as ``Operands`` has them.
            x: as the caller passed it, with batch_first (B, T, I); the output has the same layout.
            step_inputs: as ``Spans`` has them, unchecked too.

        Returns:
            The result of ``run``; None, with nothing done, if an operand does not fit or this backend does not run the call. The call is
            then checked and goes through ``refuses`` and ``run``. By default None.
        """
        return None

    def run_step_unchecked(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor]
    ) -> tuple[Tensor, ...] | None:
        """``run_unchecked`` for a single step (``Stack.left_out``): the final states. By default None."""
        return None
