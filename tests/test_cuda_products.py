"""Products as the CUDA backend asks for them, by torch anywhere, by cuBLASLt on a GPU: against float64, over forms, offsets, alignments.

Without a GPU a model stands in for cuBLASLt, which shows whether it is asked for the right product.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from elman.backends.cuda import launcher, products
from elman.backends.cuda.plan import Number
from elman.backends.cuda.products import Form, multiply

PLACES = [("cpu", Number.FLOAT32, torch.float64)]
if launcher.unavailable_reason() is None:
    PLACES += [
        ("cuda", number, dtype)
        for number, dtype in (
            (Number.FLOAT32, torch.float32),
            (Number.TF32, torch.float32),
            (Number.FLOAT16, torch.float16),
            (Number.BFLOAT16, torch.bfloat16),
        )
    ]
# Of a product's factors; what comes of them is rounded once more, to the dtype.
ROUNDING = {Number.FLOAT32: 2.0**-23, Number.TF32: 2.0**-10, Number.FLOAT16: 2.0**-10, Number.BFLOAT16: 2.0**-7}
everywhere = pytest.mark.parametrize(("device", "number", "dtype"), PLACES, ids=lambda value: getattr(value, "name", str(value)))
on_gpu = pytest.mark.skipif(len(PLACES) == 1, reason=f"no kernel can run: {launcher.unavailable_reason()}")


class Factors:
    """Two matrices and room for their product, each somewhere in memory that holds NaN otherwise."""

    def __init__(self, form: Form, device: str, dtype: torch.dtype, offset: int) -> None:
        torch.manual_seed(0)
        self.form, self.offset = form, offset
        a_rows, a_columns = (form.inner, form.rows) if form.a_transposed else (form.rows, form.inner)
        b_rows, b_columns = (form.columns, form.inner) if form.b_transposed else (form.inner, form.columns)
        self.a, a = self._room(a_rows, a_columns, form.a_pitch, device, dtype)
        self.b, b = self._room(b_rows, b_columns, form.b_pitch, device, dtype)
        self.out, self.into = self._room(form.rows, form.columns, form.out_pitch, device, dtype)
        left, right = (a.t() if form.a_transposed else a).double(), (b.t() if form.b_transposed else b).double()
        self.right, self.sums, self.before = left @ right, left.sum(1), self.into.double().clone().clone()
        self.scale = left.norm() * right.norm(), form.inner**0.5 * left.norm()

    def _room(self, rows: int, columns: int, pitch: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        room = torch.full((self.offset + rows * pitch,), torch.nan, device=device, dtype=dtype)
        view = room[self.offset :].view(rows, pitch)[:, :columns]
        view.copy_(torch.randn(rows, columns, device=device, dtype=dtype))
        return room, view

    def run(self, number: Number, **options: Any) -> None:
        at = self.offset
        multiply(number, self.out, self.a, self.b, self.form, a_offset=at, b_offset=at, out_offset=at, **options)

    def check(self, number: Number, dtype: torch.dtype, expected: Tensor) -> None:
        # A sum of products is off by at most the norms' product times a factor's rounding, twice; then it is rounded itself.
        bound = 3 * ROUNDING[number] * float(self.scale[0]) + torch.finfo(dtype).eps * float(expected.norm())
        assert float((self.into.double() - expected).norm()) <= bound
        assert bool(self.out[: self.offset].isnan().all())  # nothing beside the product is touched
        gaps = self.out[self.offset :].view(self.form.rows, self.form.out_pitch)[:, self.form.columns :]
        assert bool(gaps.isnan().all())


def forms() -> list[tuple[Form, int]]:
    """Sizes odd and even, each factor one way round and the other, in dense rows and in wider ones, aligned and not."""
    found = []
    for (rows, inner, columns), a_transposed, b_transposed, more, offset in product(
        ((1, 1, 1), (5, 7, 3), (33, 64, 48), (256, 1030, 40)), (False, True), (False, True), (0, 3, 8), (0, 1, 8)
    ):
        pitches = ((rows if a_transposed else inner) + more, (inner if b_transposed else columns) + more, columns + more)
        found.append((Form(rows, inner, columns, *pitches, a_transposed, b_transposed), offset))
    return found


@everywhere
def test_products_are_float64s(device: str, number: Number, dtype: torch.dtype) -> None:
    for form, offset in forms():
        factors = Factors(form, device, dtype, offset)
        factors.run(number)
        factors.check(number, dtype, factors.right)


@everywhere
def test_a_bias_is_added_to_every_row(device: str, number: Number, dtype: torch.dtype) -> None:
    for form, offset in forms():
        factors = Factors(form, device, dtype, offset)
        bias = torch.randn(form.columns, device=device, dtype=dtype)
        factors.run(number, bias=bias)
        factors.check(number, dtype, factors.right + bias.double())


@everywhere
def test_rows_of_the_first_factor_are_summed_beside(device: str, number: Number, dtype: torch.dtype) -> None:
    for form, offset in forms():
        factors = Factors(form, device, dtype, offset)
        sums = torch.full((form.rows,), torch.nan, device=device, dtype=dtype)
        factors.run(number, row_sums=sums)
        factors.check(number, dtype, factors.right)
        bound = ROUNDING[number] * float(factors.scale[1]) + torch.finfo(dtype).eps * float(factors.sums.norm())
        assert float((sums.double() - factors.sums).norm()) <= bound


@everywhere
def test_a_product_is_added_to_what_is_there(device: str, number: Number, dtype: torch.dtype) -> None:
    for form, offset in forms():
        factors = Factors(form, device, dtype, offset)
        factors.run(number, accumulate=True)
        factors.check(number, dtype, factors.right + factors.before)


@everywhere
def test_a_sum_of_nothing_is_zero(device: str, number: Number, dtype: torch.dtype) -> None:
    for transposed in (False, True):
        factors = Factors(Form(6, 0, 5, 6, 5, 5, transposed), device, dtype, 2)
        sums = torch.full((6,), torch.nan, device=device, dtype=dtype)
        factors.run(number, row_sums=sums)
        assert not factors.into.any()
        assert not sums.any()


# --- What cuBLASLt is asked ---------------------------------------------------------------------------------------------


class CublasLt:
    """Does in plain torch what cuBLASLt does, in float32 on the CPU, as far as it is asked."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.count = 0
        self.finds, self.status = 1, 0

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

    def cublasLtCreate(self, at: Any) -> int:  # noqa: N802 - cuBLASLt's name, as those below
        at._obj.value = 77
        return 0

    def cublasLtMatmulDescCreate(self, at: Any, compute: int, scale: int) -> int:  # noqa: N802
        assert (compute, scale) == (68, 0)
        return self._make(at, {})

    def cublasLtMatrixLayoutCreate(self, at: Any, kind: int, rows: int, columns: int, pitch: int) -> int:  # noqa: N802
        assert kind == 0
        return self._make(at, (rows, columns, pitch))

    def cublasLtMatmulPreferenceCreate(self, at: Any) -> int:  # noqa: N802
        return self._make(at, {})

    cublasLtMatmulDescSetAttribute = cublasLtMatmulPreferenceSetAttribute = _set  # noqa: N815
    cublasLtMatmulDescDestroy = cublasLtMatrixLayoutDestroy = cublasLtMatmulPreferenceDestroy = _destroy  # noqa: N815

    def cublasLtMatmulAlgoGetHeuristic(self, handle: int, *rest: Any) -> int:  # noqa: N802
        *_, preference, wanted, result, found = rest
        assert (handle, wanted) == (77, 1)
        assert self.made[preference] == {1: 32 << 20, 3: 2, 5: 16, 6: 16, 7: 16, 8: 16}
        result._obj.workspace, found._obj.value = 64, self.finds
        return 0

    def cublasLtMatmul(self, handle: int, what: int, alpha: int, *rest: Any) -> int:  # noqa: N802
        a, of_a, b, of_b, beta, c, of_c, d, of_d, choice, workspace, size, stream = rest
        assert (handle, c, of_c, size, stream) == (77, d, of_d, 64, 5)
        assert choice
        assert workspace
        asked, one, more = self.made[what], *(ctypes.c_float.from_address(at).value for at in (alpha, beta))
        left, right, into = self._matrix(a, of_a), self._matrix(b, of_b), self._matrix(d, of_d)
        left, right = left.t() if asked[3] else left, right.t() if asked[4] else right
        assert (one, more) in {(1.0, 0.0), (1.0, 1.0)}
        found = (left.double() @ right.double()).float() + (into if more else 0)
        if asked[7] == 4:
            found += self._vector(asked[8], len(into)).unsqueeze(1)
        if asked[7] == 512:
            self._vector(asked[8], into.shape[1]).copy_(right.double().sum(0))
        into.copy_(found)
        return self.status

    def _matrix(self, at: int, layout: int) -> Tensor:
        rows, columns, pitch = self.made[layout]
        return self._vector(at, pitch * (columns - 1) + rows).as_strided((rows, columns), (1, pitch))

    def _vector(self, at: int, size: int) -> Tensor:
        return torch.frombuffer((ctypes.c_float * size).from_address(at), dtype=torch.float32)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> CublasLt:
    model = CublasLt()
    monkeypatch.setattr(products, "_library", lambda: model)
    monkeypatch.setattr(products, "_handle", lambda index: 77)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 5, raising=False)
    return model


