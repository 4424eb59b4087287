"""Let torch.compile take Elman's layers, which are torch.nn's by inheritance.

torch's compiler, Dynamo, does not compile torch.nn's recurrent layers: whatever is an instance of RNN, GRU or LSTM breaks the graph, before
it looks at what the layer does. Its setting ``allow_rnn`` lifts that, for torch.nn's own layers as well, which nobody asked for. So it is
lifted for the moment in which Dynamo looks at one of Elman's, and no longer. Dynamo takes seconds to import and most programs never do: the
change waits until it is imported.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_BUILDER = "torch._dynamo.variables.builder"


def allow(layers: type) -> None:
    """Let Dynamo compile instances of this class, whatever they inherit from."""
    finder = _WhenImported(layers)
    sys.meta_path.insert(0, finder)  # first: another thread may begin to import it now
    if _BUILDER in sys.modules:
        builder = importlib.import_module(_BUILDER)  # waits while another thread still imports it
        finder.change(builder)


def _allow(builder: ModuleType, layers: type) -> None:
    wrap_module, config = builder.VariableBuilder.wrap_module, builder.config
    if not hasattr(config, "allow_rnn"):  # a later torch, in which everything is allowed
        return

    def wrap_allowed(self: Any, value: Any) -> Any:
        if not isinstance(value, layers):
            return wrap_module(self, value)
        with config.patch(allow_rnn=True):
            return wrap_module(self, value)

    builder.VariableBuilder.wrap_module = wrap_allowed


class _WhenImported(MetaPathFinder):
    """An import hook that changes Dynamo's module right after its import. If the import fails, it waits for the next one."""

    def __init__(self, layers: type) -> None:
        self._layers = layers

    def change(self, builder: ModuleType) -> None:
        """Change the module unless that has been done, and remove the import hook."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            _allow(builder, self._layers)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _BUILDER:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target)) is not None), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            self.change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec
