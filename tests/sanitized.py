"""A pytest plugin: puts the kernels that ELMAN_SANITIZED names in the place of the installed ones. `make sanitize` uses it.

Loaded with ``-p sanitized``, before anything imports elman. The package around the kernels is an empty one, which needs no torch: in the
process without it there is nothing but the kernels and what they are given. With ELMAN_SANITIZED_TORCH=1 it is elman itself; torch is not
instrumented, but its memory is guarded.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

library = Path(os.environ["ELMAN_SANITIZED"])
if b"__asan_init" not in library.read_bytes():
    raise RuntimeError(f"{library} was built without AddressSanitizer")
spec = spec_from_file_location("elman._native", library)
native = module_from_spec(spec)
spec.loader.exec_module(native)
sys.modules[spec.name] = native
if os.environ.get("ELMAN_SANITIZED_TORCH") == "1":
    import elman.backends.kernels

    assert elman.backends.kernels._native is native
else:
    package = ModuleType("elman")
    package.__path__ = []
    package._native = native
    sys.modules[package.__name__] = package
