"""A step changes nothing that lasts, neither of the cell nor of what it reads; what it makes once and keeps is its own business."""

from __future__ import annotations

import array
import copy
import pickle
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

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
    words = rf"expected the step of Mine not to change the cell or what it reads, got {name} changed \(at {__file__}:\d+\): keep .* trace"
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
}


class Recorder:
    def __init__(self) -> None:
        self.values: list[Any] = []


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

    with pytest.raises(RuntimeError, match=r"the cell or what it reads, got a change at each step \(at .*\): keep .* with trace"):
        build(cell(records))
