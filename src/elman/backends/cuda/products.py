"""Products of matrices by cuBLASLt, which torch brings along and has loaded.

torch's own operators would do, but for two things. They round float32 to TF32 only where ``torch.set_float32_matmul_precision`` allows it,
a switch for the whole process, while in torch.nn's recurrent layers cuDNN multiplies as ``torch.backends.cudnn.allow_tf32`` says. And they
choose an algorithm anew in each call, take views of what they read, and sum a bias' gradient in an operator of its own: for a short
sequence all that takes the processor longer than the layer takes the GPU. What cuBLASLt does not support, torch does, and rounds as it is
set to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from elman.backends.cuda import cublaslt
from elman.backends.cuda.commands import NO_SCRATCH, WORKSPACE, At, Commands, addresses_of, prepared, view

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from elman.backends.cuda.cublaslt import Algorithm, Form
    from elman.backends.cuda.plan import Number


def multiply(
    number: Number,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    form: Form,
    *,
    a_offset: int = 0,
    b_offset: int = 0,
    out_offset: int = 0,
    bias: Tensor | None = None,
    row_sums: Tensor | None = None,
    accumulate: bool = False,
) -> None:
    """Write the product of a and b, which are on torch's current device, to ``out``.

    Args:
        number: how the factors are rounded.
        out, a, b: what the matrices lie in, of one dtype.
        a_offset, b_offset, out_offset: where they begin there, in numbers.
        bias, row_sums, accumulate: as for ``Product``; the vector, contiguous.
    """
    vector = bias if row_sums is None else row_sums
    operands: list[Tensor | None] = [*NO_SCRATCH, a, b, out, vector]
    addresses = addresses_of(operands)
    offsets, is_there = (a_offset, b_offset, out_offset), (bias is not None, row_sums is not None)
    commands = _alone(number, form, offsets, out.element_size(), *is_there, accumulate, alignment(addresses), out.get_device())
    commands.run(operands, addresses, out)


@prepared
def _alone(
    number: Number,
    form: Form,
    offsets: tuple[int, int, int],
    size: int,
    has_bias: bool,
    has_row_sums: bool,
    accumulate: bool,
    aligned: int,
    index: int,
) -> Commands:
    """A product of the first operands of a call."""
    first = len(NO_SCRATCH)
    a, b, out = (At(first + k, offset * size) for k, offset in enumerate(offsets))
    bias, row_sums = (At(first + 3) if there else None for there in (has_bias, has_row_sums))
    place = size, aligned, index
    return Commands([Product(number, form, a, b, out, *place, bias=bias, row_sums=row_sums, accumulate=accumulate)], index)


def alignment(addresses: Iterable[int]) -> int:
    """Of how many bytes, up to 16, all of these are multiples."""
    lowest = 16
    for address in addresses:
        lowest |= address
    return lowest & -lowest


class Product:
    """The product of a and b, which is written to ``out``, as a command.

    By cuBLASLt; where that does not do it, by torch.
    """

    def __init__(
        self,
        number: Number,
        form: Form,
        a: At,
        b: At,
        out: At,
        size: int,
        aligned: int,
        index: int,
        *,
        bias: At | None = None,
        row_sums: At | None = None,
        accumulate: bool = False,
    ) -> None:
        """Of the device of this index.

        Args:
            number: how the factors are rounded.
            size: of a number, in bytes.
            aligned: that of the operands: a power of 2 of bytes, up to 16.
            bias: (columns,): added to every row.
            row_sums: (rows,): the sums of a's rows are written here. Not together with a bias.
            accumulate: add to what is in ``out``. Not together with a bias.
        """
        self._form, self._a, self._b, self._out, self._size, self._accumulate = form, a, b, out, size, accumulate
        self._bias, self._row_sums, self._vector = bias, row_sums, bias if row_sums is None else row_sums
        epilogue = cublaslt.NO_VECTOR if self._vector is None else cublaslt.ADD_BIAS if row_sums is None else cublaslt.ROW_SUMS
        self._algorithm: Algorithm | None = None
        self._alone: Product | None = None
        if cublaslt.has_library(index) and form.rows and form.inner and form.columns:
            self._algorithm = cublaslt.algorithm(form, number, epilogue, alignment((aligned, a.offset, b.offset, out.offset)), index)
            if self._algorithm is None and self._vector is not None:  # perhaps it does the product alone
                self._alone = Product(number, form, a, b, out, size, aligned, index)

    @property
    def workspace(self) -> int:
        return self._algorithm.workspace if self._algorithm is not None else 0 if self._alone is None else self._alone.workspace

    def run(self, operands: Sequence[Tensor | None], addresses: Sequence[int]) -> None:
        if self._algorithm is not None:
            a, b, out = (addresses[at.operand] + at.offset for at in (self._a, self._b, self._out))
            vector = 0 if self._vector is None else addresses[self._vector.operand] + self._vector.offset
            if self._algorithm.run(a, b, out, vector, self._accumulate, addresses[WORKSPACE]):
                return
        if self._alone is not None:
            self._alone.run(operands, addresses)
        self._by_torch(operands, self._alone is None)

    def _by_torch(self, operands: Sequence[Tensor | None], multiplies: bool) -> None:
        """The product, or without it only what comes beside it."""
        form = self._form
        left = self._matrix(operands, self._a, form.rows, form.inner, form.a_pitch, form.a_transposed)
        right = self._matrix(operands, self._b, form.inner, form.columns, form.b_pitch, form.b_transposed)
        into = self._matrix(operands, self._out, form.rows, form.columns, form.out_pitch, False)
        bias = None if self._bias is None else view(operands, self._bias, self._size, (form.columns,), (1,))
        if not multiplies:
            into = into if bias is None else into.add_(bias)
        elif self._accumulate:
            into.addmm_(left, right)
        elif bias is not None:
            torch.addmm(bias, left, right, out=into)
        else:
            torch.mm(left, right, out=into)
        if self._row_sums is not None:
            torch.sum(left, 1, out=view(operands, self._row_sums, self._size, (form.rows,), (1,)))

    def _matrix(self, operands: Sequence[Tensor | None], at: At, rows: int, columns: int, pitch: int, transposed: bool) -> Tensor:
        return view(operands, at, self._size, (rows, columns), (1, pitch) if transposed else (pitch, 1))

    def add_to(self, compiled: Any) -> bool:
        if self._algorithm is None:
            return False
        vector = (-1, 0) if self._vector is None else self._vector
        arguments = self._algorithm.arguments(self._accumulate)
        if arguments is None:
            return False
        compiled.add_product(*arguments, (self._b, self._a, self._out), vector)
        return True
