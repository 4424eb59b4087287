"""From torch.nn's modules to Elman's and back."""

from elman.conversion.convert import convert, to_torch
from elman.conversion.patched import patched

__all__ = ["convert", "patched", "to_torch"]
