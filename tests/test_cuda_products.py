"""Products as the CUDA backend asks for them, by torch anywhere, by cuBLASLt on a GPU: against float64, over forms, offsets, alignments.

Without a GPU a model stands in for cuBLASLt, which shows whether it is asked for the right product.
"""

from __future__ import annotations

import threading
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import cublaslt_model
from elman.backends.cuda import cublaslt, launcher, products
from elman.backends.cuda.cublaslt import Form
from elman.backends.cuda.plan import Number
from elman.backends.cuda.products import multiply

if TYPE_CHECKING:
    from cublaslt_model import CublasLt

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
        self.right, self.sums, self.before = left @ right, left.sum(1), self.into.double().clone()
        self.scale = left.norm() * right.norm(), form.inner**0.5 * left.norm()

    def _room(self, rows: int, columns: int, pitch: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        room = torch.full((self.offset + rows * pitch,), torch.nan, device=device, dtype=dtype)
        view = room[self.offset :].view(rows, pitch)[:, :columns]
        view.copy_(torch.randn(rows, columns, device=device, dtype=dtype))
        return room, view

    def run(self, number: Number, **options: Any) -> None:
        at = self.offset
        multiply(number, self.out, self.a, self.b, self.form, a_offset=at, b_offset=at, out_offset=at, **options)

    def check_sums(self, number: Number, dtype: torch.dtype, sums: Tensor) -> None:
        bound = ROUNDING[number] * float(self.scale[1]) + torch.finfo(dtype).eps * float(self.sums.norm())
        assert float((sums.double() - self.sums).norm()) <= bound

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
        factors.check_sums(number, dtype, sums)


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


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> CublasLt:
    return cublaslt_model.install(monkeypatch, torch.float32)


@pytest.mark.parametrize("what", ["product", "bias", "row_sums", "accumulate"])
def test_cublaslt_is_asked_for_the_same_product(what: str, library: CublasLt) -> None:
    for form, offset in forms():
        factors = Factors(form, "cpu", torch.float32, offset)
        vector = torch.randn(form.columns if what == "bias" else form.rows)
        factors.run(Number.FLOAT32, **{"product": {}, "accumulate": {"accumulate": True}}.get(what, {what: vector}))
        expected = factors.right + {"bias": vector.double(), "accumulate": factors.before}.get(what, 0.0)
        factors.check(Number.FLOAT32, torch.float32, expected)
        if what == "row_sums":
            factors.check_sums(Number.FLOAT32, torch.float32, vector)
        if offset % 4:
            assert library.alignments[-1] == 4
    assert library.products == len(forms())
    assert set(library.epilogues) == {{"bias": 4, "row_sums": 512}.get(what, 1)}
    products._alone.cache_clear()
    cublaslt._preference.cache_clear()
    assert not library.made  # what was made for a plan goes with it


def test_numbers_are_of_their_types(library: CublasLt) -> None:
    factors = Factors(Form(5, 7, 3, 7, 3, 3), "cpu", torch.float32, 0)
    for number, kind, compute in (
        (Number.FLOAT32, 0, 68),  # CUDA_R_32F, CUBLAS_COMPUTE_32F
        (Number.TF32, 0, 77),  # CUBLAS_COMPUTE_32F_FAST_TF32
        (Number.FLOAT16, 2, 68),
        (Number.BFLOAT16, 14, 68),
    ):
        library.kinds.clear()
        factors.run(number)
        assert library.kinds == {(kind, compute)}


def test_what_cublaslt_does_not_do_is_torchs(library: CublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = Factors(Form(5, 7, 3, 7, 3, 3), "cpu", torch.float32, 0)

    def check(**changes: Any) -> None:
        products._alone.cache_clear()
        with monkeypatch.context() as changed:
            for name, value in changes.items():
                changed.setattr(library, name, value)
            factors.into.fill_(torch.nan)
            factors.run(Number.FLOAT32)
            factors.check(Number.FLOAT32, torch.float32, factors.right)

    check(finds=0)
    check(asking=15)
    check(status=15)
    assert library.products == 0
    check()
    assert library.products == 1
    products._alone.cache_clear()
    monkeypatch.setattr(cublaslt, "_library", lambda: None)
    check()
    assert library.products == 1
    cublaslt._preference.cache_clear()
    assert not library.made


def test_an_algorithm_is_for_operands_that_are_aligned_so(library: CublasLt) -> None:
    form = Form(5, 8, 4, 8, 4, 4)
    for at in (0, 1, 2, 0):  # in numbers of 4 bytes
        room = torch.randn(5 * 8 + 2)
        factors = Factors(form, "cpu", torch.float32, 0)
        multiply(Number.FLOAT32, factors.out, room[at:], factors.b, form)
    assert library.alignments == [16, 4, 8]


@pytest.mark.parametrize("what", ["bias", "row_sums"])
def test_a_vector_that_cublaslt_does_not_take_is_torchs_alone(what: str, library: CublasLt) -> None:
    library.refuses = {4, 512}
    for form, offset in forms():
        factors = Factors(form, "cpu", torch.float32, offset)
        vector = torch.randn(form.columns if what == "bias" else form.rows)
        factors.run(Number.FLOAT32, **{what: vector})
        factors.check(Number.FLOAT32, torch.float32, factors.right + (vector.double() if what == "bias" else 0.0))
        if what == "row_sums":
            factors.check_sums(Number.FLOAT32, torch.float32, vector)
    assert library.products == len(forms())


@pytest.mark.parametrize("kind", ["asking", "status"])
def test_a_product_that_fails_says_so(kind: str, library: CublasLt) -> None:
    factors = Factors(Form(5, 7, 3, 7, 3, 3), "cpu", torch.float32, 0)
    setattr(library, kind, 13)
    with pytest.raises(RuntimeError, match=r"cublasLtMatmul\w* fails with status 13 of cuBLAS"):
        factors.run(Number.FLOAT32)


def test_one_thread_at_a_time_sets_a_plans_vector(library: CublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    form = Form(5, 7, 3, 7, 3, 3)
    others: list[threading.Thread] = []
    waiting: list[bool] = []
    matmul = library.cublasLtMatmul

    def spied(*args: Any) -> int:  # meanwhile another thread asks for the same product
        if not others:
            its = Factors(form, "cpu", torch.float32, 0)
            others.append(threading.Thread(target=its.run, args=(Number.FLOAT32,), kwargs={"bias": torch.ones(3)}))
            others[0].start()
            others[0].join(0.05)
            waiting.append(others[0].is_alive())
        return matmul(*args)

    monkeypatch.setattr(library, "cublasLtMatmul", spied)
    factors = Factors(form, "cpu", torch.float32, 0)
    factors.run(Number.FLOAT32, bias=torch.zeros(3))
    others[0].join()
    assert waiting == [True]
    factors.check(Number.FLOAT32, torch.float32, factors.right)


# --- On a GPU -----------------------------------------------------------------------------------------------------------


@on_gpu
def test_cublaslt_does_what_layers_ask_for() -> None:
    for (_, number, dtype), vector in product(PLACES[1:], ({}, {"bias": 96}, {"row_sums": 64})):
        form = Form(64, 4096, 96, 64, 96, 96, a_transposed=True)
        factors = Factors(form, "cuda", dtype, 0)
        products._alone.cache_clear()
        factors.run(number, **{name: torch.empty(size, device="cuda", dtype=dtype) for name, size in vector.items()})
        assert products._alone.cache_info().currsize == 1
        epilogue = {"bias": 4, "row_sums": 512}.get(next(iter(vector), ""), 1)
        assert cublaslt.algorithm(form, number, epilogue, 16, 0) is not None


@on_gpu
def test_threads_do_not_take_each_others_vectors() -> None:
    form, wrong = Form(64, 128, 32, 128, 32, 32), []

    def work(seed: int) -> None:
        factors = Factors(form, "cuda", torch.float32, 0)
        bias = torch.full((32,), float(seed), device="cuda")
        for _ in range(200):
            factors.run(Number.FLOAT32, bias=bias)
            # 128 roundings of partial sums below 64, by 2^-24 of them, make 5e-4; another thread's vector is off by 1 or more.
            if not torch.allclose(factors.into.double(), factors.right + seed, atol=1e-3):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@on_gpu
def test_tf32_is_tf32_and_float32_is_not() -> None:
    form = Form(256, 512, 128, 512, 128, 128)
    for number, least, most in ((Number.TF32, 2.0**-14, 2.0**-10), (Number.FLOAT32, 0.0, 2.0**-20)):
        factors = Factors(form, "cuda", torch.float32, 0)
        sums = torch.empty(256, device="cuda")
        factors.run(number, row_sums=sums)
        error = float((factors.into.double() - factors.right).norm() / factors.right.norm())
        assert least <= error <= most
        assert float((sums.double() - factors.sums).norm() / factors.sums.norm()) <= most


@on_gpu
def test_a_thread_that_has_used_no_device_multiplies() -> None:
    factors = Factors(Form(64, 128, 32, 128, 32, 32), "cuda", torch.float32, 0)
    factors.run(Number.FLOAT32)
    factors.into.zero_()
    torch.cuda.synchronize()
    thread = threading.Thread(target=factors.run, args=(Number.FLOAT32,))
    thread.start()
    thread.join()
    factors.check(Number.FLOAT32, torch.float32, factors.right)


@on_gpu
def test_a_graph_records_a_first_product() -> None:
    factors = Factors(Form(72, 4096, 88, 72, 88, 88, a_transposed=True), "cuda", torch.float16, 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        factors.run(Number.FLOAT16)
    graph.replay()
    factors.check(Number.FLOAT16, torch.float16, factors.right)


@on_gpu
def test_a_graph_records_products() -> None:
    factors = Factors(Form(64, 4096, 96, 64, 96, 96, a_transposed=True), "cuda", torch.bfloat16, 0)
    sums = torch.empty(64, device="cuda", dtype=torch.bfloat16)
    factors.run(Number.BFLOAT16, row_sums=sums)
    expected = factors.into.clone(), sums.clone()
    products._alone.cache_clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        factors.run(Number.BFLOAT16, row_sums=sums)
    factors.into.zero_(), sums.zero_()
    graph.replay()
    assert torch.equal(factors.into, expected[0])
    assert torch.equal(sums, expected[1])
