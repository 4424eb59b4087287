"""Tries a cell's step on a small batch of made-up numbers, to find what is wrong with it, and on which line.

It is taken twice on the same numbers, in plain torch: as in training, and, if the cell draws random numbers, as in evaluation.
"""

from __future__ import annotations

import math
import random
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from elman.backends.program.followed import made_for_key
from elman.backends.program.remembered import remember
from elman.backends.program.stand_in import NotRecordedError, words_of
from elman.cells.cell import options_of, place_of
from elman.cells.values import Values, as_states, check_shapes, declared, missing
from elman.layers.errors import brief, place_of_error
from elman.layers.kept import Kept
from elman.layers.uses import UseTracker, leaves_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from elman.cells import Cell

BATCH = 2
_KEEP = "make what stays the same in __init__, keep what lasts from step to step in a state, and look at values with trace"
_TRIES, _WHILE = 5, 0.02  # other threads may draw from Python's and NumPy's generators meanwhile, and in so many seconds


class Findings(NamedTuple):
    """What is odd about a step, though it may be meant.

    Attributes:
        unused: which of its arguments it does not use, as it calls them.
        mixes: whether a sequence's result depends on the others of the batch, or on how many there are.
        trains: whether it trains something that no network of the cell has among its parameters.
    """

    unused: frozenset[str] = frozenset()
    mixes: bool = False
    trains: bool = False


class _Taken(NamedTuple):
    """A step that was taken.

    Attributes:
        states: after it.
        unused: which of its arguments it does not use, as far as is seen.
        trained: what its gradient reaches that is not among its arguments.
    """

    states: tuple[Tensor, ...]
    unused: frozenset[str]
    trained: Sequence[Tensor]


_passed: dict[Hashable, Findings] = {}
_Sizes: TypeAlias = "tuple[int, torch.device, torch.dtype]"


def try_step(cell: Cell, units: int, device: torch.device | str | None, dtype: torch.dtype | None) -> Findings:
    """Take a step of the cell with so many units and raise an error if something is wrong with it: see ``check_cell.as_cell``.

    Not if nothing was wrong with a cell whose step does the same.
    """
    where = torch.device(device) if device is not None else torch.get_default_device()
    where = torch.device("cpu") if where.type == "meta" else where
    dtype = dtype or torch.get_default_dtype()
    sizes = units, where, dtype if dtype is torch.float64 else torch.float32  # narrower ones lack operations on some devices
    try:
        made = made_for_key(cell, lambda key: _passed.get((key, sizes)) or _try(cell, sizes))
    except NotRecordedError:
        return _try(cell, sizes)
    if made is None:
        raise RuntimeError(
            f"expected the step of {type(cell).__name__} not to change the cell or what it reads, got a change at each step"
            f"{place_of(cell)}: {_KEEP}"
        )
    key, found = made
    if (key, sizes) not in _passed:
        remember(_passed, (key, sizes), found)
    return found


def _try(cell: Cell, sizes: _Sizes) -> Findings:
    results, unused, trains = [], [], False
    with torch.inference_mode(False), torch.enable_grad():
        for training in (True, False) if cell.draws else (True,):
            options = options_of(cell)
            for _ in range(_TRIES):
                generators = _generators()
                first = _step(cell, sizes, training)
                kept = Kept(cell)
                second = _step(cell, sizes, training)
                generators_now, changed = _generators(), kept.changed()
                if generators_now == generators and changed is None:
                    break
            else:
                time.sleep(_WHILE)
                if generators_now != generators and _generators() == generators_now:
                    raise RuntimeError(_with_place(_draws(cell), place_of(cell)))
            _check_unchanged(cell, options, changed)
            if not all(map(_are_equal, first.states, second.states)):
                raise RuntimeError(
                    f"expected the step of {type(cell).__name__} to depend on its arguments alone, got other numbers the second time"
                    f"{place_of(cell)}: declare random numbers in draws, and what comes with every step in step_inputs"
                )
            results.append(first.states)
            unused.append(second.unused if training else second.unused | {f"d.{name}" for name in cell.draws})
            # What the step has made is another tensor each time.
            trains |= any(one is other for one in first.trained for other in second.trained)
        idle = frozenset.intersection(*unused)
        if any(_changes(cell, sizes, results[0], partial(_replaced, idle, factor)) for factor in _OTHERS if idle):
            idle = frozenset()
        of_first = [state[:1] for state in results[0]]
        mixes = _changes(cell, sizes, of_first, _all_like_the_first) or _changes(cell, sizes, of_first, _the_first_alone, _are_near)
        return Findings(idle, mixes, trains)


