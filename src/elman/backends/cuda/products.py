"""Products of matrices by cuBLASLt, which torch brings along and has loaded.

torch's own operators would do, but for two things. They round float32 to TF32 only where ``torch.set_float32_matmul_precision`` allows it,
a switch for the whole process, while in torch.nn's recurrent layers cuDNN multiplies as ``torch.backends.cudnn.allow_tf32`` says. And they
choose an algorithm anew in each call, take views of what they read, and sum a bias' gradient in an operator of its own: for a short
sequence all that takes the processor longer than the layer takes the GPU. What cuBLASLt does not support, torch does, and rounds as it is
set to.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, cast
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from elman.backends.cuda import launcher
from elman.backends.cuda.commands import NO_SCRATCH, WORKSPACE, At, Commands, prepared
from elman.backends.cuda.plan import Number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


class Form(NamedTuple):
    """Sizes of a product, (rows, columns), of a (rows, inner) and b (inner, columns), and how they lie: in rows of so many numbers.

    Attributes:
        rows, inner, columns: the sizes.
        a_pitch, b_pitch, out_pitch: from the beginning of a row to that of the next.
        a_transposed, b_transposed: a lies as (inner, rows), b as (columns, inner).
    """

    rows: int
    inner: int
    columns: int
    a_pitch: int
    b_pitch: int
    out_pitch: int
    a_transposed: bool = False
    b_transposed: bool = False


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
    addresses = [0 if each is None else each.data_ptr() for each in operands]
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
        epilogue = _NONE if self._vector is None else _ADD_BIAS if row_sums is None else _ROW_SUMS
        self._without_vector = number, form, a, b, out, size, aligned, index
        self._plan: _Plan | None = None
        self._alone: Product | None = None
        if _has_library(index) and form.rows and form.inner and form.columns:
            self._plan = _plan(form, number, epilogue, alignment((aligned, a.offset, b.offset, out.offset)), index)
            if self._plan is None:
                self._refuse()

    def _refuse(self) -> None:
        """Know that cuBLASLt does not do this. Perhaps it does the product alone."""
        self._plan = None
        if self._vector is not None:
            self._alone = Product(*self._without_vector)

    @property
    def workspace(self) -> int:
        return self._plan.workspace if self._plan is not None else 0 if self._alone is None else self._alone.workspace

    def run(self, operands: Sequence[Tensor | None], addresses: Sequence[int]) -> None:
        if self._plan is not None:
            a, b, out = (addresses[at.operand] + at.offset for at in (self._a, self._b, self._out))
            vector = 0 if self._vector is None else addresses[self._vector.operand] + self._vector.offset
            if self._plan.run(a, b, out, vector, self._accumulate, addresses[WORKSPACE]):
                return
            self._refuse()
        if self._alone is not None:
            self._alone.run(operands, addresses)
        self._by_torch(operands, self._alone is None)

    def _by_torch(self, operands: Sequence[Tensor | None], multiplies: bool) -> None:
        """The product, or without it only what comes beside it."""
        form = self._form
        left = self._matrix(operands, self._a, form.rows, form.inner, form.a_pitch, form.a_transposed)
        right = self._matrix(operands, self._b, form.inner, form.columns, form.b_pitch, form.b_transposed)
        into = self._matrix(operands, self._out, form.rows, form.columns, form.out_pitch, False)
        bias = None if self._bias is None else self._part(operands, self._bias, (form.columns,), (1,))
        if not multiplies:
            into = into if bias is None else into.add_(bias)
        elif self._accumulate:
            into.addmm_(left, right)
        elif bias is not None:
            torch.addmm(bias, left, right, out=into)
        else:
            torch.mm(left, right, out=into)
        if self._row_sums is not None:
            torch.sum(left, 1, out=self._part(operands, self._row_sums, (form.rows,), (1,)))

    def _matrix(self, operands: Sequence[Tensor | None], at: At, rows: int, columns: int, pitch: int, transposed: bool) -> Tensor:
        return self._part(operands, at, (rows, columns), (1, pitch) if transposed else (pitch, 1))

    def _part(self, operands: Sequence[Tensor | None], at: At, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        operand = operands[at.operand]
        assert operand is not None
        return operand.as_strided(shape, strides, operand.storage_offset() + at.offset // self._size)

    def add_to(self, compiled: Any) -> bool:
        if self._plan is None:
            return False
        vector = (-1, 0) if self._vector is None else self._vector
        arguments = self._plan.arguments(self._accumulate)
        if arguments is None:
            return False
        compiled.add_product(*arguments, (self._b, self._a, self._out), vector)
        return True


# --- cuBLASLt, whose matrices lie in columns: there the product is out' = b' a' -------------------------------------------------

_NONE, _ADD_BIAS, _ROW_SUMS = 1, 4, 512  # CUBLASLT_EPILOGUE_DEFAULT, _BIAS, _BGRADB
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _BIAS_POINTER = 3, 4, 7, 8  # CUBLASLT_MATMUL_DESC_...
_MOST_WORKSPACE, _REDUCTIONS, _ALIGNMENTS = 1, 3, (5, 6, 7, 8)  # CUBLASLT_MATMUL_PREF_...
_IN_FLOAT32 = 2  # CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: parts of a sum are added in float32, in a fixed order
_TYPES = {Number.FLOAT32: 0, Number.TF32: 0, Number.FLOAT16: 2, Number.BFLOAT16: 14}  # CUDA_R_32F, _16F, _16BF
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77
_WORKSPACE = 32 << 20  # bytes, the most that an algorithm may ask for
_NOT_SUPPORTED = 15  # CUBLAS_STATUS_NOT_SUPPORTED

_ZERO, _ONE = c_float(0.0), c_float(1.0)
_FACTORS = ctypes.addressof(_ZERO), ctypes.addressof(_ONE)


class _Algorithm(Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


class _Plan:
    """A product of one form that an algorithm has been chosen for."""

    def __init__(self, form: Form, number: Number, epilogue: int, alignment: int, index: int) -> None:
        library, handle = _library(), _handle(index)
        assert library is not None
        self._library, self._handle, self._index = library, handle, index
        self._has_vector = epilogue != _NONE
        compute = _COMPUTE_32F_FAST_TF32 if number is Number.TF32 else _COMPUTE_32F
        self._description = _made(library.cublasLtMatmulDescCreate, library.cublasLtMatmulDescDestroy, compute, 0)
        for which, value in ((_TRANSPOSE_A, int(form.b_transposed)), (_TRANSPOSE_B, int(form.a_transposed)), (_EPILOGUE, epilogue)):
            _set(library.cublasLtMatmulDescSetAttribute, self._description, which, c_uint32(value))
        self._vector = c_void_p(256 + alignment)  # somewhere as well aligned, until it is known
        _set(library.cublasLtMatmulDescSetAttribute, self._description, _BIAS_POINTER, self._vector)
        self._matrices = [
            _made(library.cublasLtMatrixLayoutCreate, library.cublasLtMatrixLayoutDestroy, _TYPES[number], *sizes, pitch)
            for sizes, pitch in (
                ((form.inner, form.columns) if form.b_transposed else (form.columns, form.inner), form.b_pitch),
                ((form.rows, form.inner) if form.a_transposed else (form.inner, form.rows), form.a_pitch),
                ((form.columns, form.rows), form.out_pitch),
            )
        ]
        left, right, result = (matrix.value for matrix in self._matrices)
        preference = _made(library.cublasLtMatmulPreferenceCreate, library.cublasLtMatmulPreferenceDestroy)
        _set(library.cublasLtMatmulPreferenceSetAttribute, preference, _MOST_WORKSPACE, c_uint64(_WORKSPACE))
        _set(library.cublasLtMatmulPreferenceSetAttribute, preference, _REDUCTIONS, c_uint32(_IN_FLOAT32))
        for which in _ALIGNMENTS:
            _set(library.cublasLtMatmulPreferenceSetAttribute, preference, which, c_uint32(alignment))
        self._algorithm, found = _Algorithm(), c_int(0)
        status = library.cublasLtMatmulAlgoGetHeuristic(
            handle, self._description.value, left, right, result, result, preference.value, 1, byref(self._algorithm), byref(found)
        )
        if status == _NOT_SUPPORTED or (status == 0 and (not found.value or self._algorithm.state == _NOT_SUPPORTED)):
            raise _NotSupportedError
        _check("cublasLtMatmulAlgoGetHeuristic", status or self._algorithm.state)
        self._has_run = False
        self._layouts = left, right, result
        self._choice = ctypes.addressof(self._algorithm)
        self.workspace = int(self._algorithm.workspace)

    def run(self, a: int, b: int, out: int, vector: int, accumulate: bool, workspace: int) -> bool:
        """Put the product onto torch's current stream. False, with nothing done: it turns out not to be supported."""
        launcher.ensure_context(self._index)
        if not self._has_run:  # the library loads a kernel, which a capture of a CUDA graph may meet
            self._has_run = True
            with launcher.current(self._index):
                return self.run(a, b, out, vector, accumulate, workspace)
        left, right, result = self._layouts
        stream = torch._C._cuda_getCurrentRawStream(self._index)
        description, one = self._description.value, _FACTORS[1]
        if self._has_vector:
            self._vector.value = vector
            self._library.cublasLtMatmulDescSetAttribute(description, _BIAS_POINTER, byref(self._vector), 8)
        status = self._library.cublasLtMatmul(
            *(self._handle, description, one, b, left, a, right, _FACTORS[accumulate], out, result, out, result),
            *(self._choice, workspace, self.workspace, stream),
        )
        if status == _NOT_SUPPORTED:
            return False
        _check("cublasLtMatmul", status)
        return True

    def arguments(self, accumulate: bool) -> tuple[Any, ...] | None:
        """What ``elman._native`` is told of it, beside places; None where it cannot call the library."""
        functions = _functions(self._library)
        if functions is None:
            return None
        factors = _FACTORS[1], _FACTORS[accumulate]
        return *functions, self._handle, self._description.value, factors, self._layouts, self._choice, self.workspace


