"""What every backend offers: a reason to refuse a call, and the call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from elman.backends.spans import WHOLE, Spans, Traced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.stack import Stack


class Backend(ABC):
    """Runs a stack of layers over a batch of sequences. Stateless.

    The arguments of the methods have been checked by ``layers``: shapes fit, dtypes and devices agree.

    Args (of the methods):
        stack: what to run.
        x: (T, B, I) with any strides; packed, (N, I).
        states: one tensor for each of the cell's states, (L·D, B, H), or as wide as ``stack.state_sizes`` says; None for zeros.
        params: the flat list of parameters in torch's order.
        spans: which steps of each sequence are run.
        batch_first: x is a transposed view of a (B, T, I) tensor, and the output is best laid out likewise.
    """

    name: ClassVar[str]
    device: ClassVar[str | None] = None  # the kind of device that it runs on; None: any

    @property
    def label(self) -> str:
        """The name as people see it, with what it runs on where that varies."""
        return self.name

    @abstractmethod
    def refuses(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans,
    ) -> str | None:
        """Why this call is not for this backend, as the end of a sentence that its name begins ("does not run ..."); None if it is."""

    @abstractmethod
    def run(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans = WHOLE,
        batch_first: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The outputs, (T, B, D·H) or packed (N, D·H), and the final states, shaped like ``states``. With a projection, P for H."""

    @abstractmethod
    def trace(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans = WHOLE,
    ) -> Traced:
        """Run the stack as ``run`` does, and return every step's states and gates, all differentiable. x is not packed."""

    def run_unchecked(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor], batch_first: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """``run`` for unchecked whole sequences, by a backend that checks every operand itself.

        Args:
            x: as the caller gave it, with batch_first (B, T, I); the output lies likewise.

        Returns:
            What ``run`` gives; None, with nothing done, if an operand does not fit, or the call is not for this backend. Then it is
            checked, and comes back by way of ``refuses`` and ``run``. By default None.
        """
        return None
