"""Where memory runs out inside the kernels, at any allocation: MemoryError, no thread that waits for ever, and the next call is right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from native import required

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    required,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="takes the place of the C library's posix_memalign by LD_PRELOAD"),
    pytest.mark.skipif("ELMAN_SANITIZED" in os.environ, reason="AddressSanitizer has taken the place of posix_memalign"),
]

FAILS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>

/* Of the allocations of the kernels, counted from now on: those from `first` to before `end` fail. Threads may be refused their arenas:
   then each buffer is an allocation. */
#define ARENA (4 << 20)
static atomic_long count, arenas, refuses_arenas, first_failing, end_failing, kernels_begin, kernels_end;
void kernels_are(long begin, long end) { kernels_begin = begin, kernels_end = end; }
void fail(long first, long end) { count = 0, first_failing = first, end_failing = end; }
void refuse_arenas(long refuses) { refuses_arenas = refuses; }
long counted(void) { return count; }
long asked_for_arenas(void) { return arenas; }

int posix_memalign(void** memory, size_t alignment, size_t size) {
  static int (*real)(void**, size_t, size_t);
  if (!real) real = (int (*)(void**, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
  const long from = (long)__builtin_return_address(0);
  if (from >= kernels_begin && from < kernels_end) {
    if (size == ARENA) {
      ++arenas;
      return refuses_arenas ? ENOMEM : real(memory, alignment, size);
    }
    const long now = count++;
    if (now >= first_failing && now < end_failing) return ENOMEM;
  }
  return real(memory, alignment, size);
}
"""

CALLS = """
import ctypes, faulthandler, os, sys
import torch
import elman
from elman import zoo
from elman.backends import kernels

shim = ctypes.CDLL(sys.argv[1])
shim.fail.argtypes = [ctypes.c_long] * 2
shim.counted.restype = shim.asked_for_arenas.restype = ctypes.c_long
shim.refuse_arenas.argtypes = [ctypes.c_long]
shim.kernels_are.argtypes = [ctypes.c_long] * 2
path = os.path.realpath(kernels._native.__file__)
code = [line.split()[0] for line in open("/proc/self/maps") if path in line and " r-xp " in line]
assert len(code) == 1
shim.kernels_are(*(int(each, 16) for each in code[0].split("-")))
arenas = sys.argv[3] == "arenas"
shim.refuse_arenas(not arenas)
faulthandler.dump_traceback_later(100, exit=True)  # a thread waits for one that has given up
torch.set_num_threads(int(sys.argv[2]))
kernels._native.assume_barrier(0.0)  # divides columns, and gives every call its threads
LONG = 1 << 40


def training(rnn, x):
    output, states = rnn(x)
    gradients = torch.autograd.grad(output.square().sum(), [x, *rnn.parameters()])
    return [output.detach(), *gradients]


def inference(rnn, x):
    with torch.no_grad():
        return [rnn(x)[0]]


def streaming(rnn, x):
    with torch.no_grad():
        stream = elman.stream(rnn, batch_size=x.shape[1])
        return [stream.step(each) for each in x]


def tracing(rnn, x):
    traced = rnn.trace(x)
    return [traced.output.detach(), *torch.autograd.grad(traced.output.sum(), list(rnn.parameters()))]


CASES = {
    "LSTM, beyond an arena": (training, elman.LSTM(520, 520), 16),
    "own, beyond an arena": (training, elman.Recurrent(zoo.PeepholeLSTM(), 520, 520), 16),
} if arenas else {
    "LSTM": (training, elman.LSTM(70, 70, num_layers=2, bidirectional=True), 16),
    "GRU, again": (training, elman.GRU(70, 70, recompute=True), 16),
    "projected": (training, elman.LSTM(70, 70, proj_size=33), 16),
    "one sequence": (training, elman.LSTM(128, 128, num_layers=2), 1),
    "bfloat16": (inference, elman.GRU(70, 70).bfloat16(), 16),
    "bfloat16, both ways": (training, elman.LSTM(70, 70, num_layers=2, bidirectional=True).bfloat16(), 16),
    "bfloat16, again": (training, elman.LSTM(70, 70, recompute=True).bfloat16(), 16),
    "stream": (streaming, elman.LSTM(70, 70), 1),
    "trace": (tracing, elman.GRU(70, 70), 16),
    "own, halves": (training, elman.Recurrent(zoo.PeepholeLSTM(), 70, 70), 16),
    "own, two products": (training, elman.Recurrent(zoo.GRU2014(), 70, 70, num_layers=2, bidirectional=True), 5),
    "own, again": (training, elman.Recurrent(zoo.GRU2014(), 70, 70, recompute=True), 16),
    "own, rows": (training, elman.Recurrent(zoo.LayerNormLSTM(), 70, 70), 16),
    "own, blocks": (training, elman.Recurrent(zoo.MinLSTM(), 70, 70), 1),
    "own, stream": (streaming, elman.Recurrent(zoo.MGU(), 70, 70), 1),
    "own, trace": (tracing, elman.Recurrent(zoo.MGU(), 70, 70), 16),
    "own, columns": (training, elman.Recurrent(zoo.GRU2014(), 200, 200), 1),
}
for name, (run, rnn, batch) in CASES.items():
    generator = torch.Generator().manual_seed(0)
    parameter = next(rnn.parameters())
    x = torch.randn(20, batch, rnn.input_size, generator=generator).to(parameter.dtype).requires_grad_()
    expected = run(rnn, x)
    run(rnn, x)  # threads have their arenas by now, or do without
    shim.fail(LONG, LONG)
    run(rnn, x)
    most = shim.counted()
    print(name, most)
    assert most > 0
    for end_after in (1, LONG):
        failed = 0
        for k in range(most + 2):
            shim.fail(k, k + end_after)
            try:
                run(rnn, x)
            except MemoryError as error:
                assert "recompute=True" in str(error)
                failed += 1
            shim.fail(LONG, LONG)
            assert all(map(torch.equal, run(rnn, x), expected)), (name, k)
        assert failed > 0, name
assert shim.asked_for_arenas() > 0
"""


@pytest.mark.parametrize("arenas", ["arenas", "no arenas"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_memory_that_runs_out_is_an_error_and_nothing_else(threads: int, arenas: str, tmp_path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "g++", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "fails.c", tmp_path / "libfails.so"
    source.write_text(FAILS)
    subprocess.run([compiler, "-x", "c", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, str(library), str(threads), arenas],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
