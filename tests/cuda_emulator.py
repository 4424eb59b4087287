"""Runs the CUDA kernels' own sources on the CPU: emulator/ has what CUDA C++ has beyond C++, and a machine that runs a launch's threads.

A kernel is compiled by g++. Each asm statement becomes a call of a function of that name (``translated``); all else is compiled as it is.
A seed decides which thread goes on and when messages arrive. These are errors: two accesses to the same bytes that nothing orders, one of
them a write, whatever the numbers of this run are (emulator/races.h); reads of shared memory that nobody has written; accesses outside of
shared memory and of a call's operands; blocks that wait for ever; misuses of barriers.

What is not emulated: the caches, other orders of a thread's own plain loads and stores, registers, and time. Who waits at a barrier that
counts bytes knows here of all that their senders knew; on a GPU, of their global memory only if it acquires from the whole cluster.
"""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from inspect import unwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from cuda_prepared import forget
from elman.backends import operator
from elman.backends.cuda import choice, compiler, launcher, layer, run
from elman.backends.cuda.backend import CudaBackend
from elman.backends.cuda.commands import Commands
from elman.backends.cuda.launcher import DeviceProperties
from elman.backends.cuda.plan import Plan
from elman.backends.cuda.recorded import CudaCall
from elman.backends.program import operator as program_operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from elman.backends.cuda.totals import TotalsPlan

    Mutation = Callable[[str], str]

DEVICE = DeviceProperties("emulated", (9, 0), 32, 232448, 65536, 50 << 20)
SOURCES = Path(__file__).with_name("emulator")
_OPTIONS = ("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-Wno-unknown-pragmas")
_THREAD = """
extern "C" void elman_run_thread(const void* call) { elman::emulated::run(scan, call); }
"""


def unavailable_reason() -> str | None:
    """Why there is no emulator here, as a clause; None if there is."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "fibers are written for Linux on x86-64"
    return None if shutil.which("g++") else "there is no g++"


required = pytest.mark.skipif(unavailable_reason() is not None, reason=f"no emulator: {unavailable_reason()}")


# --- From a kernel's sources to C++ ---------------------------------------------------------------------------------------

_ASM = re.compile(r"\basm\s*(?:volatile)?\s*\(")
_INSTRUCTION = re.compile(r"(?<![\w.%])[a-z]\w*(?:(?:\.|::)\w+)+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_OPERAND = re.compile(r'\s*"[^"]*"\s*\((.*)\)\s*', re.DOTALL)


def translated(text: str) -> str:
    """A source with a call in the place of each asm statement: of a function named after its instructions, with all its operands."""
    parts, at = [], 0
    while found := _ASM.search(text, at):
        end = _closing(text, found.end())
        parts += [text[at : found.start()], _call(text[found.end() : end])]
        at = end + 1
    return "".join([*parts, text[at:]])


def _call(statement: str) -> str:
    template, *operands = _split(statement, ":")
    code = "\n".join(string[1:-1].replace("\\n", "\n") for string in _STRING.findall(template))
    name = "_then_".join(re.sub(r"\W+", "_", each) for each in _INSTRUCTION.findall(code))
    values = []
    for group in operands[:2]:  # outputs, inputs; what is clobbered is nobody's operand
        for operand in _split(group, ",") if group.strip() else []:
            match = _OPERAND.fullmatch(operand)
            assert match is not None, operand
            values.append(match[1])
    return f"elman::emulated::ptx::{name}({', '.join(values)})"


def _closing(text: str, at: int) -> int:
    """Where the parenthesis that is open at ``at`` closes."""
    return next(place for place, char, depth in _outside_strings(text, at) if char == ")" and depth < 0)


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators outside of parentheses and strings."""
    places = [place for place, char, depth in _outside_strings(text, 0) if char == separator and depth == 0]
    return [text[begin + 1 : end] for begin, end in zip([-1, *places], [*places, len(text)], strict=True)]


def _outside_strings(text: str, at: int) -> Iterator[tuple[int, str, int]]:
    """Places, characters, and how many parentheses are open after each."""
    depth, is_string = 0, False
    for place in range(at, len(text)):
        char = text[place]
        if char == '"' and text[place - 1 : place] != "\\":
            is_string = not is_string
        elif not is_string:
            depth += (char == "(") - (char == ")")
            yield place, char, depth


# --- Kernels --------------------------------------------------------------------------------------------------------------


@cache
def _folder() -> TemporaryDirectory[str]:
    """Where this process compiles, until it ends."""
    return TemporaryDirectory(prefix="elman-emulated-")


def _compile(*arguments: object) -> None:
    done = subprocess.run(["g++", *_OPTIONS, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


@cache
def _instrumented() -> tuple[str, ...]:
    """Options by which the machine is told of each access to memory and, from GCC 12 on, what nobody has set is no number."""
    version = subprocess.run(["g++", "-dumpversion"], check=True, capture_output=True, text=True).stdout
    return ("-Og", "-fsanitize=thread", *["-ftrivial-auto-var-init=pattern"] * (int(version.partition(".")[0]) >= 12))


@cache
def _machine() -> list[Path]:
    paths = []
    for source in sorted(SOURCES.glob("*.cpp")):
        paths.append(Path(_folder().name) / f"{source.stem}.o")
        _compile("-O2", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", paths[-1])
    return paths


@cache
def _precompiled() -> Path:
    """A folder with what all kernels include first, which takes the compiler half of its time."""
    folder = Path(_folder().name) / "precompiled"
    folder.mkdir(exist_ok=True)
    _compile(*_instrumented(), "-x", "c++-header", SOURCES / "cuda.h", "-o", folder / "cuda.h.gch")
    return folder


@cache
def _library(defines: tuple[tuple[str, object], ...], entry: str, sources: tuple[tuple[str, str], ...]) -> Any:
    """A kernel with its machine, which it tells of each access to memory."""
    folder = Path(_folder().name) / f"kernel{_library.cache_info().misses}"
    folder.mkdir()
    for name, text in [*sources, ("the entry", entry)]:
        assert not re.search(r"\bmem(cpy|set|move)\b", text), f"{name}: what the compiler does not tell of"
    for name, text in sources:
        (folder / name).write_text(translated(text), encoding="utf-8")
    path = folder / "kernel.cpp"
    shared = re.sub(r"extern __shared__ [^;]*;", "char* shared = elman::emulated::shared_memory();", entry)
    path.write_text(shared + _THREAD, encoding="utf-8")
    macros = [f"-D{name}={value}" for name, value in defines]
    target, part = folder / "kernel.so", folder / "kernel.o"
    included = "-I", _precompiled(), "-include", "cuda.h", "-Winvalid-pch", "-Werror=invalid-pch", "-iquote", folder
    _compile(*_instrumented(), *macros, *included, "-c", path, "-o", part)
    _compile("-shared", part, *_machine(), "-o", target)
    return ctypes.CDLL(str(target))


# The operands of the commands that are running: the memory that a kernel may touch.
_operands: list[Sequence[Tensor | None]] = []


def _bounds(operands: Sequence[Tensor | None], *more: tuple[int, int]) -> list[int]:
    """Where the memory of each operand begins and where it ends, and more such: in order, and what overlaps is one."""
    spans = list(more)
    for each in operands:
        if each is not None and each.numel():
            last = sum((size - 1) * stride for size, stride in zip(each.shape, each.stride(), strict=True))
            spans.append((each.data_ptr(), each.data_ptr() + (1 + last) * each.element_size()))
    bounds: list[int] = []
    for begin, end in sorted(spans):
        if bounds and begin <= bounds[-1]:
            bounds[-1] = max(bounds[-1], end)
        else:
            bounds += begin, end
    return bounds


class Kernel:
    """A plan's kernel, or that of totals, on the emulated device, in place of ``launcher.Kernel``.

    Attributes:
        seed: of the order in which threads go on and messages arrive.
    """

    local_bytes = 0

    def __init__(self, plan: Plan | TotalsPlan, device: DeviceProperties = DEVICE, seed: int = 0, mutation: Mutation | None = None) -> None:
        self.plan, self.device, self.seed = plan, device, seed
        major, minor = device.capability
        defines = {**plan.defines, "__CUDA_ARCH__": 100 * major + 10 * minor}
        change = mutation or str
        sources = tuple((name, change(text)) for name, text in compiler.headers().items())
        self._library = _library(tuple(defines.items()), plan.entry, sources)

    def launch(self, grid: int, block: int, shared_bytes: int, stream: int, params: bytes, together: bool = False) -> None:
        assert (grid % self.plan.blocks, block, shared_bytes) == (0, self.plan.threads, self.plan.shared_bytes)
        assert shared_bytes <= self.device.shared_bytes
        assert not together or grid <= self.resident_blocks(block, shared_bytes)
        call = ctypes.create_string_buffer(len(params) + 16)
        aligned = ctypes.addressof(call) + -ctypes.addressof(call) % 16
        ctypes.memmove(aligned, params, len(params))
        message = ctypes.create_string_buffer(1000)
        at_once = grid if together else self.plan.blocks
        bounds = _bounds(_operands[-1], (aligned, aligned + len(params)))
        order = grid, block, shared_bytes, at_once, ctypes.c_void_p(aligned), self.seed
        failed = self._library.emulate(*order, (ctypes.c_size_t * len(bounds))(*bounds), len(bounds), message, len(message))
        assert not failed, message.value.decode()

    def resident_blocks(self, block: int, shared_bytes: int) -> int:
        return self.device.multiprocessors

    def resident_clusters(self, cluster: int, block: int, shared_bytes: int) -> int:
        return self.device.multiprocessors // cluster


def install(
    monkeypatch: pytest.MonkeyPatch,
    wishes: Sequence[Callable[[Plan], bool]] = (lambda plan: True,),
    change: Callable[[Plan], Plan] = lambda plan: plan,
    *,
    seed: int = 0,
    mutation: Mutation | None = None,
    device: DeviceProperties = DEVICE,
) -> list[Kernel]:
    """Put the emulator in place of the GPU until the test ends: ``run`` then takes tensors on the CPU. Returns the scans' kernels.

    Args:
        wishes: which plans there are to choose from; if there are none, as the next of these says.
        change: what is made of the chosen one.
        seed: of the order in which threads go on and messages arrive.
        mutation: changes the text of each header.
    """
    kernels: list[Kernel] = []
    made: dict[Plan | TotalsPlan, Kernel] = {}
    arrangements = choice._arrangements
    choose = unwrap(choice.choose)
    monkeypatch.setattr(choice, "candidates", unwrap(choice.candidates))

    def chosen(*arguments: Any) -> tuple[Plan, ...]:
        for wish in wishes:
            monkeypatch.setattr(choice, "_arrangements", lambda *sizes, wish=wish: filter(wish, arrangements(*sizes)))
            if found := choose(*arguments):
                return (change(found[0]),)
        raise AssertionError("no plan is as wished")

    def kernel(plan: Plan | TotalsPlan, index: int) -> Kernel:
        if plan not in made:
            made[plan] = Kernel(plan, device, seed, mutation)
            kernels.extend([made[plan]] if isinstance(plan, Plan) else [])
        return made[plan]

    run_commands = Commands.run

    def noted(each: Commands, operands: list[Tensor | None], addresses: list[int], like: Tensor) -> None:
        _operands.append(operands)
        try:
            run_commands(each, operands, addresses, like)
        finally:
            _operands.pop()

    forget(monkeypatch)
    monkeypatch.setattr(Commands, "run", noted)
    monkeypatch.setattr(layer, "choose", chosen)
    monkeypatch.setattr(launcher, "kernel", kernel)
    monkeypatch.setattr(layer, "_ready", unwrap(layer._ready))
    monkeypatch.setattr(launcher, "device_properties", lambda index: device)
    monkeypatch.setattr(run, "on_device_of", lambda x: nullcontext())
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
    monkeypatch.setattr(operator, "kernels_of", lambda x, recorded=None: run)
    monkeypatch.setattr(program_operator, "call_on", lambda device: CudaCall)
    monkeypatch.setattr(CudaBackend, "refuses", lambda *call: None)
    return kernels
