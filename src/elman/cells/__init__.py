"""What one step computes: equation, source, pure functions of plain tensors."""

from elman.cells.cell import Cell
from elman.cells.elman import NONLINEARITIES, ElmanRelu, ElmanTanh

__all__ = ["NONLINEARITIES", "Cell", "ElmanRelu", "ElmanTanh"]
