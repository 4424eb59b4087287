"""What one step computes: equation, source, pure functions of plain tensors. A cell with a name that is imported here runs by that name."""

from elman.cells.cell import Cell as Cell
from elman.cells.elman import NONLINEARITIES as NONLINEARITIES
from elman.cells.elman import ElmanRelu as ElmanRelu
from elman.cells.elman import ElmanTanh as ElmanTanh
from elman.cells.gru import Gru as Gru
from elman.cells.lstm import Lstm as Lstm
from elman.cells.values import take_step as take_step
from elman.cells.values import trace_step as trace_step
from elman.cells.wrapper import Wrapper as Wrapper
from elman.cells.zoneout import Zoneout as Zoneout

BY_NAME: dict[str, type[Cell]] = {
    cell.name: cell for cell in tuple(globals().values()) if isinstance(cell, type) and issubclass(cell, Cell) and cell.name
}
