"""The kernels as Python calls them. Operands are plain tensors, NumPy arrays or other buffers, or None; all are looked at in C++.

What does not fit raises a RuntimeError that says what was expected and what came, a TypeError or a ValueError, and nothing is written.

A stack is told as (cell, I, H, P, L, D, bias, recompute, members, left_out), P being 0 without a projection (``Stack.numbers``). Where
members is not 0, all operands have an axis of so many before those that are said here: an ensemble's. Where left_out is not 0, x, the
output, the states and their gradients lack so many of the first axes that are said here. Functions are numbered 0 (tanh), 1 (relu) and 2
(sigmoid), number types 0 (float32) and 1 (float64). Operands are of one dtype: float32, float64, or for ``forward`` with nothing saved
bfloat16, for which in a buffer uint16 stands. csrc/kernels.h says what each is for; their shapes:

x, output, grad_output, grad_x: (T, B, columns), with ``batch_first`` (B, T, columns), packed (N, columns); each row contiguous.
batch_sizes, (T,), or lengths, (B,): int64, contiguous; neither: every sequence has all steps. reset: (T, B), bool or uint8.
params, grad_params: a list or tuple in torch's order. initial, final, fresh and their gradients: of one for each of the cell's states.
hidden, saved, checkpoints and their gradients: contiguous, (..., D*P), (..., K, H) and (..., H). All but params may be None, or have
None in them, where kernels.h has "may be null".
"""

from collections.abc import Sequence
from typing import Any

def use(isa: str, /) -> None: ...
def isa() -> str: ...
def assume_barrier(seconds: float, /) -> None: ...
def allow_pairs(allowed: int, /) -> None: ...
def threads_used() -> int: ...
def usable_processors() -> int: ...
def processor_quota(membership: str, mount: str, /) -> float: ...
def isas() -> list[str]: ...
def peak(threads: int) -> float: ...

class ContractError(RuntimeError):
    """An operand is not as a call needs it: what was expected, and what came."""

def know_tensors(classes: tuple[type, ...], /) -> None: ...
def offer_exchange(capsule: object, /) -> None: ...
def reads(shapes: tuple[tuple[int, ...], ...], params: Sequence[object], /) -> bool: ...
def cells() -> dict[str, tuple[int, int, int]]: ...
def activation(function: int, source: object, target: object, /) -> None: ...
def forward(
    stack: tuple[object, ...],
    params: Sequence[object],
    x: object,
    initial: Sequence[object] | None,
    fresh: Sequence[object] | None,
    batch_sizes: object,
    lengths: object,
    reset: object,
    batch_first: bool,
    pad_saved: bool,
    threads: int,
    /,
    output: object = None,
    final: Sequence[object] | None = None,
    hidden: object = None,
    saved: object = None,
    checkpoints: object = None,
    save: bool = False,
    grad_mode: bool = False,
) -> Any:
    """Run a stack: (output, final, hidden, saved, checkpoints), in the memory given, or in memory made like x.

    The last three are made with ``save``. With ``grad_mode``, that is whether a gradient flows to any operand, and the last of the results.
    """

def backward(
    stack: tuple[object, ...],
    params: Sequence[object],
    x: object,
    initial: Sequence[object] | None,
    fresh: Sequence[object] | None,
    batch_sizes: object,
    lengths: object,
    reset: object,
    batch_first: bool,
    pad_saved: bool,
    threads: int,
    output: object,
    hidden: object,
    saved: object,
    checkpoints: object,
    grad_output: object,
    /,
    grad_hidden: object = None,
    grad_saved: object = None,
    grad_final: Sequence[object] | None = None,
    grad_x: object = None,
    grad_initial: Sequence[object] | None = None,
    grad_fresh: Sequence[object] | None = None,
    grad_params: Sequence[object] | None = None,
    needs_grad: tuple[bool, ...] | None = None,
) -> list[Any]:
    """Write a run's gradients to the memory given; or make those that ``needs_grad`` says, whose entry more is for the gate gradients.

    Then they are returned: of x, of the initial states, of the fresh states and of the parameters, in one list, None where not made.
    """

