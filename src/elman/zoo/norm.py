"""Layer normalization of what several gates get, as one vector."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def normalized(parts: Sequence[Tensor], eps: float) -> list[Tensor]:
    """The parts, (B, H) each, shifted and scaled so that all their units together have mean 0 and variance 1 in each sequence."""
    mean = reduce(add, [part.mean(-1, keepdim=True) for part in parts]) / len(parts)
    centred = [part - mean for part in parts]
    variance = reduce(add, [(part * part).mean(-1, keepdim=True) for part in centred]) / len(parts)
    scale = torch.rsqrt(variance + eps)
    return [part * scale for part in centred]
