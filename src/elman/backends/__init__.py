"""Who runs a stack of layers: native (our kernels) and reference (plain torch), and the registry that chooses."""

from elman.backends import flops as flops
from elman.backends.backend import Backend
from elman.backends.config import show_config
from elman.backends.registry import BACKENDS, choose, explain
from elman.backends.spans import WHOLE, Spans, Traced
from elman.backends.stack import Stack

__all__ = ["BACKENDS", "WHOLE", "Backend", "Spans", "Stack", "Traced", "choose", "explain", "show_config"]
