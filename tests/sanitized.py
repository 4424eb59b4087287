"""A pytest plugin: puts the kernels that ELMAN_SANITIZED names in the place of the installed ones. `make sanitize` uses it.

Loaded with ``-p sanitized``, before anything imports elman. The package around the kernels is an empty one: with torch in the process the
sanitizers would have its memory to watch too.
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
package = ModuleType("elman")
package.__path__ = []
spec = spec_from_file_location("elman._native", library)
package._native = module_from_spec(spec)
spec.loader.exec_module(package._native)
sys.modules |= {package.__name__: package, spec.name: package._native}
