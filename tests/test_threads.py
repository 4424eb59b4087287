"""The kernels' threads: as many as torch is told to use, asleep between calls, in the way of no fork and of no other thread."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import elman
from elman.backends import kernels
from kinds import GRU, LSTM, TANH, Kind
from native import required, threads

pytestmark = [required, pytest.mark.slow]

TASKS = Path("/proc/self/task")
SIZES, SHAPE = (40, 130), (40, 16, 40)  # large enough for threads


forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
with_kinds = pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)


def _network(kind: Kind) -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(0)
    return kind.build(elman, *SIZES), torch.randn(SHAPE)


def _train(rnn: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """Results and gradients, and of torch's own operators none that takes threads: those of OpenMP do not survive a fork."""
    output, _ = rnn(x)
    return [output.detach(), *torch.autograd.grad(output, list(rnn.parameters()), torch.ones(1).expand_as(output))]


def _same(got: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def _in_a_fresh_process(code: str) -> str:
    """What the code prints, where OpenMP's threads spin between calls, as they do but in tests."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    prologue = f"import os, time, torch, elman\nrnn, x = elman.RNN{SIZES}, torch.randn{SHAPE}\n"
    prologue += "threads = lambda: set(os.listdir('/proc/self/task'))\n"
    command = [sys.executable, "-c", prologue + code]
    result = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc/self/task, which is not here")
def test_as_many_threads_as_torch_is_told_to_use_and_no_more() -> None:
    """Nor more than there are processors, nor any for a call that is not worth them.

    Those of OpenMP, which torch's operators start, are not counted; nor are those that end meanwhile, as GNU's do some time after a smaller
    team was asked for.
    """
    code = """
from elman import _native
_native.assume_barrier(0.0)  # calls take the threads that they may, whether or not that makes them faster
a = torch.randn(600, 600)
with torch.no_grad():
    for n in (1, 3, 2):
        torch.set_num_threads(n)
        a @ a
        before = threads()
        elman.RNN(4, 8)(torch.randn(5, 3, 4))
        small = len(threads() - before)
        rnn(x)  # the first call of all may be one on OpenMP's threads, and so see whether they are awake
        time.sleep(0.05)
        for _ in range(3):
            rnn(x)
        print(small, len(threads() - before))
"""
    three = min(3, len(os.sched_getaffinity(0)))
    assert [int(n) for n in _in_a_fresh_process(code).split()] == [0, 0, 0, three - 1, 0, 0]


def test_threads_sleep_between_calls() -> None:
    code = """
torch.set_num_threads(4)
with torch.no_grad():
    rnn(x)
    time.sleep(0.05)
    rnn(x)
    start = time.process_time()
    time.sleep(0.4)
print(time.process_time() - start)
"""
    assert float(_in_a_fresh_process(code)) < 0.005, "one spinning thread would have used 0.4 seconds, three 0.8 on two cores"


@pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc/self/task, which is not here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """The parent's do not live on in it. Torch's own operators, which share them, run in the child too.

    With one processor there are none to share, and torch's threads would keep its operators waiting in the child.
    """
    code = """
torch.set_num_threads(3 if len(os.sched_getaffinity(0)) > 1 else 1)
a = torch.randn(600, 600)
with torch.no_grad():
    expected, product = rnn(x)[0], a @ a
    child = os.fork()
    if child == 0:
        same = all(torch.equal(rnn(x)[0], expected) for _ in range(20))
        same &= bool(((a @ a - product).abs() <= 2 * 600 * 2**-24 * (a.abs() @ a.abs())).all())  # the BLAS may divide it otherwise
        os._exit(0 if same and len(threads()) >= min(3, len(os.sched_getaffinity(0))) else 1)
    assert torch.equal(rnn(x)[0], expected)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert _in_a_fresh_process(code).strip() == "0"


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@with_kinds
def test_forked_workers_train_as_the_parent_does(kind: Kind) -> None:
    """As a DataLoader's workers are forked: from a process that has run and trained networks on threads.

    With an accelerator, or built for one, torch may let no child of a process that has differentiated differentiate: there they run only.
    """
    rnn, x = _network(kind)
    with threads(2):
        expected = _train(rnn, x)
        results = _in_workers(rnn, x)
    accelerated = torch.version.cuda is not None or torch.version.hip is not None or torch.backends.mps.is_available()
    assert all(len(result) == len(expected) or accelerated for result in results)
    assert all(_same(result, expected[: len(result)]) for result in results)


@forks
def test_forked_workers_train_where_the_parent_has_not() -> None:
    """On any machine: what has run networks and differentiated nothing may have children that train."""
    code = "import test_threads; print(test_threads.trained_in_workers_first())"
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert result.stdout == "True\n", result.stderr


def trained_in_workers_first() -> bool:
    """Whether workers of this process, which has run networks, train them as it does itself afterwards."""
    torch.set_num_threads(2)
    networks = [_network(kind) for kind in (TANH, GRU, LSTM)]
    for rnn, x in networks:
        rnn(x)
    found = [_in_workers(*network) for network in networks]
    return all(_same(result, _train(*network)) for network, results in zip(networks, found, strict=True) for result in results)


def _in_workers(rnn: torch.nn.Module, x: Tensor) -> list[list[Tensor]]:
    dataset = _Trained(rnn, x)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
    results = list(loader)
    assert len(results) == len(dataset)
    return results


class _Trained(torch.utils.data.Dataset[list[Tensor]]):
    """Results and gradients of a network; without the gradients where torch does not differentiate, be it ours or not."""

    def __init__(self, rnn: torch.nn.Module, x: Tensor) -> None:
        self.network = rnn, x

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[Tensor]:
        torch.set_num_threads(2)
        try:
            torch.ones((), requires_grad=True).square().backward()
        except RuntimeError as error:
            if "fork" not in str(error):
                raise
            rnn, x = self.network
            return [rnn(x)[0].detach()]
        return _train(*self.network)


@with_kinds
def test_threads_of_python_may_call_at_once(kind: Kind) -> None:
    """One call has the workers; those that come meanwhile run alone. All are right."""
    rnn, x = _network(kind)
    with threads(3):
        expected = _train(rnn, x)
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: _train(rnn, x), range(64)))
    assert all(_same(result, expected) for result in results)