def program(
    infer: tuple[object, ...],
    train: tuple[object, ...],
    backward: tuple[object, ...],
    products: Sequence[Sequence[int]],
    counts: Sequence[int],
    own: Sequence[bool],
    step_inputs: Sequence[bool],
    /,
) -> object:
    """The step of a cell and its gradient (``elman.backends.program``), checked: a ValueError says what cannot be run.

    A code is (instructions, operands, constants, stages, temps, carries); counts are of inputs, recurrents, states, draws, gates, saved.
    """

def program_operations(program: object, /) -> list[list[str]]:
    """The names of the instructions that run at each step: forward in inference, in training, and backward."""

def program_forward(
    program: object,
    stack: tuple[object, ...],
    params: Sequence[object],
    x: object,
    initial: Sequence[object] | None,
    fresh: Sequence[object] | None,
    lengths: object,
    reset: object,
    step_inputs: Sequence[object],
    draws: Sequence[object],
    batch_first: bool,
    threads: int,
    save: bool,
    grad_mode: bool,
    /,
    output: object = None,
    hidden: object = None,
    traced: Sequence[object] | None = None,
) -> Any:
    """Run a program: (output, final, hidden, kept), the last two with ``save``. The stack's cell is not looked at.

    step_inputs: (T, B) or (T, B, H) each; draws: (L*D, T, B, H) or (L*D, B, H); traced, written: (L*D, T, B, H) for each state but the
    first and each gate, and then hidden is given too. With ``grad_mode``, ``save`` is whether a gradient flows to any operand, and the last
    of the results.
    """

def program_backward(
    program: object,
    stack: tuple[object, ...],
    params: Sequence[object],
    x: object,
    initial: Sequence[object] | None,
    fresh: Sequence[object] | None,
    lengths: object,
    reset: object,
    step_inputs: Sequence[object],
    draws: Sequence[object],
    batch_first: bool,
    threads: int,
    output: object,
    hidden: object,
    kept: object,
    grad_output: object,
    grad_hidden: object,
    grad_final: Sequence[object] | None,
    grad_traced: Sequence[object] | None,
    traced: bool,
    needs_grad: tuple[bool, ...],
    /,
) -> list[Any]:
    """The gradients of x, the initial states, the fresh states, the step inputs (of several directions those in each), and the parameters,
    where needed.
    """

class Stream:
    """A network that runs a step at a time: weights packed once, states written where they lie. Of torch it knows nothing."""

    def __init__(
        self,
        stack: tuple[object, ...],
        batch: int,
        params: Sequence[object],
        states: Sequence[object],
        fresh: tuple[tuple[object, ...], ...],
        entries: dict[str, Any],
        names: Sequence[str],
        /,
    ) -> None: ...
    def is_current(self) -> bool: ...
    def step(self, x: object, out: object | None, /) -> Any: ...

class Commands:
    """Launches, products and copies for a GPU's stream, in their order, by functions of other libraries, whose addresses the caller knows.

    Not for two threads at a time. A place is (operand, offset in bytes); operand 0 is the products' workspace.
    """

    def add_launch(
        self,
        function: int,
        kernel: int,
        grid: int,
        block: int,
        shared_bytes: int,
        params: bytes,
        places: Sequence[tuple[int, int, int]],
        /,
    ) -> None:
        """By cuLaunchKernel or cuLaunchCooperativeKernel. ``places``: where in params an address is put, in bytes, and of which place."""

    def add_product(
        self,
        multiply: int,
        set_attribute: int,
        handle: int,
        description: int,
        factors: tuple[int, int],
        layouts: tuple[int, int, int],
        choice: int,
        workspace: int,
        matrices: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
        vector: tuple[int, int],
        /,
    ) -> None:
        """By cublasLtMatmul: the places of its A, B and D, and of the vector of its epilogue, (-1, 0) for none."""

    def add_copy(self, function: int, source: tuple[int, int], out: tuple[int, int], size: int, /) -> None:
        """Of so many bytes from one place to another, by cuMemcpyDtoDAsync."""

    def add_stop(self) -> None:
        """Something that the caller does."""

    def run(self, first: int, operands: Sequence[int], stream: int, /) -> int:
        """Put them onto the stream, from the first-th on: which one could not be, or how many there are."""

class Tuner:
    """How many threads a call runs on (csrc/tuner.h), for tests: the kernels have one of their own."""

    def __init__(self) -> None: ...
    def choose(self, kind: int, multiply_adds: float, most: int, /) -> int: ...
    def learn(self, kind: int, multiply_adds: float, threads: int, seconds: float, /) -> None: ...
