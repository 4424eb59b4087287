"""What one step computes: equation, source, pure functions of plain tensors."""

from elman.cells.cell import Cell
from elman.cells.elman import NONLINEARITIES, ElmanRelu, ElmanTanh
from elman.cells.gru import Gru
from elman.cells.lstm import Lstm

BY_NAME: dict[str, type[Cell]] = {cell.name: cell for cell in (ElmanTanh, ElmanRelu, Gru, Lstm)}

__all__ = ["BY_NAME", "NONLINEARITIES", "Cell", "ElmanRelu", "ElmanTanh", "Gru", "Lstm"]
