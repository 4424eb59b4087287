"""Commands for a GPU's stream: in C++ and in Python the same, in their order; one that fails is Python's; memory is made for each call."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import torch

import cublaslt_model
import cuda_compiled
import native
from elman.backends.cuda import commands, launcher, structs
from elman.backends.cuda.commands import FLAGS, MAILBOX, NO_SCRATCH, WORKSPACE, At, Commands, Copy, Launch
from elman.backends.cuda.cublaslt import Form
from elman.backends.cuda.plan import Number
from elman.backends.cuda.products import Product
from elman.backends.cuda.shape import CELLS
from elman.backends.kernels import available

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

if available():
    from elman import _native

pytestmark = native.required


class Kernel:
    """Takes notes of its launches, whose parameter has four addresses."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.plan = type("Plan", (), {"parameter": structs.layout(CELLS["lstm"], False)})
        self.fails = 0

    def launch(self, grid: int, block: int, shared_bytes: int, stream: int, params: bytes, together: bool = False) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the launch fails")
        self.launched.append((grid, block, shared_bytes, stream, params, together))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> cuda_compiled.Compiled:
    return cuda_compiled.install(monkeypatch, cublaslt_model.install(monkeypatch, torch.float32), Kernel)


SIZE = structs.layout(CELLS["lstm"], False).size
X, W, BIAS, OUT = range(len(NO_SCRATCH), len(NO_SCRATCH) + 4)
FORM = Form(5, 3, 7, 3, 3, 7, b_transposed=True)


def launch(kernel: Any, together: bool = False) -> Launch:
    params = bytes(range(256)) * 4
    places = [(8, At(X)), (24, At(OUT, 16)), (40, At(MAILBOX)), (SIZE - 8, At(FLAGS, 4))]
    return Launch(kernel, 6, 256, 1000, params[:SIZE], places, together, -1)


def product(bias: bool = False) -> Product:
    return Product(Number.FLOAT32, FORM, At(X), At(W), At(OUT, 8), 4, 4, -1, bias=At(BIAS) if bias else None)