_OTHERS = (math.nan, -40.0)  # by which numbers are multiplied to have others: none, and large ones of the other sign


def _replaced(names: frozenset[str], factor: float, name: str, value: Tensor) -> Tensor:
    """Other numbers for the arguments of these names."""
    return value * factor - 1.0 if name in names else value


def _all_like_the_first(name: str, value: Tensor) -> Tensor:
    """A batch of the same sequence."""
    return value if name.startswith("p.") else value[:1].expand_as(value).clone()


def _the_first_alone(name: str, value: Tensor) -> Tensor:
    """A batch of one sequence."""
    return value if name.startswith("p.") else value[:1].clone()


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def _are_near(one: Tensor, other: Tensor) -> bool:
    """Up to the order in which a batch of another size is summed.

    Two orders of n additions in float32 differ by at most about n · 2^-24 of their largest partial sum: 1e-3 for a product with some 2^14
    numbers; of a result near zero, of numbers of about 1 as the trial's are, 1e-4 for some 2^11. What mixes does so by more.
    """
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


def _changes(
    cell: Cell,
    sizes: _Sizes,
    states: Sequence[Tensor],
    change: Callable[[str, Tensor], Tensor],
    are_the_same: Callable[[Tensor, Tensor], bool] = _are_equal,
) -> bool:
    """Whether other arguments change these states after a step, of the first of its sequences."""
    try:
        others = _step(cell, sizes, True, change).states
    except Exception:
        return True  # an error is another outcome than the states that there were
    return not all(are_the_same(state, other[: len(state)]) for state, other in zip(states, others, strict=True))


