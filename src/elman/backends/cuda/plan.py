"""How one compiled kernel runs a layer: its tile of sequences, how many blocks share the units, who holds which weights.

Pure arithmetic: nothing here needs a GPU. Which plan runs on a device is choice.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from elman.backends.cuda import structs

if TYPE_CHECKING:
    from struct import Struct

    from elman.backends.cuda.shape import CellShape


class Number(IntEnum):
    """How numbers are stored and multiplied, as kernels/numbers.cuh counts them."""

    FLOAT32 = 0  # three products with tf32's 11 bits, which together have float32's
    FLOAT16 = 1
    BFLOAT16 = 2
    TF32 = 3

    @property
    def size(self) -> int:
        """Bytes of one."""
        return 2 if self in (Number.FLOAT16, Number.BFLOAT16) else 4


def number_of(dtype: torch.dtype) -> Number:
    """How numbers of this dtype are multiplied: float32's as torch allows it to cuDNN."""
    if dtype is torch.float32:
        try:
            allowed = torch.backends.cudnn.allow_tf32
        except RuntimeError:  # set by the newer names, and otherwise for convolutions: torch 2.9
            allowed = torch.backends.cudnn.rnn.fp32_precision == "tf32"  # type: ignore[attr-defined]
        return Number.TF32 if allowed else Number.FLOAT32
    return Number.BFLOAT16 if dtype is torch.bfloat16 else Number.FLOAT16


