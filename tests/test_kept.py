"""A step changes nothing that lasts, neither of the cell nor of what it reads; what it makes once and keeps is its own business."""

from __future__ import annotations

import array
import copy
import functools
import math
import pickle
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

import elman
from own_cells import cell

if TYPE_CHECKING:
    from collections.abc import Callable

SEEN: list[Any] = []
TABLE: dict[str, Any] = {}


def build(made: Any) -> elman.Recurrent[Any]:
    return elman.Recurrent(made, 3, 4)


def refused(name: str) -> Any:
    words = rf"expected the step of Mine not to change the cell or what it reads, got {name} changed \(at {__file__}:\d+\): make .* trace"
    return pytest.raises(RuntimeError, match=words)


# What a step writes to, and how: an option of the cell called kept, which a step has as self.kept.
WRITES: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "a list": (list, lambda kept, h: kept.append(h)),
    "a deque": (lambda: deque(maxlen=1), lambda kept, h: kept.append(h)),
    "a dict": (dict, lambda kept, h: kept.update(h=h)),
    "a set": (set, lambda kept, h: kept.add(h)),
    "a list in a dict": (lambda: {"h": []}, lambda kept, h: kept["h"].append(h)),
    "an object": (lambda: Recorder(), lambda kept, h: kept.values.append(h)),
    "an object's attribute": (lambda: Recorder(), lambda kept, h: setattr(kept, "last", h)),
    "a namespace": (lambda: SimpleNamespace(last=None), lambda kept, h: setattr(kept, "last", h)),
    "a number": (lambda: [0], lambda kept, h: kept.__setitem__(0, kept[0] + 1)),
    "slots": (lambda: Slots(None), lambda kept, h: setattr(kept, "last", h)),
    "a bound method": (lambda: [].append, lambda kept, h: kept(h)),
    "a partial": (lambda: functools.partial(list.append, []), lambda kept, h: kept(h)),
    "a function": (lambda: appending([]), lambda kept, h: kept(h)),
}


class Recorder:
    def __init__(self) -> None:
        self.values: list[Any] = []


@dataclass
class Slots:
    __slots__ = ("last",)
    last: Any


def appending(values: list[Any]) -> Callable[[Any], None]:
    return lambda h: values.append(h)


@pytest.mark.parametrize("name", WRITES)
def test_a_step_that_changes_what_the_cell_holds_is_refused(name: str) -> None:
    make, write = WRITES[name]

    def step(self, x, r, s, p):
        write(self.kept, x.f + r.f)
        return s.h * x.n, s.c * r.n

    made = cell(step)
    made.kept = make()
    with refused("kept"):
        build(made)


def test_two_of_one_name_are_both_looked_at() -> None:
    class Upper(elman.Cell):
        gates = ("n",)
        log: ClassVar[list[Any]] = []

        def step(self, x, r, s, p):
            self.log.append(s.h)
            return torch.tanh(x.n + r.n)

    class Mine(Upper):
        log: ClassVar[list[Any]] = []

    with refused("log"):
        build(Mine())


@pytest.mark.parametrize(
    "value",
    [lambda h: tuple(h.shape), lambda h: str(h.device), lambda h: h.device, lambda h: math.nan, lambda h: h.dtype, lambda h: (1, [2])],
    ids=["a shape", "words", "a device", "NaN", "a dtype", "a tuple with a list"],
)
def test_what_is_written_again_as_it_was_is_no_change(value: Callable[[Any], Any]) -> None:
    same = value(torch.ones(2, 4))

    def step(self, x, r, s, p):
        self.kept["value"] = same if isinstance(same, tuple) and same[0] == 1 else value(x.f)
        return s.h * x.n, s.c * r.n

    made = cell(step)
    made.kept = {}
    build(made)


class Attributes:
    """Has whatever it is asked for."""

    __slots__ = ("data",)
    __module__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.data = {"a": 1}

    def __getattr__(self, name: str) -> Any:
        return self.data[name]


@pytest.mark.parametrize("make", [Attributes, lambda: [(k, str(k)) for k in range(300_000)]], ids=["an object", "much"])
def test_what_lies_beside_the_step_is_not_stirred(make: Callable[[], Any]) -> None:
    def step(self, x, r, s, p):
        return s.h * self.scale, s.c

    made = cell(step)
    made.scale, made.kept = torch.ones(4), make()
    build(made)


