"""cuBLASLt, which torch brings along and has loaded, through ctypes: which algorithm does a product, and doing it.

Its matrices lie in columns: there the product is out' = b' a'.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import nullcontext
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, cast
from functools import cache
from typing import Any, NamedTuple

import torch

from elman.backends.cuda import launcher
from elman.backends.cuda.plan import Number


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


NO_VECTOR, ADD_BIAS, ROW_SUMS = 1, 4, 512  # CUBLASLT_EPILOGUE_DEFAULT, _BIAS, _BGRADB
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _BIAS_POINTER = 3, 4, 7, 8  # CUBLASLT_MATMUL_DESC_...
_MOST_WORKSPACE, _REDUCTIONS, _ALIGNMENTS = 1, 3, (5, 6, 7, 8)  # CUBLASLT_MATMUL_PREF_...
_IN_FLOAT32 = 2  # CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: parts of a sum are added in float32, in a fixed order
_TYPES = {Number.FLOAT32: 0, Number.TF32: 0, Number.FLOAT16: 2, Number.BFLOAT16: 14}  # CUDA_R_32F, _16F, _16BF
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77
_WORKSPACE = 32 << 20  # bytes, the most that an algorithm may ask for
_NOT_SUPPORTED = 15  # CUBLAS_STATUS_NOT_SUPPORTED

_ZERO, _ONE = c_float(0.0), c_float(1.0)
_FACTORS = ctypes.addressof(_ZERO), ctypes.addressof(_ONE)


class _Found(Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


class Algorithm:
    """A product of one form that an algorithm has been chosen for."""

    def __init__(self, form: Form, number: Number, epilogue: int, alignment: int, index: int) -> None:
        library, handle = _library(), _handle(index)
        assert library is not None
        self._library, self._handle, self._index = library, handle, index
        self._has_vector = epilogue != NO_VECTOR
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
        preference = _preference(alignment)
        self._algorithm, found = _Found(), c_int(0)
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
        left, right, result = self._layouts
        stream = torch._C._cuda_getCurrentRawStream(self._index)
        description, one = self._description.value, _FACTORS[1]
        if self._has_vector:
            self._vector.value = vector
            self._library.cublasLtMatmulDescSetAttribute(description, _BIAS_POINTER, byref(self._vector), 8)
        # The first time the library loads a kernel, which a capture of a CUDA graph is to allow.
        with nullcontext() if self._has_run else launcher.current(self._index):
            status = self._library.cublasLtMatmul(
                *(self._handle, description, one, b, left, a, right, _FACTORS[accumulate], out, result, out, result),
                *(self._choice, workspace, self.workspace, stream),
            )
        self._has_run = True
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


def algorithm(form: Form, number: Number, epilogue: int, alignment: int, index: int) -> Algorithm | None:
    """None where cuBLASLt does not do it."""
    try:
        with launcher.current(index):
            return Algorithm(form, number, epilogue, alignment, index)
    except _NotSupportedError:
        return None


@cache
def _preference(alignment: int) -> _Made:
    """What is asked of an algorithm, of operands that are aligned so."""
    library = _library()
    preference = _made(library.cublasLtMatmulPreferenceCreate, library.cublasLtMatmulPreferenceDestroy)
    _set(library.cublasLtMatmulPreferenceSetAttribute, preference, _MOST_WORKSPACE, c_uint64(_WORKSPACE))
    _set(library.cublasLtMatmulPreferenceSetAttribute, preference, _REDUCTIONS, c_uint32(_IN_FLOAT32))
    for which in _ALIGNMENTS:
        _set(library.cublasLtMatmulPreferenceSetAttribute, preference, which, c_uint32(alignment))
    return preference


def has_library(index: int) -> bool:
    """Whether products on the device of this index, -1 for the CPU, are cuBLASLt's."""
    return index >= 0 and _library() is not None


@cache
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
        return declared(ctypes.CDLL(f"cublasLt64_{major}.dll" if sys.platform == "win32" else f"libcublasLt.so.{major}"))
    except OSError:
        return None


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """A cuBLASLt, whose functions know what they take."""
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
        "cublasLtMatmulAlgoGetHeuristic": (*(pointer,) * 7, c_int, POINTER(_Found), POINTER(c_int)),
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
