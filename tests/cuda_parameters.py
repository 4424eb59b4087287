"""The CUDA kernels' parameters as the kernels declare them, and the memory that they point to, of float64."""

from __future__ import annotations

from ctypes import Array, Structure, c_char, c_float, c_int32, c_int64, c_uint64
from functools import cache

import torch
from torch import Tensor


class _Steps(Structure):
    _fields_ = (
        ("T", c_int32),
        ("B", c_int32),
        ("lengths", c_uint64),
        ("offsets", c_uint64),
        ("reset", c_uint64),
        ("reset_t", c_int64),
        ("reset_b", c_int64),
    )


class Rows(Structure):
    _fields_ = (("stride_t", c_int64), ("stride_b", c_int64))


_LAUNCH = (("tiles", c_int32), ("first_group", c_int32), ("mailbox", c_uint64), ("flags", c_uint64))


def _addresses(*names: str) -> list[tuple[str, type[c_uint64]]]:
    return [(name, c_uint64) for name in names]


@cache
def forward_call(states: int) -> type[Structure]:
    """The parameter of a cell with so many states, and without parameters of its own."""

    class Direction(Structure):
        _fields_ = (
            *_addresses("projected", "given", "weight_hh", "bias_hh", "own"),
            ("initial", c_uint64 * states),
            ("fresh", c_uint64 * states),
            *_addresses("output", "kept"),
            ("final", c_uint64 * states),
            *_addresses("x", "weight_ih", "bias_ih"),
            ("reverse", c_int32),
        )

    class Call(Structure):
        _fields_ = (
            ("steps", _Steps),
            *((name, Rows) for name in ("projected", "output", "x")),
            ("inputs", c_int64),
            *_LAUNCH,
            ("direction", Direction * 2),
            ("constant", c_float),
        )

    return Call


@cache
def backward_call(states: int) -> type[Structure]:
    class Direction(Structure):
        _fields_ = (
            *_addresses("grad_output", "given", "weight_hh", "output", "kept", "grad_kept", "own"),
            ("initial", c_uint64 * states),
            ("fresh", c_uint64 * states),
            ("grad_final", c_uint64 * states),
            *_addresses("grad_gates", "totals"),
            ("grad_initial", c_uint64 * states),
            ("grad_fresh", c_uint64 * states),
            ("reverse", c_int32),
        )

    class Call(Structure):
        _fields_ = (
            ("steps", _Steps),
            ("grad_output", Rows),
            ("output", Rows),
            *_LAUNCH,
            ("direction", Direction * 2),
            ("constant", c_float),
        )

    return Call


def numbers_at(pointer: int, index: int, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """``count`` numbers from the index-th on: the very memory."""
    assert pointer > 0 <= index, "a null pointer is read"
    memory: Array[c_char] = (c_char * (count * dtype.itemsize)).from_address(pointer + index * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype)


@cache
def totals_call(count: int) -> type[Structure]:
    class Call(Structure):
        _fields_ = (
            ("parts", c_uint64),
            ("totals", c_uint64 * count),
            ("of_units", c_int32 * count),
            ("B", c_int32),
            ("H", c_int32),
        )

    return Call
