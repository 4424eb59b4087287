"""What one step computes: equation, source, pure functions of plain tensors."""

from elman.cells.cell import Cell
from elman.cells.elman import NONLINEARITIES, ElmanRelu, ElmanTanh

BY_NAME: dict[str, type[Cell]] = {cell.name: cell for cell in (ElmanTanh, ElmanRelu)}

__all__ = ["BY_NAME", "NONLINEARITIES", "Cell", "ElmanRelu", "ElmanTanh"]
