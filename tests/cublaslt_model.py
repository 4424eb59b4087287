"""A model of cuBLASLt: what the CUDA backend asks of it is done in plain torch, on the CPU, in whatever dtype the tensors have."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from cuda_prepared import forget
from elman.backends.cuda import cublaslt, launcher, layer

if TYPE_CHECKING:
    import pytest
    from torch import Tensor


class CublasLt:
    """Does in plain torch what cuBLASLt does, on the CPU, as far as it is asked.

    Attributes:
        kinds: the types of numbers and of sums that it is asked for, (cudaDataType, cublasComputeType_t).
        made: what it has made and not been told to destroy.
        products, epilogues, alignments: how many it has done, with which epilogue each, and the alignment that each plan was asked for.
        finds, refuses: how many algorithms it finds for a product, and for which epilogues none.
        asking, status: the statuses of asking for an algorithm, and of a product.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self.size = dtype, dtype.itemsize
        self.kinds: set[tuple[int, int]] = set()
        self.made: dict[int, Any] = {}
        self.count = self.products = 0
        self.epilogues: list[int] = []
        self.alignments: list[int] = []
        self.finds, self.asking, self.status = 1, 0, 0
        self.refuses: set[int] = set()

    def _make(self, at: Any, what: Any) -> int:
        self.count += 1
        self.made[self.count] = what
        at._obj.value = self.count
        return 0

    def _set(self, what: int, which: int, at: Any, size: int) -> int:
        assert size == ctypes.sizeof(at._obj)
        self.made[what][which] = at._obj.value
        return 0

    def _destroy(self, what: int) -> int:
        del self.made[what]
        return 0

    def cublasLtMatmulDescCreate(self, at: Any, compute: int, scale: int) -> int:  # noqa: N802 - cuBLASLt's name, as those below
        assert scale == 0
        return self._make(at, {-1: compute})

    def cublasLtMatrixLayoutCreate(self, at: Any, kind: int, rows: int, columns: int, pitch: int) -> int:  # noqa: N802
        assert pitch >= rows > 0 < columns
        return self._make(at, (rows, columns, pitch, kind))

    def cublasLtMatmulPreferenceCreate(self, at: Any) -> int:  # noqa: N802
        return self._make(at, {})

    cublasLtMatmulDescSetAttribute = cublasLtMatmulPreferenceSetAttribute = _set  # noqa: N815
    cublasLtMatmulDescDestroy = cublasLtMatrixLayoutDestroy = cublasLtMatmulPreferenceDestroy = _destroy  # noqa: N815

    def cublasLtMatmulAlgoGetHeuristic(self, handle: int, *rest: Any) -> int:  # noqa: N802
        what, left, right, into, _, preference, wanted, result, found = rest
        assert (handle, wanted) == (77, 1)
        asked, alignment = self.made[preference], self.made[preference][5]
        assert asked == {1: 32 << 20, 3: 2, **dict.fromkeys((5, 6, 7, 8), alignment)}
        assert self.made[what][8]  # somewhere for the vector
        assert self.made[what][8] % alignment == 0
        assert len({self.made[each][3] for each in (left, right, into)}) == 1
        self.kinds.add((self.made[left][3], self.made[what][-1]))
        self.alignments.append(alignment)
        result._obj.algorithm[0] = alignment
        result._obj.workspace, found._obj.value = 64 + self.made[what][7], 0 if self.made[what][7] in self.refuses else self.finds
        return self.asking

    def cublasLtMatmul(self, handle: int, what: int, alpha: int, *rest: Any) -> int:  # noqa: N802
        a, of_a, b, of_b, beta, c, of_c, d, of_d, choice, workspace, size, stream = rest
        assert (handle, c, of_c, size, stream) == (77, d, of_d, 64 + self.made[what][7], 5)
        alignment = ctypes.c_uint64.from_address(choice).value
        vector = self.made[what][8] if self.made[what][7] != 1 else 0
        assert not (a | b | d | vector) % alignment, "it is less aligned than the algorithm was asked for"
        assert workspace
        ctypes.memset(workspace, 0xFF, size)
        if self.status:
            return self.status
        self.products += 1
        asked, one, more = self.made[what], *(ctypes.c_float.from_address(at).value for at in (alpha, beta))
        left, right, into = self._matrix(a, of_a), self._matrix(b, of_b), self._matrix(d, of_d)
        left, right = left.t() if asked[3] else left, right.t() if asked[4] else right
        assert (one, more) in {(1.0, 0.0), (1.0, 1.0)}
        self.epilogues.append(asked[7])
        found = (left.double() @ right.double()).to(self.dtype) + (into if more else 0)
        if asked[7] == 4:
            found += self._vector(asked[8], len(into)).unsqueeze(1)
        if asked[7] == 512:
            self._vector(asked[8], into.shape[1]).copy_(right.double().sum(0))
        into.copy_(found)
        return 0

    def _matrix(self, at: int, layout: int) -> Tensor:
        rows, columns, pitch, _ = self.made[layout]
        return self._vector(at, pitch * (columns - 1) + rows).as_strided((rows, columns), (1, pitch))

    def _vector(self, at: int, size: int) -> Tensor:
        return torch.frombuffer((ctypes.c_char * (size * self.size)).from_address(at), dtype=self.dtype)


def install(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> CublasLt:
    """Put a model in the place of cuBLASLt until the test ends, and let tensors on the CPU go to it."""
    model = CublasLt(dtype)
    monkeypatch.setattr(cublaslt, "_library", lambda: model)
    monkeypatch.setattr(cublaslt, "_handle", lambda index: 77)
    monkeypatch.setattr(cublaslt, "has_library", lambda index: cublaslt._library() is not None)
    monkeypatch.setattr(launcher, "current", lambda index: nullcontext())
    monkeypatch.setattr(launcher, "ensure_context", lambda index: None)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 5, raising=False)
    monkeypatch.setattr(cublaslt, "_preference", cache(cublaslt._preference.__wrapped__))
    monkeypatch.setattr(layer, "_MOST_PROJECTED", -1)  # so that forward has products, too
    forget(monkeypatch)
    return model