def test_threads_may_build_cells_that_note_where_they_are_made() -> None:
    class Noted(elman.Cell):
        gates = ("n",)
        made: ClassVar[list[int]] = []

        def __init__(self, option: torch.Tensor) -> None:
            self.option = option
            self.made.append(1)

        def step(self, x, r, s, p):
            return torch.tanh(x.n + r.n) * self.option

    def build_some(_: int) -> None:
        for _ in range(10):
            build(Noted(torch.ones(4)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build_some, range(4)))
    graphs: list[Any] = []  # torch compiles as before
    torch.compile(torch.nn.Linear(2, 2), backend=lambda graph, _: graphs.append(graph) or graph.forward)(torch.ones(3, 2))
    assert len(graphs) == 1


def appends_to_a_global(self, x, r, s, p):
    SEEN.append(s.h)
    return s.h, s.c


def helper(h: Any) -> None:
    TABLE["last"] = h


def writes_by_a_helper(self, x, r, s, p):
    helper(s.h)
    return s.h, s.c


def test_a_step_that_changes_a_global_is_refused() -> None:
    with refused("SEEN"):
        build(cell(appends_to_a_global))
    with refused("TABLE"):
        build(cell(writes_by_a_helper))


def test_a_step_that_changes_what_its_class_or_a_closure_holds_is_refused() -> None:
    log: list[Any] = []

    def by_closure(self, x, r, s, p):
        log.append(s.h)
        return s.h, s.c

    def by_class(self, x, r, s, p):
        self.shared.append(s.h)
        return s.h, s.c

    with refused("log"):
        build(cell(by_closure))
    with refused("shared"):
        build(cell(by_class, shared=[]))


def test_a_step_that_cannot_be_followed_may_not_change_its_cell_either() -> None:
    def step(self, x, r, s, p):
        globals()
        self.kept.append(s.h)
        return s.h, s.c

    made = cell(step)
    made.kept = []
    with refused("kept"):
        build(made)


@pytest.mark.parametrize("value", [0.5, torch.ones(4), torch.ones(())], ids=["a number", "a vector", "a tensor of one number"])
def test_what_a_step_makes_once_is_kept(value: Any) -> None:
    kept: dict[str, Any] = {}

    def step(self, x, r, s, p):
        if "half" not in kept:
            kept["half"] = value
        return s.h * kept["half"], s.c

    def step_of_option(self, x, r, s, p):
        self.table.setdefault("half", value)
        return s.h * self.table["half"], s.c

    x = torch.randn(5, 2, 3)
    build(cell(step))(x)
    made = cell(step_of_option)
    made.table = {}
    build(made)(x)


def test_a_cell_that_holds_itself_is_built() -> None:
    def step(self, x, r, s, p):
        return s.h * self.kept[1], s.c

    made = cell(step)
    made.kept = [made, 2.0]
    output, _ = build(made)(torch.randn(5, 2, 3), (torch.ones(1, 2, 4), torch.ones(1, 2, 4)))
    torch.testing.assert_close(output[-1], torch.full((2, 4), 32.0))


class Listing(elman.Cell):
    gates = ("n",)

    def __init__(self) -> None:
        self.scales = [0.5, 0.25]

    def step(self, x, r, s, p):
        return torch.tanh(x.n + r.n) * self.scales[0]


def test_a_cell_with_lists_is_pickled_and_copied_after_its_network_has_run() -> None:
    net, x = elman.Recurrent(Listing(), 3, 4), torch.randn(5, 2, 3)
    expected = net(x)[0]
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):  # noqa: S301 - our own
        assert torch.equal(again(x)[0], expected)


def test_a_step_that_changes_what_no_list_shows_is_refused() -> None:
    seen = array.array("d")

    def records(self, x, r, s, p):
        seen.append(1.0)
        return s.h, s.c

    with pytest.raises(RuntimeError, match=r"the cell or what it reads, got a change at each step \(at .*\): make .* with trace"):
        build(cell(records))