def test_other_threads_of_python_run_while_a_kernel_does() -> None:
    rnn, x = elman.RNN(64, 512), torch.randn(400, 32, 64)
    counted = 0
    with threads(1), torch.no_grad(), ThreadPoolExecutor(1) as pool:
        call = pool.submit(rnn, x)
        while not call.done():
            counted += 1
            time.sleep(0.0005)
    assert counted > 10, "the interpreter was locked"


@pytest.mark.parametrize(
    "swap", ["for p in gru.parameters(): p.data = torch.zeros(p.shape)", "x.data = torch.zeros(x.shape)"], ids=["parameters", "x"]
)
def test_memory_that_another_thread_takes_from_a_tensor_lives_as_long_as_the_call(swap: str) -> None:
    """``tensor.data = ...`` lets go of what the tensor had: a kernel that runs without the interpreter's lock would read freed memory."""
    code = f"""
import threading
gru, x = elman.GRU(400, 400), torch.randn(20, 8, 400)
done, swaps = False, 0

def replace():
    global swaps
    while not done:
        {swap}
        swaps += 1

thread = threading.Thread(target=replace)
thread.start()
with torch.no_grad():
    for _ in range(150):
        output, _ = gru(x)
        assert output.isfinite().all()
done = True
thread.join()
print(swaps)
"""
    assert int(_in_a_fresh_process(code)) > 10


@pytest.mark.parametrize("barrier", [0.0, 1.0, -1.0], ids=["columns", "no columns", "measured"])
@pytest.mark.parametrize("kind", ["TANH", "projected(100)"])
def test_thousands_of_calls_in_a_row_are_right(kind: str, barrier: float) -> None:
    """A thread that is woken too late, or stays too long, would show in one of many calls. A projection takes two barriers a step."""
    code = f"""
from kinds import TANH, projected
from test_threads import wrong_of_thousands_of_calls
for count in (1, 2, 4):
    print(wrong_of_thousands_of_calls({kind}, count, {barrier}))
"""
    assert _in_a_fresh_process(code).split() == ["0", "0", "0"]


def wrong_of_thousands_of_calls(kind: Kind, count: int, barrier: float) -> int:
    """How many calls on so many threads give other numbers than the first one."""
    kernels._native.assume_barrier(barrier)
    rnn, x = kind.build(elman, 8, 260), torch.randn(40, 1, 8)
    with threads(count), torch.no_grad():
        expected = rnn(x)[0]
        wide = torch.randn(300, 300)
        start, calls, wrong = time.monotonic(), 0, 0
        while calls < 2000 and time.monotonic() - start < 1:
            wrong += not torch.equal(rnn(x)[0], expected)
            calls += 1
            if calls % 16 >= 12:  # OpenMP's threads are awake now, and the next call runs on them
                wide @ wide
            elif calls % 64 == 0:
                time.sleep(0.01)  # all are asleep
    assert calls > 10
    return wrong
