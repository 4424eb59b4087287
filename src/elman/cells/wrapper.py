"""A cell that wraps another cell and changes the result of its step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elman.cells.cell import Cell

if TYPE_CHECKING:
    from torch import Tensor


class Wrapper(Cell):
    """A cell with the gates, states and parameters of another cell, whose step it takes.

    Args:
        cell: the other cell.
        draws: random numbers of its own, as ``Cell.draws`` declares them, beside those of the other cell.

    Raises:
        TypeError: cell is not a cell.
        ValueError: both cells draw numbers of one name.
    """

    def __init__(self, cell: Cell, draws: dict[str, str] | None = None) -> None:
        if not isinstance(cell, Cell):
            is_class = isinstance(cell, type) and issubclass(cell, Cell)
            got = f"the class {cell.__name__}: make one with {cell.__name__}()" if is_class else type(cell).__name__
            raise TypeError(f"expected {type(self).__name__} to hold an elman.Cell, got {got}")
        self.cell = cell
        self._draws = draws or {}
        if shared := [name for name in self._draws if name in cell.draws]:
            raise ValueError(f"expected {type(self).__name__} to draw numbers of other names than {type(cell).__name__}, got {shared[0]!r}")

    # What it declares is what the other cell declares.
    gates = property(lambda self: self.cell.gates)
    states = property(lambda self: self.cell.states)
    input_gates = property(lambda self: self.cell.input_gates)
    recurrent_gates = property(lambda self: self.cell.recurrent_gates)
    parameters = property(lambda self: self.cell.parameters)
    step_inputs = property(lambda self: self.cell.step_inputs)
    draws = property(lambda self: {**self.cell.draws, **self._draws})

    def init(self, name: str, tensor: Tensor) -> bool:
        return self.cell.init(name, tensor)

    def step_inside(self, x: Any, r: Any, s: Any, p: Any, d: Any = None) -> tuple[Any, ...]:
        """The states after the other cell's step."""
        after = self.cell.step(x, r, s, p, d) if self.cell.draws else self.cell.step(x, r, s, p)
        return tuple(after) if isinstance(after, (tuple, list)) else (after,)