@pytest.mark.parametrize("what", ["product", "bias", "row_sums", "accumulate"])
def test_cublaslt_is_asked_for_the_same_product(what: str, library: CublasLt) -> None:
    for form, offset in forms():
        factors = Factors(form, "cpu", torch.float32, offset)
        vector = torch.randn(form.columns if what == "bias" else form.rows)
        plan = products._Plan(form, Number.FLOAT32, {"bias": 4, "row_sums": 512}.get(what, 1), 16, 0)
        pointers = [room.data_ptr() + offset * 4 for room in (factors.a, factors.b, factors.out)]
        plan.run(*pointers, vector.data_ptr(), what == "accumulate", factors.out)
        expected = factors.right + {"bias": vector.double(), "accumulate": factors.before}.get(what, 0.0)
        factors.check(Number.FLOAT32, torch.float32, expected)
        if what == "row_sums":
            assert torch.allclose(vector.double(), factors.sums, atol=1e-4)
    del plan
    assert not library.made  # what was made for a plan goes with it


def test_what_cublaslt_does_not_do_is_torchs(library: CublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    form = Form(5, 7, 3, 7, 3, 3)
    monkeypatch.setattr(launcher, "current", lambda index: nullcontext())
    products._plan.cache_clear()
    library.finds = 0
    assert products._plan(form, Number.FLOAT32, 1, 16, 0) is None
    assert not library.made
    monkeypatch.setattr(products, "_library", lambda: None)
    products._plan.cache_clear()
    assert products._plan(form, Number.FLOAT32, 1, 16, 0) is None
    products._plan.cache_clear()


def test_a_product_that_fails_says_so(library: CublasLt) -> None:
    factors = Factors(Form(5, 7, 3, 7, 3, 3), "cpu", torch.float32, 0)
    plan = products._Plan(factors.form, Number.FLOAT32, 1, 16, 0)
    library.status = 13
    with pytest.raises(RuntimeError, match="cublasLtMatmul fails with status 13"):
        plan.run(factors.a.data_ptr(), factors.b.data_ptr(), factors.out.data_ptr(), 0, False, factors.out)


# --- On a GPU -----------------------------------------------------------------------------------------------------------


@on_gpu
def test_cublaslt_does_what_layers_ask_for() -> None:
    for (_, number, dtype), vector in product(PLACES[1:], ({}, {"bias": 96}, {"row_sums": 64})):
        form = Form(64, 4096, 96, 64, 96, 96, a_transposed=True)
        factors = Factors(form, "cuda", dtype, 0)
        products._plan.cache_clear()
        factors.run(number, **{name: torch.empty(size, device="cuda", dtype=dtype) for name, size in vector.items()})
        assert products._plan.cache_info().currsize == 1
        epilogue = {"bias": 4, "row_sums": 512}.get(next(iter(vector), ""), 1)
        assert products._plan(form, number, epilogue, 16, 0) is not None


@on_gpu
def test_threads_do_not_take_each_others_vectors() -> None:
    form, wrong = Form(64, 128, 32, 128, 32, 32), []

    def work(seed: int) -> None:
        factors = Factors(form, "cuda", torch.float32, 0)
        bias = torch.full((32,), float(seed), device="cuda")
        for _ in range(200):
            factors.run(Number.FLOAT32, bias=bias)
            if not torch.allclose(factors.into.double(), factors.right + seed, atol=1e-3):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@on_gpu
def test_a_graph_records_products() -> None:
    factors = Factors(Form(64, 4096, 96, 64, 96, 96, a_transposed=True), "cuda", torch.bfloat16, 0)
    sums = torch.empty(64, device="cuda", dtype=torch.bfloat16)
    factors.run(Number.BFLOAT16, row_sums=sums)
    expected = factors.into.clone(), sums.clone()
    products._plan.cache_clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        factors.run(Number.BFLOAT16, row_sums=sums)
    factors.into.zero_(), sums.zero_()
    graph.replay()
    assert torch.equal(factors.into, expected[0])
    assert torch.equal(sums, expected[1])