def test_nothing_is_kept_when_python_ends() -> None:
    code = """
import atexit
from weakref import ref
atexit.register(lambda: print(kept()))  # the first that is registered runs last
from elman.backends.cuda.commands import Commands, prepared
made = prepared(lambda count: Commands([], -count))
kept = ref(made(1))
assert kept() is made(1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "None\n"


def operands() -> tuple[list[Tensor | None], list[int]]:
    torch.manual_seed(0)
    tensors = [*NO_SCRATCH, torch.randn(5, 3), torch.randn(7, 3), torch.randn(7), torch.full((37,), torch.nan)]
    return tensors, [0 if each is None else each.data_ptr() for each in tensors]


def ran(each: Sequence[Any], **memory: int) -> list[Tensor | None]:
    tensors, addresses = operands()
    like = tensors[X]
    assert like is not None
    Commands(each, -1, **memory).run(tensors, addresses, like)
    assert [0 if tensor is None else tensor.data_ptr() for tensor in tensors] == addresses
    return tensors


def check_product(tensors: list[Tensor | None], bias: bool = False) -> None:
    x, w, b, out = tensors[X:]
    assert None not in (x, w, b, out)
    torch.testing.assert_close(out[2:].view(5, 7), x @ w.t() + (b if bias else 0))
    assert bool(out[:2].isnan().all())


@pytest.mark.parametrize("together", [False, True])
def test_cpp_launches_what_python_does(together: bool, compiled: cuda_compiled.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    tensors = ran([launch(kernel, together)], mailbox=9, flags=3)
    assert compiled.launches == 1
    mailbox, flags = tensors[MAILBOX], tensors[FLAGS]
    assert mailbox is not None
    assert flags is not None
    assert (mailbox.numel(), flags.tolist(), tensors[WORKSPACE]) == (9, [0, 0, 0], None)
    found: list[tuple[Any, ...]] = []
    launch(type("Python", (), {"launch": lambda self, *call, together: found.append((*call, together))})(), together).run(
        tensors, [0 if each is None else each.data_ptr() for each in tensors]
    )
    assert kernel.launched == found == [(6, 256, 1000, 5, found[0][4], together)]
    params = found[0][4]
    for place, tensor, offset in ((8, tensors[X], 0), (24, tensors[OUT], 16), (40, mailbox, 0), (SIZE - 8, flags, 4)):
        assert tensor is not None
        assert int.from_bytes(params[place : place + 8], "little") == tensor.data_ptr() + offset
    untouched = [at for at in range(SIZE) if not any(place <= at < place + 8 for place in (8, 24, 40, SIZE - 8))]
    assert [params[at] for at in untouched] == [at % 256 for at in untouched]
    assert compiled.errors == []


@pytest.mark.parametrize("bias", [False, True])
def test_commands_follow_each_other(bias: bool, compiled: cuda_compiled.Compiled) -> None:
    first, second = Kernel(), Kernel()
    tensors = ran([launch(first), product(bias), launch(second, True)], mailbox=1, flags=2)
    assert (compiled.launches, compiled.products, compiled.errors) == (2, 1, [])
    check_product(tensors, bias)
    workspace = tensors[WORKSPACE]
    assert workspace is not None
    assert (workspace.numel(), workspace.dtype) == (68 if bias else 65, torch.uint8)
    assert [kernel.launched[0][5] for kernel in (first, second)] == [False, True]


@pytest.mark.parametrize("bias", [False, True])
def test_where_cublaslt_stops_torch_goes_on(bias: bool, compiled: cuda_compiled.Compiled) -> None:
    before, after = Kernel(), Kernel()
    compiled.library.status = 15  # CUBLAS_STATUS_NOT_SUPPORTED
    prepared = Commands([launch(before), product(bias), launch(after)], -1, mailbox=1, flags=2)
    for times in (1, 2, 3):  # whatever cuBLASLt has made for the product is still there
        tensors, addresses = operands()
        like = tensors[X]
        assert like is not None
        prepared.run(tensors, addresses, like)
        assert [len(kernel.launched) for kernel in (before, after)] == [times, times]
        assert compiled.library.products == 0
        assert compiled.errors == []
        check_product(tensors, bias)


@pytest.mark.parametrize("bias", [False, True])
def test_a_vector_that_cublaslt_does_not_take_is_added_by_torch(bias: bool, compiled: cuda_compiled.Compiled) -> None:
    compiled.library.refuses = {4}
    check_product(ran([product(bias)]), bias)
    assert compiled.library.epilogues == [1]
    assert compiled.errors == []


@pytest.mark.parametrize("in_python", [False, True])
def test_numbers_are_copied(in_python: bool, compiled: cuda_compiled.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_python:
        monkeypatch.setattr(launcher, "function_address", lambda name: 0)
    tensors = ran([Copy(At(BIAS, 8), At(OUT, 4), 3, 4)])
    bias, out = tensors[BIAS], tensors[OUT]
    assert bias is not None
    assert out is not None
    assert torch.equal(out[1:4], bias[2:5])
    assert int(out.isnan().sum()) == out.numel() - 3
    assert (compiled.copies, compiled.errors) == (0 if in_python else 1, [])


def test_what_only_python_does_is_done_in_its_place(compiled: cuda_compiled.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.library.finds = 0
    kernel, order = Kernel(), list[str]()
    monkeypatch.setattr(kernel, "launch", lambda *call, together: order.append("launch"))
    refused = product()
    run = refused.run
    monkeypatch.setattr(refused, "run", lambda *call: (order.append("product"), run(*call)))
    tensors = ran([launch(kernel), refused, launch(kernel)], mailbox=1, flags=2)
    assert order == ["launch", "product", "launch"]
    check_product(tensors)


def test_a_launch_that_fails_once_is_tried_by_python_which_says_why(compiled: cuda_compiled.Compiled) -> None:
    kernel = Kernel()
    kernel.fails = 1
    ran([launch(kernel)], mailbox=1, flags=2)
    assert len(kernel.launched) == 1
    kernel.fails = 2
    with pytest.raises(RuntimeError, match="the launch fails"):
        ran([launch(kernel)], mailbox=1, flags=2)


def test_the_first_run_alone_allows_what_a_capture_does_not(compiled: cuda_compiled.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(launcher, "current", lambda index: asked.append(index) or nullcontext())
    tensors, addresses = operands()
    like = tensors[X]
    assert like is not None
    prepared = Commands([product()], 3)
    asked.clear()
    compiled.library.status = 13
    with pytest.raises(RuntimeError, match="status 13"):  # nor is one that fails the first
        prepared.run(tensors, addresses, like)
    compiled.library.status = 0
    asked.clear()
    for _ in range(3):
        prepared.run(tensors, addresses, like)
    assert asked == [3]


def test_they_go_to_their_device(compiled: cuda_compiled.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    for where, name, value in (
        (launcher, "current", nullcontext()),
        (launcher, "ensure_context", None),
        (torch._C, "_cuda_getCurrentRawStream", 5),
    ):
        monkeypatch.setattr(where, name, lambda index, name=name, value=value: asked.append((name, index)) or value)
    tensors, addresses = operands()
    like = tensors[X]
    assert like is not None
    prepared = Commands([launch(Kernel())], 3, mailbox=1, flags=2)
    assert asked == []
    prepared.run(tensors, addresses, like)
    assert sorted(asked) == [("_cuda_getCurrentRawStream", 3), ("current", 3), ("ensure_context", 3)]


def test_on_the_cpu_and_without_a_driver_python_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands._compiled([], -1) is None
    if not launcher.function_address("cuLaunchKernel"):
        assert not launch(Kernel()).add_to(_native.Commands())
        assert not Copy(At(X), At(OUT), 3, 4).add_to(_native.Commands())
    assert launcher.function_address("there is no such function") == 0


# --- What crosses to C++ is checked there -----------------------------------------------------------------------------------


FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
ADDRESS = ctypes.cast(FUNCTION, ctypes.c_void_p).value or 0


@pytest.mark.parametrize(
    ("places", "error"),
    [
        ([(9, 0, 0)], "an address lies outside of the parameter"),
        ([(2**64 - 4, 0, 0)], "an address lies outside of the parameter"),
        ([(8, -1, 0)], "an operand's number is negative"),
    ],
)
def test_a_launchs_places_are_checked(places: list[tuple[int, int, int]], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        _native.Commands().add_launch(ADDRESS, 0, 1, 1, 0, bytes(16), places)


@pytest.mark.parametrize("wrong", [0, 1, 2, 3])
def test_a_products_places_are_checked(wrong: int) -> None:
    places = [(-2, 0) if k == wrong else (1, 0) for k in range(4)]
    with pytest.raises(ValueError, match="an operand's number is negative"):
        _native.Commands().add_product(ADDRESS, ADDRESS, 0, 0, (0, 0), (0, 0, 0), 0, 0, (places[0], places[1], places[2]), places[3])


@pytest.mark.parametrize("places", [((-1, 0), (1, 0)), ((1, 0), (-1, 0))])
def test_a_copys_places_are_checked(places: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="an operand's number is negative"):
        _native.Commands().add_copy(ADDRESS, *places, 4)


def test_a_function_is_needed() -> None:
    with pytest.raises(ValueError, match="a function's address is null"):
        _native.Commands().add_copy(0, (1, 0), (2, 0), 4)
    with pytest.raises(ValueError, match="a function's address is null"):
        _native.Commands().add_launch(0, 0, 1, 1, 0, bytes(16), [])
    for functions in ((0, ADDRESS), (ADDRESS, 0)):
        with pytest.raises(ValueError, match="a function's address is null"):
            _native.Commands().add_product(*functions, 0, 0, (0, 0), (0, 0, 0), 0, 0, ((1, 0), (1, 0), (1, 0)), (-1, 0))


def test_operands_are_counted() -> None:
    asked = _native.Commands()
    assert asked.run(0, [0], 0) == 0
    asked.add_launch(ADDRESS, 0, 1, 1, 0, bytes(16), [(0, 4, 0)])
    asked.add_stop()
    for count in range(5):
        with pytest.raises(ValueError, match="there are fewer operands than the commands have"):
            asked.run(0, [0] * count, 0)
    assert asked.run(0, [0] * 5, 0) == 1
    assert asked.run(2, [0] * 5, 0) == 2
    with pytest.raises(TypeError):
        asked.run(-1, [0] * 5, 0)
    with pytest.raises(TypeError):
        asked.run(0, [-1] * 5, 0)
