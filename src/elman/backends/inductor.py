"""The operators in code that Inductor generates: direct calls of the CPU kernels, without torch's dispatcher.

The dispatcher and what follows take longer for an operator of so many arguments than the kernels for a small network. Code for AOTInductor,
which is C++, code for a GPU, and other compilers call the operators.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch

from elman.backends import kernels

if kernels.available():
    from elman import _native

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch._ops import OpOverload

    States = tuple[Tensor, ...] | None
    FirstOperands = tuple[
        tuple[object, ...], list[Tensor], Tensor, States, States, Tensor | None, Tensor | None, Tensor | None, bool, bool, int
    ]

_taught: set[OpOverload] = set()


# The code calls these two, whose names and arguments are the operators' own: torch keeps code on disk, which outlives a version of Elman.


def scan(x: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: list[Tensor], *rest: Any) -> tuple[Tensor | None, ...]:
    """``torch.ops.elman.scan``, with None for absent tensors."""
    *spans_and_sizes, save = rest
    try:
        output, finals, hidden, steps, checkpoints = _native.forward(*_first_operands(x, h_0, c_0, params, *spans_and_sizes), save=save)
    except (RuntimeError, TypeError):  # what lies as the kernels do not read it is copied there, and what is wrong is told
        results: tuple[Tensor, ...] = torch.ops.elman.scan.default(x, h_0, c_0, params, *rest)
        return results
    return output, finals[0], finals[-1], hidden, steps, checkpoints


def scan_backward(grad_output: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None, *rest: Any) -> list[Tensor]:
    """``torch.ops.elman.scan_backward``."""
    inputs, (output, hidden, steps, checkpoints), (*sizes, needs_grad) = rest[:9], rest[9:13], rest[13:]
    grad_finals = (grad_h_n, grad_c_n)[: kernels.CELLS[sizes[0]][1]]
    operands = _first_operands(*inputs, *sizes)
    try:
        gradients = _native.backward(
            *operands, output, hidden, steps, checkpoints, grad_output, None, None, grad_finals, needs_grad=tuple(needs_grad)
        )
    except (RuntimeError, TypeError):
        results: list[Tensor] = torch.ops.elman.scan_backward.default(grad_output, grad_h_n, grad_c_n, *rest)
        return results
    return [gradient for gradient in gradients if gradient is not None]


def _first_operands(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    fresh_h: Tensor | None,
    fresh_c: Tensor | None,
    cell: str,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    proj_size: int,
    recompute: bool,
    batch_first: bool,
) -> FirstOperands:
    """The first operands of both kernels, from those of the operators."""
    numbers = cell, x.shape[-1], hidden_size, proj_size, num_layers, 2 if bidirectional else 1, bias, recompute, 0, 0
    states, fresh = given(h_0, c_0), given(fresh_h, fresh_c)
    return numbers, params, x, states, fresh, batch_sizes, lengths, reset, batch_first, True, torch.get_num_threads()


def given(first: Tensor | None, second: Tensor | None) -> tuple[Tensor, ...] | None:
    """The states that are not None."""
    if second is None:
        return None if first is None else (first,)
    return (second,) if first is None else (first, second)


def teach(operator: OpOverload, module: str, x: Callable[..., Any], gives_none: bool) -> None:
    """If Inductor is in use, make it generate calls of a function instead of the operator.

    Called while a compiler looks at the operator, which comes before Inductor writes code: nobody else waits for Inductor to load, which
    takes seconds. Nothing of this is a public interface of torch: where it is not as expected, Inductor writes calls of the operator.

    Args:
        module: where the function is. It has the operator's name and arguments.
        x: gives the input, of the operator's arguments.
        gives_none: whether the function gives None for an absent tensor, which the operator gives as an empty one.
    """
    if operator in _taught or "torch._inductor.graph" not in sys.modules or not kernels.available():
        return
    _taught.add(operator)
    from torch._inductor import lowering

    # Where CI is set in the environment, Inductor refuses to call an operator for which torch's table has a decomposition, unless told so.
    lowering.make_fallback(operator, warn=False)  # type: ignore[no-untyped-call]
    with suppress(ImportError, AttributeError, TypeError):
        _teach(operator, module, x, gives_none)


def _teach(operator: OpOverload, module: str, x: Callable[..., Any], gives_none: bool) -> None:
    from torch._inductor import lowering
    from torch._inductor.ir import FallbackKernel, TensorBox
    from torch._inductor.virtualized import V

    class Call(FallbackKernel):
        is_direct = False

        def codegen(self, wrapper: Any) -> None:
            if self.is_direct:
                function = operator._schema.name.rpartition(":")[2]
                self.python_kernel_name = f"elman_{function}"
                wrapper.add_import_once(f"from {module} import {function} as {self.python_kernel_name}")
            super().codegen(wrapper)

    def lower(*given: Any) -> Any:
        results: Any = Call.create(operator, *given)
        writes_python = not V.graph.cpp_wrapper and not getattr(V.graph, "fx_wrapper", False)
        uses = [results[user.args[1]] if user.target is getitem else None for user in V.graph.current_node.users]
        if (
            writes_python
            and x(*given).get_device().type == "cpu"
            and x(*given).get_dtype() in kernels.NUMBERS
            and (not gives_none or all(use is not None and list(use.get_size()) != [0] for use in uses))  # none is asked for
        ):
            results[0].inputs[0].is_direct = True
            for result in results:
                result.skip_size_stride_alignment_checks = True  # the kernels made it, of this size
        return [TensorBox.create(result) for result in results]

    lowering.register_lowering(operator, type_promotion_kind=None)(lower)
