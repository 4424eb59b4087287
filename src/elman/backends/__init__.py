"""The backends that run a stack of layers, native, cuda, aten and reference, and the registry that chooses one."""

from elman.backends import flops as flops
from elman.backends.backend import Backend
from elman.backends.config import show_config
from elman.backends.operands import Operands
from elman.backends.registry import BACKENDS, choose, explain
from elman.backends.spans import WHOLE, Spans, Traced
from elman.backends.stack import Stack

__all__ = ["BACKENDS", "WHOLE", "Backend", "Operands", "Spans", "Stack", "Traced", "choose", "explain", "show_config"]
