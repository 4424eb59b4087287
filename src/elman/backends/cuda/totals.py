"""Sums over the sequences of what a launch of backward leaves for each: the gradients of numbers that all sequences share.

One launch takes the place of an operator of torch's or two for each of them, which take the processor longer than the sums take the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

import torch

from elman.backends.cuda import launcher, structs
from elman.backends.cuda.commands import At, Launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.cuda.plan import Number

WIDE = torch.float32  # what backward's launch leaves for another sum
_WIDTH = 32  # units of a block, as in kernels/totals.cuh


@dataclass(frozen=True)
class TotalsPlan:
    """A kernel of kernels/totals.cuh, as ``plan.Plan`` is one of a scan.

    Attributes:
        number: how totals are stored.
        count: how many there are.
    """

    number: Number
    count: int

    name, blocks, cluster, threads, shared_bytes = "sums of gradients", 1, 1, 512, 2048

    @property
    def parameter(self) -> Struct:
        """The kernel's one parameter: the parts, the totals, which are of units, B and H."""
        return Struct(f"@Q{self.count}Q{self.count}i2i" + " 4x" * (self.count % 2))

    @property
    def defines(self) -> dict[str, int]:
        """The macros that the sources read."""
        return {"ELMAN_NUMBER": int(self.number), "ELMAN_TOTALS": self.count}

    @property
    def entry(self) -> str:
        """The source text that instantiates the kernel ``scan``."""
        return f"""#include "vector.h"
#include "numbers.cuh"
#include "totals.cuh"
static_assert(sizeof(elman::cuda::TotalsCall) == {self.parameter.size}, "as totals.py packs it");
extern "C" __global__ void __launch_bounds__({self.threads}) scan(const __grid_constant__ elman::cuda::TotalsCall call) {{
  extern __shared__ __align__(128) char shared[];
  elman::cuda::sum_totals(call, shared);
}}
"""


def sum_totals(number: Number, parts: At, totals: Sequence[tuple[float | At, bool]], sequences: int, hidden: int, index: int) -> Launch:
    """The command that writes the totals of parts, (totals, B, H) in ``WIDE``, on the device of this index.

    Args:
        number: how totals are stored.
        totals: where each lies, 0 if it is not wanted, and whether it has a number for each unit.
    """
    plan = TotalsPlan(number, len(totals))
    places, of_units = zip(*totals, strict=True)
    params, at = structs.filled(plan.parameter, (parts, *places, *of_units, sequences, hidden))
    grid = len(totals) * -(-hidden // _WIDTH)
    return Launch(launcher.kernel(plan, index), grid, plan.threads, plan.shared_bytes, params, at, False, index)
