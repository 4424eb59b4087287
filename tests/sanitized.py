"""A pytest plugin: puts the kernels that ELMAN_SANITIZED names in the place of the installed ones. `make sanitize` uses it.

Loaded with ``-p sanitized``, before anything imports elman.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

library = Path(os.environ["ELMAN_SANITIZED"])
if b"__asan_init" not in library.read_bytes():
    raise RuntimeError(f"{library} was built without AddressSanitizer")
spec = spec_from_file_location("elman._native", library)
kernels = module_from_spec(spec)
spec.loader.exec_module(kernels)
sys.modules[spec.name] = kernels
