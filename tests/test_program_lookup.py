"""Programs are found by what a cell is: the same for cells that are alike, another as soon as anything changes that the step depends on."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from elman import Cell
from elman.backends.program import lookup, remembered
from elman.backends.program.lookup import program_of
from elman.backends.program.stand_in import NotRecordedError
from elman.cells.cell import place_of
from program_cells import LSTM, Noisy

if TYPE_CHECKING:
    from collections.abc import Callable

SCALE = 2.0


class Leaky(Cell):
    gates = ("h",)
    slope = 0.5

    def __init__(self, **options: Any) -> None:
        vars(self).update({"alpha": 0.1, **options})

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        alpha = self.alpha  # type: ignore[attr-defined]
        if isinstance(alpha, dict | list | tuple):
            alpha = alpha[0]
        return (1 - alpha) * s.h + alpha * self.slope * SCALE * torch.tanh(x.h + r.h)


class Wrapper(Cell):
    """A cell that holds a cell."""

    def __init__(self, cell: Any) -> None:
        self.cell = cell
        self.gates, self.states = cell.gates, cell.states

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return 0.5 * self.cell.step(x, r, s, p)


def found(cell: Any, **options: Any) -> Any:
    return program_of(cell, torch.float32, **options)


def test_cells_that_are_alike_share_a_program() -> None:
    assert found(Leaky()) is found(Leaky())
    assert found(Leaky(alpha=[0.1])) is found(Leaky(alpha=[0.1]))
    assert found(Wrapper(Leaky())) is found(Wrapper(Leaky()))
    assert found(Leaky(alpha=0.3)) is found(copy.deepcopy(Leaky(alpha=0.3)))


def test_a_found_program_is_not_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = found(Leaky(alpha=0.7))
    monkeypatch.setattr(lookup, "record", None)
    assert found(Leaky(alpha=0.7)) is first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.1, 0.2),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ([0.1], (0.1,)),
        ([0.1], [0.2]),
        ({0: 0.1}, {0: 0.3}),
        (torch.tensor(0.1), torch.tensor(0.2)),
        (np.float32(0.5), np.float32(0.25)),
        (np.float32(0.5), 0.5),
    ],
    ids=str,
)
def test_another_option_is_another_program(one: Any, other: Any) -> None:
    assert found(Leaky(alpha=one)) is not found(Leaky(alpha=other))
    changed = Leaky(alpha=one)
    before = found(changed)
    changed.alpha = other  # type: ignore[attr-defined]
    assert found(changed) is not before
    changed.alpha = one  # type: ignore[attr-defined]
    assert found(changed) is before


def _in_a_list(cell: Any) -> None:
    cell.alpha[0] = 0.77


def _of_the_held_cell(cell: Any) -> None:
    cell.cell.alpha = 0.77


@pytest.mark.parametrize(
    ("cell", "change"), [(Leaky(alpha=[0.4]), _in_a_list), (Wrapper(Leaky()), _of_the_held_cell)], ids=["list", "cell"]
)
def test_a_change_deep_inside_is_seen(cell: Any, change: Callable[[Any], None]) -> None:
    before = found(cell)
    change(cell)
    assert "0.77" in str(found(cell).forward)
    assert "0.77" not in str(before.forward)


def test_a_change_of_the_class_or_of_a_global_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, programs = Leaky(), [found(Leaky())]
    monkeypatch.setattr(Leaky, "slope", 0.25)
    programs.append(found(cell))
    monkeypatch.setattr(f"{__name__}.SCALE", 3.0)
    programs.append(found(cell))
    monkeypatch.setattr(Leaky, "step", lambda self, x, r, s, p: x.h)
    programs.append(found(cell))
    assert len({str(each.forward) for each in programs}) == 4
    monkeypatch.undo()
    assert str(found(cell).forward) == str(programs[0].forward)


def test_functions_are_options() -> None:
    class Activated(Cell):
        gates = ("h",)

        def __init__(self, function: Any) -> None:
            self.function = function

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return self.function(x.h + r.h)

    def scaled(factor: float) -> Callable[[Any], Any]:
        return lambda value: value * factor

    assert found(Activated(torch.tanh)) is found(Activated(torch.tanh))
    assert found(Activated(torch.tanh)) is not found(Activated(torch.sigmoid))
    assert str(found(Activated(scaled(0.3))).forward) != str(found(Activated(scaled(0.6))).forward)
    assert found(Activated(torch.nn.Tanh())) is found(Activated(torch.nn.Tanh()))
    assert found(Activated(torch.nn.LeakyReLU(0.1))) is not found(Activated(torch.nn.LeakyReLU(0.2)))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(NotRecordedError, match="does not run a cell that reads a tensor of more than one number"):
        found(Leaky(table=torch.ones(3)))
    with pytest.raises(NotRecordedError, match="does not run a cell with an option of type generator"):
        found(Leaky(table=(each for each in "ab")))


def test_a_refusal_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sorting(Leaky):
        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return torch.sort(x.h)[0]

    messages = []
    for _ in range(2):
        with pytest.raises(NotRecordedError) as caught:
            found(Sorting())
        messages.append(str(caught.value))
        monkeypatch.setattr(lookup, "record", None)
    assert messages[0] == messages[1]
    assert messages[0].startswith("does not run the operation sort, at test_program_lookup.py:")


def test_a_step_that_changes_the_cell_is_an_error() -> None:
    class Counting(Leaky):
        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            self.count = getattr(self, "count", 0) + 1
            return x.h

    with pytest.raises(
        RuntimeError, match=r"the step of Counting not to change .* got a change \(at .*test_program_lookup\.py:\d+\): keep"
    ):
        found(Counting())


def test_so_is_one_that_changes_what_a_class_in_it_holds() -> None:
    class Collecting(Leaky):
        class Seen:
            values: list[Any] = []  # noqa: RUF012

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            self.Seen.values.append(1.0)
            return x.h

    with pytest.raises(RuntimeError, match="the step of Collecting not to change"):
        found(Collecting())


def test_the_place_of_a_wrapped_step_is_its_own() -> None:
    def step(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        return x.h

    @functools.wraps(step)
    def wrapped(*arguments: Any) -> Any:
        return step(*arguments)

    cell = type("Wrapped", (Leaky,), {"step": wrapped})()
    assert place_of(cell).endswith(f"test_program_lookup.py:{step.__code__.co_firstlineno})")


def test_draws_dtype_and_trace_are_programs_of_their_own() -> None:
    assert found(Noisy(), draws=True) is not found(Noisy())
    assert found(LSTM(), draws=True) is found(LSTM())  # which has none
    assert found(LSTM(), traced=True).gates == 4
    assert found(LSTM()).gates == 0


def test_programs_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_MOST", 3)
    monkeypatch.setattr(lookup, "_found", {})
    cells = [Leaky(alpha=float(each)) for each in range(5)]
    programs = [found(each) for each in cells]
    assert len(lookup._found) == 3
    assert [found(each) is one for each, one in zip(cells[2:], programs[2:], strict=True)] == [True] * 3
