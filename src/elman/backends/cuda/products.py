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
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache, lru_cache
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from elman.backends.cuda import launcher
from elman.backends.cuda.plan import Number

if TYPE_CHECKING:
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
        bias: (columns,), contiguous: added to every row.
        row_sums: (rows,), contiguous: the sums of a's rows are written here. Not together with a bias.
        accumulate: add to what is in ``out``. Not together with a bias.
    """
    if _is_on_gpu(out) and form.rows and form.inner and form.columns:
        size = out.element_size()
        pointers = a.data_ptr() + a_offset * size, b.data_ptr() + b_offset * size, out.data_ptr() + out_offset * size
        vector = bias if row_sums is None else row_sums
        at = 0 if vector is None else vector.data_ptr()
        lowest = (pointers[0] | pointers[1] | pointers[2] | at) & 15
        epilogue = _NONE if vector is None else _ADD_BIAS if row_sums is None else _ROW_SUMS
        plan = _plan(form, number, epilogue, lowest & -lowest or 16, out.get_device())
        if plan is not None and plan.run(*pointers, at, accumulate, out):
            return
        if vector is not None:  # perhaps it does the product alone
            multiply(number, out, a, b, form, a_offset=a_offset, b_offset=b_offset, out_offset=out_offset)
            if bias is not None:
                _matrix(out, out_offset, form.rows, form.columns, form.out_pitch, False).add_(bias)
            else:
                torch.sum(_matrix(a, a_offset, form.rows, form.inner, form.a_pitch, form.a_transposed), 1, out=row_sums)
            return
    _by_torch(out, a, b, form, a_offset, b_offset, out_offset, bias, row_sums, accumulate)


_is_on_gpu = attrgetter("is_cuda")


def _by_torch(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    form: Form,
    a_offset: int,
    b_offset: int,
    out_offset: int,
    bias: Tensor | None,
    row_sums: Tensor | None,
    accumulate: bool,
) -> None:
    left = _matrix(a, a_offset, form.rows, form.inner, form.a_pitch, form.a_transposed)
    right = _matrix(b, b_offset, form.inner, form.columns, form.b_pitch, form.b_transposed)
    into = _matrix(out, out_offset, form.rows, form.columns, form.out_pitch, False)
    if accumulate:
        into.addmm_(left, right)
    elif bias is not None:
        torch.addmm(bias, left, right, out=into)
    else:
        torch.mm(left, right, out=into)
    if row_sums is not None:
        torch.sum(left, 1, out=row_sums)


def _matrix(tensor: Tensor, offset: int, rows: int, columns: int, pitch: int, transposed: bool) -> Tensor:
    return tensor.as_strided((rows, columns), (1, pitch) if transposed else (pitch, 1), tensor.storage_offset() + offset)


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
        self._library, self._handle, self._lock, self._index = library, handle, Lock(), index
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
        self._workspace = int(self._algorithm.workspace)

    def run(self, a: int, b: int, out: int, vector: int, accumulate: bool, like: Tensor) -> bool:
        """Put the product onto torch's current stream. False, with nothing done: it turns out not to be supported."""
        launcher.ensure_context(self._index)
        if not self._has_run:  # the library loads a kernel, which a capture of a CUDA graph may meet
            self._has_run = True
            with launcher.current(self._index):
                return self.run(a, b, out, vector, accumulate, like)
        workspace = like.new_empty(self._workspace, dtype=torch.uint8) if self._workspace else None
        space = 0 if workspace is None else workspace.data_ptr()
        left, right, result = self._layouts
        stream = torch._C._cuda_getCurrentRawStream(like.get_device())
        description, one = self._description.value, _FACTORS[1]
        arguments = (
            *(self._handle, description, one, b, left, a, right, _FACTORS[accumulate], out, result, out, result),
            *(self._choice, space, self._workspace, stream),
        )
        if self._has_vector:
            with self._lock:  # the description is every thread's
                self._vector.value = vector
                self._library.cublasLtMatmulDescSetAttribute(description, _BIAS_POINTER, byref(self._vector), 8)
                status = self._library.cublasLtMatmul(*arguments)
        else:
            status = self._library.cublasLtMatmul(*arguments)
        if status == _NOT_SUPPORTED:
            return False
        _check("cublasLtMatmul", status)
        return True


class _NotSupportedError(Exception):
    """No algorithm of cuBLASLt's does this product."""


class _Made:
    """Something that cuBLASLt made, until nobody needs it."""

    def __init__(self, value: int, destroy: Any) -> None:
        self.value = value
        self._destroy = destroy

    def __del__(self) -> None:
        self._destroy(self.value)


@lru_cache(maxsize=4096)
def _plan(form: Form, number: Number, epilogue: int, alignment: int, index: int) -> _Plan | None:
    """None where cuBLASLt does not do it."""
    if _library() is None:
        return None
    try:
        with launcher.current(index):
            return _Plan(form, number, epilogue, alignment, index)
    except _NotSupportedError:
        return None


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
