"""The emulator of the CUDA kernels itself: it finds what is wrong in a kernel, and its numbers are the hardware's."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import cuda_emulator
from elman.backends.cuda.commands import NO_SCRATCH, At, Commands, addresses_of
from elman.backends.cuda.plan import Number
from elman.backends.cuda.totals import sum_totals
from slow import slow
from test_cuda_emulated import ROUNDINGS, Network, Sample

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    cuda_emulator.required,
    pytest.mark.usefixtures("poisoned"),
]

NETWORKS = {
    exchange: Network("gru", Number.FLOAT32, exchange, sums, 8, hidden, 10, "whole", steps=10)
    for exchange, sums, hidden in (("alone", "shared", 37), ("cluster", "split", 60), ("global", "split", 60))
}
NETWORKS["cluster of few threads"] = replace(NETWORKS["cluster"], sums="in registers", tile=16)
NETWORKS["parts"] = replace(NETWORKS["cluster"], sums="scattered")
NETWORKS["parts through memory"] = replace(NETWORKS["global"], sums="scattered")


@pytest.mark.parametrize("name", ["cluster", *slow(*(name for name in NETWORKS if name != "cluster"))])
def test_the_order_of_threads_and_messages_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS[name]
    kernels = network.install(monkeypatch)
    sample = Sample(network)
    first = list(chain(*sample.run()))
    for seed in range(1, 6):
        for kernel in kernels:
            kernel.seed = seed
        assert all(map(torch.equal, chain(*sample.run()), first))


# What is changed in the kernels' sources, whose kernels then are wrong, and how that shows, whatever the order of threads.
RACE, UNWRITTEN = "race: ", "that nobody has written"
MUTATIONS = {
    "an operand is not waited for": ("alone", r"wait_for_copies<kAhead>", "wait_for_copies<kAhead + 1>", RACE),
    "an operand is waited for by its thread alone": ("alone", r"(wait_for_copies<kAhead>\(\);\s*)__syncthreads\(\);", r"\1", UNWRITTEN),
    "an operand overwrites another": ("cluster", r"kRing - 2", "kRing - 1", RACE),
    "a state is read before it is there": ("alone", r"if constexpr \(kAlone\) __syncthreads\(\);", "", UNWRITTEN),
    "one slot": ("global", r"step & 1\b", "0", RACE),
    "one slot and one barrier": ("cluster", r"step & 1\b", "0", RACE),
    "one phase": ("cluster", r"step >> 1 & 1", "0", f"armed twice|{RACE}"),
    "a barrier is not armed again": ("cluster", r"if \(threadIdx.x == 0\) barrier_expect\([^;]*;", "", "deadlock: .* wait for bytes"),
    "a block starts before another is there": (
        "cluster",
        r"cluster_sync\(\);(\s*\}\s*#endif\s*\}\s*// Sends)",
        r"\1",
        f"{RACE}|barrier is there",
    ),
    "a stage is sent before it is written": ("cluster", r"(Number::operand\(values\[v\]\);\s*)__syncwarp\(\);", r"\1", UNWRITTEN),
    "a stage is written before it is sent": ("cluster of few threads", r"__syncwarp\(\);(\s*#pragma unroll)", r"\1", UNWRITTEN),
    "a flag is not waited for": ("global", r"<= value\)", "< value)", RACE),
    "a flag is waited for by a warp alone": ("global", r"(<= value\) \{\s*\}\s*)__syncthreads\(\);", r"\1", RACE),
    "a flag comes too early": ("global", r"(void publish_flag\([^)]*\) \{\s*)__syncthreads\(\);", r"\1", RACE),
    "a flag never comes": ("global", r"store_release\(flag, value\)", "", "deadlock: .* wait for a flag"),
    "an operand lies outside": ("alone", r"s % kRing\b", "(s % kRing + 1)", "outside of shared memory"),
    "a warp's threads part": (
        "global",
        r"__syncwarp\(\);",
        "if (threadIdx.x % 2) __syncwarp();",
        f"deadlock: .* wait for its warp|{UNWRITTEN}",
    ),
    "a tile's sequences are counted beyond the batch": ("alone", r"b < steps\.B", "b <= steps.B", "outside of all operands|wrong"),
    "the last state is sent": ("cluster", r"\(!kIsLast \|\| s \+ 1 < count\)", "true", "nobody waits for|after its end"),
    "another group's flags": ("global", r"flags \+ group \* kFlags", "flags + (group + 1) * kFlags", "outside of all operands"),
    "bytes across the end": (
        "alone",
        r"(load_own<Step>\(own, d.own, unit0\);)",
        r"\1 *(u16*)(shared + ELMAN_SHARED_BYTES) = 0;",
        "outside of shared memory",
    ),
    "another block's memory": (
        "cluster",
        r"(load_own<Step>\(own, d.own, unit0\);)",
        r"\1 if (rank == 0) *(float*)(shared + All::kBytes) = *(float*)(shared + (ELMAN_SHARED_BYTES + 4096 + 127) / 128 * 128);",
        "another block's shared memory",
    ),
    "an operand is overwritten": (
        "alone",
        r"(ring\.fetch\(steps, s, time\(s\), s < count\);)",
        r"if (s < count && threadIdx.x == 0) *(Storage*)d.projected = Storage(0); \1",
        RACE,
    ),
    "gates are multiplied before they are there": (
        "parts",
        r"(void publish\(int step, const P& product\) \{\s*)__syncthreads\(\);",
        r"\1",
        f"{RACE}|{UNWRITTEN}",
    ),
    "gates overwrite those that are multiplied": ("parts", r"\(step & 1\) \* kVector", "0", RACE),
    "one slot of parts": ("parts", r"step & 1\b", "0", f"armed twice|{RACE}"),
    "one slot of parts through memory": ("parts through memory", r"step & 1\b", "0", RACE),
    "parts are not waited for": (
        "parts",
        r"(void wait\(int step\) const \{\s*#if[^#]*)barrier_wait\([^;]*;",
        r"\1",
        f"armed twice|{RACE}|{UNWRITTEN}",
    ),
    "parts are not waited for through memory": ("parts through memory", r"wait_for_flags<kBlocks>\(flags, step\);", ";", RACE),
    "a part is sent twice": ("parts", r"\(row\(tile\) / kUnits \+ rank\) % kBlocks", "row(tile) / kUnits % 2", f"nobody waits for|{RACE}"),
    "an operand is waited for after the barrier": (
        "parts",
        r"if \(kWaitsEarly\) wait_for_copies<kAhead - 1>\(\);(\s*)(if \(Own::kThere\) own_product.publish\(s\);)",
        r"\2\1wait_for_copies<kAhead - 1>();",
        f"{RACE}|{UNWRITTEN}",
    ),
    "lanes give each other another unit": ("parts", r"upper \? sums\[q\] : sums\[q \+ 2\], 8", "sums[q], 8", "wrong"),
    "a quarter of the blocks is left out": ("parts", r"\(upper \? high : low\) \+", "0.f *", "wrong"),
    "an operand of the step before the first": (
        "alone",
        r"unsigned\(at\) < unsigned\(length\[k\]\)",
        "true",
        "outside of all operands",
    ),
    "an operand is read before it is waited for": ("cluster", r"kWaitsEarly && I::kCount", "I::kCount", f"{RACE}|{UNWRITTEN}"),
    "a row does not move on": ("alone", r"row \+= stride;", "", "wrong"),
    "two tiles are one": ("cluster", r"\(group - side \* call.tiles\) \* kTile", "0", f"{RACE}.*another group"),
}
QUICK = ("an operand is not waited for", "a barrier is not armed again")


@pytest.mark.parametrize("name", [*QUICK, *slow(*(name for name in MUTATIONS if name not in QUICK))])
def test_a_wrong_kernel_is_found(name: str) -> None:
    exchange, wrong, instead, sign = MUTATIONS[name]
    changed = 0

    def mutation(text: str) -> str:
        nonlocal changed
        text, count = re.subn(wrong, instead, text)
        changed += count
        return text

    for seed in range(3):
        found = outcome(NETWORKS[exchange], seed, mutation)
        assert "error:" not in found  # the compiler's
        assert re.search(sign, found)
    assert changed, "the sources have no such place"


def outcome(network: Network, seed: int, mutation: cuda_emulator.Mutation) -> str:
    """What the emulator says of a network: what is wrong with the launch, "wrong" numbers, or nothing."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        network.install(monkeypatch, seed=seed, mutation=mutation)
        sample = Sample(network)
        try:
            errors = sample.errors()
        except AssertionError as error:
            return str(error)
    return "" if all(value <= ROUNDINGS[network.number] for value in errors.values()) else "wrong"