@dataclass(frozen=True)
class Plan:
    """One compiled kernel.

    Attributes:
        shape: the cell's.
        is_backward: the gradient's kernel.
        number: how numbers are stored and multiplied.
        hidden: H.
        blocks: C, blocks that share the units of a tile.
        units: U, units of a block, a multiple of 16.
        tile: sequences that a group of blocks runs together, a multiple of 8.
        warp_tiles: tiles of 16 rows of the weights that a warp holds.
        split: warps that share the columns of the same rows.
        in_registers: sums stay in registers, and a thread works on the units whose sums it has; else they go through shared memory.
        is_cluster: the blocks of a group are a cluster and exchange through its shared memory; else through global memory.
        shared_eighths: how much of the weights, in eighths, lies in shared memory and is read from there in each step, because registers
            have no room for it.
        is_reduce_scatter: backward: a block multiplies the gradients of its own gates, and blocks exchange what this gives, parts of the
            state's gradient; else they exchange the gates' gradients, of which each multiplies all.
        has_spans: there are lengths, resets, or a second direction.
        is_traced: gradients arrive at the saved numbers too.
        ring: steps whose operands are in shared memory, or on their way there.
    """

    shape: CellShape
    is_backward: bool
    number: Number
    hidden: int
    blocks: int
    units: int
    tile: int
    warp_tiles: int
    split: int
    in_registers: bool
    is_cluster: bool
    is_reduce_scatter: bool = False
    shared_eighths: int = 0
    has_spans: bool = False
    is_traced: bool = False
    ring: int = 8

    @cached_property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each product of a block."""
        return products_of(self.shape, self.is_backward, self.blocks, self.units, self.is_reduce_scatter)

    @cached_property
    def exchanged_bytes(self) -> int:
        """Those that a block gets from all in a step, but for sums over the units."""
        if self.is_reduce_scatter:
            return sum(rows for rows, _ in self.products) * self.tile * 4
        return sum(columns for _, columns in self.products) * self.tile * self.number.size

    @property
    def rows(self) -> int:
        """At most how many numbers of a sequence are summed over the units at once."""
        return self.shape.rows[self.is_backward]

    @cached_property
    def product_warps(self) -> int:
        """Those that multiply; of a cell without a product none does."""
        return max((rows // 16 // self.warp_tiles * self.split for rows, _ in self.products), default=0)

    @cached_property
    def warps(self) -> int:
        """Those of the product, and of a small network up to eight, so that each thread has a unit of its own."""
        return self.product_warps if self.in_registers else max(self.product_warps, min(8, self.units * self.tile // 32))

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @cached_property
    def _groups(self) -> list[tuple[int, int]]:
        """Of each product, how many groups of columns a warp multiplies, and how many of them have their weights in shared memory."""
        counts = [columns // (64 // self.number.size) // self.split for _, columns in self.products]
        return [(count, count * self.shared_eighths // 8) for count in counts]

    @cached_property
    def weight_registers(self) -> int:
        """32-bit registers of a thread that hold weights."""
        return sum(self.warp_tiles * (count - shared) * 8 for count, shared in self._groups)

    @cached_property
    def shared_weight_bytes(self) -> int:
        """Shared memory that holds weights."""
        return sum(rows // 16 * self.split * shared * 1024 for (rows, _), (_, shared) in zip(self.products, self._groups, strict=True))

    @cached_property
    def shared_bytes(self) -> int:
        """Shared memory of a block, as kernels/exchange.cuh or reduce_scatter.cuh, product.cuh and forward.cuh or backward.cuh have it."""
        size, alone, exchanges, sums = self.number.size, self.blocks == 1, 0, 0
        for rows, columns in self.products:
            pitch = columns + {64: 0, 0: 64}.get(columns * size % 128, 32) // size
            vectors = 2 * self.tile * pitch * size
            if self.is_reduce_scatter:
                exchanges += vectors + 16 + (2 * self.blocks * (self.tile * self.units + 8) * 4 if self.is_cluster else 0)
                continue
            exchanges += vectors if alone or self.is_cluster else 0
            exchanges += (0 if alone else self.warps * (columns // (self.blocks * self.units)) * 32 * size) + 16
            sums = max(sums, 0 if self.in_registers else self.split * self.tile * (-(-rows // 32) * 32 + 4) * 4)
        operands = self.shape.operands if self.is_backward else self.shape.vectors
        rest = self.ring * self.tile * operands * self.units * size + len(self.shape.own) * self.units * 4
        if self.rows:
            slots = 2 * self.blocks if self.is_cluster and not alone else 0
            rest += (self.units // 16 + 1 + slots) * self.rows * self.tile * 4 + 16
        return exchanges + self.shared_weight_bytes + sums + rest

    @property
    def mailbox_numbers(self) -> int:
        """Numbers of global memory that a group exchanges through."""
        if self.is_cluster or self.blocks == 1:
            return 0
        exchanged = self.exchanged_bytes * (self.blocks if self.is_reduce_scatter else 1)
        return 2 * (exchanged + self.tile * self.blocks * self.rows * 4) // self.number.size

    @property
    def flags(self) -> int:
        """By which a group's blocks tell each other that numbers are there."""
        return self.blocks * (len(self.products) + (self.rows > 0))

    @property
    def defines(self) -> dict[str, int]:
        """The macros that kernels/shape.cuh reads."""
        return {
            "ELMAN_NUMBER": int(self.number),
            "ELMAN_HIDDEN": self.hidden,
            "ELMAN_BLOCKS": self.blocks,
            "ELMAN_UNITS": self.units,
            "ELMAN_TILE": self.tile,
            "ELMAN_WARP_TILES": self.warp_tiles,
            "ELMAN_SPLIT": self.split,
            "ELMAN_IN_REGISTERS": int(self.in_registers),
            "ELMAN_SHARED_EIGHTHS": self.shared_eighths,
            "ELMAN_CLUSTER": int(self.is_cluster),
            "ELMAN_REDUCE_SCATTER": int(self.is_reduce_scatter),
            "ELMAN_SPANS": int(self.has_spans),
            "ELMAN_TRACED": int(self.is_traced),
            "ELMAN_RING": self.ring,
            "ELMAN_WARPS": self.warps,
            "ELMAN_SHARED_BYTES": self.shared_bytes,  # this one and the next are asserted alone
            "ELMAN_MAILBOX_NUMBERS": self.mailbox_numbers,
        }

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.shape.name} {'backward' if self.is_backward else 'forward'}"

    @property
    def cluster(self) -> int:
        """The blocks of a cluster that the kernel is compiled with."""
        return self.blocks if self.is_cluster else 1

    @property
    def parameter(self) -> Struct:
        """The kernel's one parameter."""
        return structs.layout(self.shape, self.is_backward)

    @property
    def entry(self) -> str:
        """The source text that instantiates the kernel ``scan``."""
        kind = "backward" if self.is_backward else "forward"
        cluster = f"__cluster_dims__({self.cluster}, 1, 1) " if self.cluster > 1 else ""
        headers = (
            "vector.h",
            "numbers.cuh",
            "memory.cuh",
            "shape.cuh",
            "operands.cuh",
            "product.cuh",
            "exchange.cuh",
            "reduce_scatter.cuh",
            "functions.cuh",
            "rows.cuh",
            "step.cuh",
            "stages.cuh",
            f"{kind}.cuh",
        )
        return (
            "".join(f'#include "{header}"\n' for header in headers)
            + self.shape.source
            + self.shape.assertions
            + f"""using Call = elman::cuda::{kind.capitalize()}Call<Step>;
static_assert(sizeof(Call) == {self.parameter.size}, "as structs.py packs it");
extern "C" __global__ void {cluster}__launch_bounds__(elman::cuda::kThreads, 1)
    scan(const __grid_constant__ Call call) {{
  extern __shared__ __align__(128) char shared[];
  elman::cuda::{kind}<Step>(call, elman::cuda::in_register(shared));
}}
"""
        )


def products_of(shape: CellShape, is_backward: bool, blocks: int, units: int, is_reduce_scatter: bool) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each product of a block, as ``Plan.products`` has them."""
    counts, padded = [len(gates) for gates in shape.products if gates], blocks * units
    if is_reduce_scatter:
        return tuple((padded, gates * units) for gates in counts)
    return tuple((units, gates * padded) if is_backward else (gates * units, padded) for gates in counts)