class _NotSupportedError(Exception):
    """No algorithm of cuBLASLt's does this product."""


class _Made:
    """Something that cuBLASLt made, until nobody needs it."""

    def __init__(self, value: int, destroy: Any) -> None:
        self.value = value
        self._destroy = destroy

    def __del__(self) -> None:
        self._destroy(self.value)


def _plan(form: Form, number: Number, epilogue: int, alignment: int, index: int) -> _Plan | None:
    """None where cuBLASLt does not do it."""
    try:
        with launcher.current(index):
            return _Plan(form, number, epilogue, alignment, index)
    except _NotSupportedError:
        return None


def _has_library(index: int) -> bool:
    """Whether products on the device of this index, -1 for the CPU, are cuBLASLt's."""
    return index >= 0 and _library() is not None


def _functions(library: Any) -> tuple[int, int] | None:
    """Where those are that a product calls: of a product and of setting an attribute. None: not in a library."""
    if not isinstance(library, ctypes.CDLL):
        return None
    return cast(library.cublasLtMatmul, c_void_p).value or 0, cast(library.cublasLtMatmulDescSetAttribute, c_void_p).value or 0


@cache
def _library() -> Any:
    """The cuBLASLt that torch uses; None where it is not found."""
    major = str(torch.version.cuda).partition(".")[0]
    try:
        library = ctypes.CDLL(f"cublasLt64_{major}.dll" if sys.platform == "win32" else f"libcublasLt.so.{major}")
    except OSError:
        return None
    pointer, values = c_void_p, POINTER(c_void_p)
    for name, arguments in {
        "cublasLtCreate": (values,),
        "cublasLtMatmulDescCreate": (values, c_int, c_int),
        "cublasLtMatmulDescDestroy": (pointer,),
        "cublasLtMatmulDescSetAttribute": (pointer, c_int, pointer, c_size_t),
        "cublasLtMatrixLayoutCreate": (values, c_int, c_uint64, c_uint64, c_int64),
        "cublasLtMatrixLayoutDestroy": (pointer,),
        "cublasLtMatmulPreferenceCreate": (values,),
        "cublasLtMatmulPreferenceDestroy": (pointer,),
        "cublasLtMatmulPreferenceSetAttribute": (pointer, c_int, pointer, c_size_t),
        "cublasLtMatmulAlgoGetHeuristic": (*(pointer,) * 7, c_int, POINTER(_Algorithm), POINTER(c_int)),
        "cublasLtMatmul": (*(pointer,) * 14, c_size_t, pointer),
    }.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    return library


@cache
def _handle(index: int) -> int:
    """The library's handle for the device of this index, which is the current one; kept for good."""
    handle = c_void_p()
    _check("cublasLtCreate", _library().cublasLtCreate(byref(handle)))
    assert handle.value
    return handle.value


def _made(create: Any, destroy: Any, *arguments: int) -> _Made:
    value = c_void_p()
    _check(create.__name__, create(byref(value), *arguments))
    assert value.value
    return _Made(value.value, destroy)


def _set(function: Any, what: _Made, which: int, value: Any) -> None:
    _check(function.__name__, function(what.value, which, byref(value), ctypes.sizeof(value)))


def _check(name: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{name} fails with status {status} of cuBLAS (cublasStatus_t)")