# --- Translation and numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "call"),
    [
        ('asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));', "cvt_rn_bf16_f32(y, x);"),
        ('asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");', "cp_async_wait_group(Pending);"),
        ('asm volatile("a.b.c::d [%0], {%1}, [%2];" ::"r"(f(to, ")")),\n"r"(v.w[0])\n: "memory");', 'a_b_c_d(f(to, ")"), v.w[0]);'),
        ('asm("a.b %0;\\nc.d %0, %1;" : "+f"(d[0]) : "l"(p ? p : q));', "a_b_then_c_d(d[0], p ? p : q);"),
        (
            'asm("{\\n"\n".reg .pred p;\\n"\n"on:\\n"\n"m.try.a::b p, [%0];\\n"\n"@!p bra on;\\n"\n"}" ::"r"(at));',
            "m_try_a_b(at);",
        ),
    ],
)
def test_an_instruction_becomes_a_call(statement: str, call: str) -> None:
    before, after = '{ f("asm"); ', " g(); }"
    assert cuda_emulator.translated(before + statement + after) == f"{before}elman::emulated::ptx::{call}{after}"


def test_numbers_are_converted_as_torch_converts_them(tmp_path: Path) -> None:
    source = '#include "numbers.h"\nusing namespace elman::emulated;\n'
    for name, argument, result in (
        *(("to_bfloat16", "float", "unsigned short"), ("to_float16", "float", "unsigned short"), ("to_tf32", "float", "unsigned")),
        *(("of_bfloat16", "unsigned short", "float"), ("of_float16", "unsigned short", "float")),
    ):
        loop = f"for (int i = 0; i < n; ++i) y[i] = {name}(x[i]);"
        source += f'extern "C" void all_{name}(const {argument}* x, {result}* y, int n) {{ {loop} }}\n'
    (tmp_path / "numbers.cpp").write_text(source, encoding="utf-8")
    path = tmp_path / "numbers.so"
    subprocess.run(
        ["g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-I", cuda_emulator.SOURCES, tmp_path / "numbers.cpp", "-o", path], check=True
    )
    library = ctypes.CDLL(str(path))

    def converted(name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        y = torch.empty(len(x), dtype=dtype)
        getattr(library, f"all_{name}")(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), len(x))
        return y

    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        numbers = every.view(dtype).float()
        assert same(converted(f"of_{name}", every, torch.float32), numbers)
        finite = numbers[numbers.isfinite()].sort().values
        halfway = (finite[1:].double() + finite[:-1].double()) / 2
        x = torch.cat((numbers, halfway.float(), halfway.float().nextafter(torch.tensor(torch.inf)), -halfway.float()))
        x = torch.cat((x, torch.randn(100000).exp() * torch.randn(100000), torch.tensor([65519.0, 65520.0, 1e-8, 3e38, torch.inf])))
        assert same(converted(f"to_{name}", x, dtype).float(), x.to(dtype).float())
    x = torch.randn(100000) * torch.randn(100000).exp()
    mantissa, exponent = x.double().abs().frexp()
    expected = torch.ldexp((mantissa * 2**11 + 0.5).floor(), exponent - 11) * x.sign()
    assert same(converted("to_tf32", x, torch.float32), expected.float())


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.nan_to_num(nan=12345.0), expected.nan_to_num(nan=12345.0))