def _generators() -> tuple[object, ...]:
    """The states of Python's and NumPy's generators, which a step may draw random numbers from, if only now and then."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), kind, np.asarray(keys).tobytes(), *rest


def _draws(cell: Cell) -> str:
    expected = f"expected the step of {type(cell).__name__} to depend on its arguments alone"
    return f"{expected}, got random numbers drawn in it: declare random numbers in draws"


def _check_unchanged(cell: Cell, options: dict[str, object], changed: str | None) -> None:
    """Raise an error if the step has set an option, or has changed what is called so."""
    now = options_of(cell)
    changed = next((name for name in (*options, *now) if now.get(name) is not options.get(name)), changed)
    if changed is not None:
        raise RuntimeError(
            f"expected the step of {type(cell).__name__} not to change the cell or what it reads, got {changed} changed{place_of(cell)}: "
            f"{_KEEP}"
        )


def _step(cell: Cell, sizes: _Sizes, training: bool, change: Callable[[str, Tensor], Tensor] = lambda name, value: value) -> _Taken:
    """Take a step. ``change`` makes other arguments of its arguments."""
    units, device, dtype = sizes
    count = torch.arange(1, BATCH * units + 1, device=device, dtype=dtype).reshape(BATCH, units).requires_grad_(training)
    numbers = _numbers(count)

    def named(names: Iterable[str]) -> dict[str, Tensor]:
        return {name: next(numbers) for name in names}

    states = named(cell.states)
    gates = named(cell.input_gates)
    columns = {name: each if cell.step_inputs[name] else each[:, :1] for name, each in named(cell.step_inputs).items()}
    parts = named(cell.recurrent_gates)
    own = {name: each[0] if cell.parameters[name] else each[0, 0] for name, each in named(cell.parameters).items()}
    plain = {"s": states, "x": gates | columns, "r": parts, "p": own, "d": named(cell.draws) if training else {}}
    given = {role: {name: change(f"{role}.{name}", each) for name, each in values.items()} for role, values in plain.items()}
    arguments: list[Any] = [
        _ARGUMENTS["x"]("x", cell, given["x"].items()),
        _TriedParts(cell, given["s"][cell.states[0]].shape, given["r"]),
        _ARGUMENTS["s"]("s", cell, given["s"].items()),
        _ARGUMENTS["p"]("p", cell, given["p"].items()),
    ]
    if cell.draws:
        arguments.append(_ARGUMENTS["d"]("d", cell, given["d"].items()) if training else None)
    uses = UseTracker({f"{role}.{name}": each for role, values in given.items() if role != "s" for name, each in values.items()})
    try:
        with uses, _Unwritten(cell), _Undrawn(cell) as undrawn:
            returned = cell.step(*arguments)
        if undrawn.error is not None:  # it was caught
            raise undrawn.error
    except Exception as error:
        raise _told(cell, error, training) from error
    try:
        after = check_shapes(cell, tuple(given["s"].values()), as_states(cell, returned))
    except (RuntimeError, TypeError) as error:
        raise type(error)(_with_place(str(error), place_of(cell))) from None
    return _Taken(after, uses.unused_by(after), [leaf for leaf in leaves_of(after) if leaf is not count])


def _numbers(count: Tensor) -> Iterator[Tensor]:
    """Batches of numbers between -1 and 1, the same ones each time; in training, results of an operation that has gradients."""
    seed = 1
    while True:
        yield torch.sin(count * seed)
        seed += 1


def _told(cell: Cell, error: Exception, training: bool) -> Exception:
    """An error of the step, with the line."""
    place = place_of_error(error) or place_of(cell)
    if cell.draws and not training and str(error).startswith("'NoneType' object has no attribute"):
        mine = f"expected the step of {type(cell).__name__} to run in evaluation, too, where d is None: draw only if d is not None"
        error = _StepError(AttributeError, mine)
    if isinstance(error, _StepError):
        return error.kind(_with_place(str(error), place))
    if isinstance(error, AttributeError) and str(error).startswith("expected the step"):
        return AttributeError(_with_place(str(error), place))
    words = words_of(error) or "no words"
    kind = type(cell).__name__
    if isinstance(error, TypeError) and (given := re.search(rf"\b(?:Argument_([xspd])|{_TriedParts.__name__})\b", words)):
        role = given[1] or "r"
        names = declared(cell)[role][1] or ("n",)
        how = f"write {role}.{names[0]}" + (f" or r({names[0]!r}, v)" if role == "r" else "")
        how += f", or getattr({role}, name)" if "subscriptable" in words else ""
        return TypeError(f"expected the step of {kind} to compute with tensors, got {role} itself{place}: name what you need of it, {how}")
    if isinstance(error, AttributeError) and (asked := re.search(rf"'{kind}' object has no attribute '(\w+)'", words)):
        roles = [role for role, (_, names) in declared(cell).items() if asked[1] in names]
        if roles:
            mine = f"expected the step of {kind} to use {roles[0]}.{asked[1]}, as it is declared, got self.{asked[1]}{place}"
            return AttributeError(f"{mine}: write {roles[0]}.{asked[1]}")
        if asked[1] == "training":
            mine = f"expected the step of {kind} to tell training by its draws, got self.training{place}"
            return AttributeError(f"{mine}: declare draws and ask whether d is None, as it is in evaluation")
    if "'Tensor' object is not callable" in words:
        return TypeError(f"expected the step of {kind} to call r with a gate's name, got a call of a tensor{place}: write r('n', v)")
    if "call numpy()" in words:
        mine = f"expected the step of {kind} to use operations of torch, got one of NumPy{place}"
        return RuntimeError(f"{mine}: write it with torch, whose operations have gradients")
    if "Boolean value of Tensor" in words:
        mine = f"expected the step of {kind} not to branch on a tensor of several numbers, got an if on one{place}"
        return RuntimeError(f"{mine}: write torch.where(condition, a, b)")
    tried = f"expected the step of {kind} to run on a trial batch of {BATCH} sequences"
    return RuntimeError(f"{tried}, got {type(error).__name__}{place}: {words}")


def _with_place(sentence: str, place: str) -> str:
    """The sentence with the place before its hint."""
    words, hint = sentence.rsplit(": ", 1)
    return f"{words}{place}: {hint}"


class _StepError(Exception):
    """What is wrong with a step, and the kind of error for it."""

    def __init__(self, kind: type[Exception], words: str) -> None:
        super().__init__(words)
        self.kind = kind


# A set of values by the name of its role, so that errors about one tell which.
_ARGUMENTS = {role: type(f"Argument_{role}", (Values,), {}) for role in "xspd"}


class _TriedParts(Values):
    """The recurrent parts of a step that is tried. Raises where a gate's rows are used twice."""

    def __init__(self, cell: Cell, shape: torch.Size, parts: dict[str, Tensor]) -> None:
        super().__init__("r", cell, ())
        self._shape = shape
        self._parts = parts
        self._used: dict[str, str] = {}

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            how = f"r.{name}"
            if self._used.get(name) != how:  # the same product may be read again
                self._use(name, how)
            return self._parts[name]

    def __call__(self, gate: Any, v: Any) -> Tensor:
        kind = type(self._cell).__name__
        if not isinstance(gate, str):
            raise _StepError(TypeError, f"expected r(gate, v) in the step of {kind} with a gate's name, got {brief(gate)}: write r('n', v)")
        self._use(gate, f"r({gate!r}, ...)")
        if not isinstance(v, Tensor) or v.shape != self._shape:
            got = f"shape {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
            raise _StepError(
                RuntimeError,
                f"expected r({gate!r}, v) in the step of {kind} with v of shape {tuple(self._shape)}, (B, H), got {got}: "
                "give it a vector of H units for each sequence",
            )
        return self._parts[gate] * v + v.sum(-1, keepdim=True)

    def _use(self, gate: str, how: str) -> None:
        if gate not in self._parts:
            raise AttributeError(missing("r", self._cell, gate))
        if gate in self._used:
            raise _StepError(
                RuntimeError,
                f"expected the step of {type(self._cell).__name__} to use the recurrent rows of gate {gate!r} once, got {how} after "
                f"{self._used[gate]}: declare another gate for the second use",
            )
        self._used[gate] = how


class _Unwritten(TorchFunctionMode):
    """Raises where a step writes to a tensor in place."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self._kind = type(cell).__name__

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [t for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)]
        versions = [t._version for t in tensors]
        result = func(*args, **(kwargs or {}))
        if [t._version for t in tensors] != versions:
            name = getattr(func, "__name__", "an operation").strip("_")
            expected = f"expected the step of {self._kind} not to change a tensor in place"
            raise _StepError(RuntimeError, f"{expected}, got {name}: use an operation that returns a new tensor")
        return result


class _Undrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a step draws from a generator of torch's, before it does."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cell = cell
        self.error: _StepError | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler, which takes a second, to keep it from a step that is not being compiled."""
        return False

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Of any other kind torch 2.8 notes for all threads that it is on: two that make cells would turn its compiler off for good."""
        return not hasattr(_python_dispatch, "any_torch_dispatch_mode_on_stack")

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and self._trains(func, args, kwargs or {}):
            self.error = _StepError(RuntimeError, _draws(self._cell))
            raise self.error
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _trains(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an operator draws that does so in training only, as most do not say."""
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        return all(
            given.get(each.name, each.default_value) is not False for each in func._schema.arguments if each.name in ("train", "training")
        )
