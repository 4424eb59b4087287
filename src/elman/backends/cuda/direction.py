"""What a run of a layer is told of one of its directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Direction(NamedTuple):
    """One direction's parameters, starts and what it is given, each contiguous.

    Attributes:
        w_ih: of the parts of x, (inputs·H, I).
        w_hh: of the parts of h, (gates·H, H); None: there are none.
        b_ih, b_hh: likewise; None for zeros.
        own: the cell's own parameters, (H,) each.
        given: what a step reads beside x, (rows, given, H); None: nothing.
        initial: the states before the first step, each (B, H); empty for zeros.
        fresh: what a reset starts from, each (H,); empty for zeros.
    """

    w_ih: Tensor
    w_hh: Tensor | None
    b_ih: Tensor | None
    b_hh: Tensor | None
    own: tuple[Tensor, ...]
    given: Tensor | None
    initial: tuple[Tensor, ...]
    fresh: tuple[Tensor, ...]
