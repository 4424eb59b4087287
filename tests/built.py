"""A pytest plugin: puts the kernels that ELMAN_BUILT names in the place of the installed ones. `make compilers` uses it.

Loaded with ``-p built``, before anything imports elman.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("elman._native", os.environ["ELMAN_BUILT"])
native = module_from_spec(spec)
spec.loader.exec_module(native)
sys.modules[spec.name] = native