def test_a_launch_touches_the_operands_of_its_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_emulator.install(monkeypatch)
    parts, sums, others = torch.ones(1, 3, 5), torch.zeros(5), torch.zeros(5)

    def add_up(operands: list[Tensor | None], into: Tensor) -> None:
        places = (len(NO_SCRATCH), len(NO_SCRATCH) + 1)
        command = sum_totals(Number.FLOAT32, At(places[0]), [(At(places[1]), True)], 3, 5, -1)
        addresses = [*addresses_of([*NO_SCRATCH, parts]), into.data_ptr()]
        Commands([command], -1).run(operands, addresses, parts)

    for into in (sums, others):
        add_up([*NO_SCRATCH, parts, into], into)
        assert (into == 3).all()
    with pytest.raises(AssertionError, match="outside of all operands"):
        add_up([*NO_SCRATCH, parts, sums], others)


def test_memory_is_that_of_the_operands_alone() -> None:
    x = torch.zeros(4, 6)
    y, z = torch.zeros(3), torch.zeros(2, dtype=torch.float16)
    rows, column, inner = x[1:3], x[:, 2], x[2:]
    assert cuda_emulator._bounds([None, torch.empty(0), y]) == [y.data_ptr(), y.data_ptr() + 12]
    assert cuda_emulator._bounds([column]) == [x.data_ptr() + 8, x.data_ptr() + 84]
    assert cuda_emulator._bounds([inner, rows]) == [x.data_ptr() + 24, x.data_ptr() + 96]
    assert cuda_emulator._bounds([z, y]) == [
        at for begin, end in sorted([(z.data_ptr(), z.data_ptr() + 4), (y.data_ptr(), y.data_ptr() + 12)]) for at in (begin, end)
    ]
