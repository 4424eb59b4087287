"""The native backend: our C++ kernels, on the CPU, in float32, float64, bfloat16 and float16.

Calls that they do not support are refused and go to the reference. Gradients come from one node of torch's graph (``autograd``). float16
runs in float32: its numbers are exact there, and results are rounded once, where a call ends. Under autocast the network runs in its dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _is_any_autocast_enabled

from elman.backends import call, kernels, mapped
from elman.backends.autograd import Scan, of_node
from elman.backends.kernel_backend import KernelBackend, has_gradient, is_watched
from elman.backends.operands import Operands
from elman.backends.program import run as programs
from elman.backends.reference import REFERENCE
from elman.backends.savable import savable
from elman.backends.spans import WHOLE, Spans, Traced

if kernels.available():
    from elman import _native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.stack import Stack

_AVAILABLE = kernels.available()


@final
class NativeBackend(KernelBackend):
    name = "native"
    device = "cpu"

    @property
    def label(self) -> str:
        return f"native ({kernels.isa()})" if kernels.available() else "native"

    def unavailable_reason(self) -> str | None:
        return kernels.unavailable_reason()

    def refuses(self, stack: Stack, operands: Operands) -> str | None:
        x, states, params, spans = operands
        if not _AVAILABLE:
            return f"is not built here ({kernels.unavailable_reason()})"
        if not x.is_cpu:
            return f"does not run on {x.device.type} (CPU only)"
        if x.dtype not in kernels.NUMBERS and x.dtype is not torch.float16:
            return f"does not run {_name(x.dtype)} (float32, float64, bfloat16 and float16 only)"
        others = (*params, *(states or ()), *(spans.fresh or ()), *(spans.step_inputs or ()))
        if torch.is_autocast_enabled("cpu") and any(t.dtype is torch.float64 for t in (x, *others)):
            return "does not run float64 under autocast"
        if stack.cell.name not in kernels.CELLS and (why_not := programs.refusal(stack, operands)) is not None:
            return why_not
        return self.refuses_call(stack, operands)

    def run(self, stack: Stack, operands: Operands, batch_first: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        if _is_widened(stack, operands.x) and not torch.is_autocast_enabled("cpu"):
            output, finals = self.run(stack, operands.to(torch.float32), batch_first)
            return output.to(operands.x.dtype), tuple([final.to(operands.x.dtype) for final in finals])
        if stack.cell.name not in kernels.CELLS:
            return programs.run(stack, operands, batch_first)
        return super().run(stack, operands, batch_first)

    def run_autocast(self, stack: Stack, operands: Operands, batch_first: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``run`` is under autocast to bfloat16 or float16, with results of the dtypes that torch's operators give.

        There, products have autocast's dtype, and so has what comes of them alone. States that are sums over many steps (``Cell.sums``: a
        GRU's h, an LSTM's c) keep their dtype (of bfloat16 and float16 together comes float32), an LSTM's h has that of c. The kernels hold
        c in float32 for the length of a call; a cell whose output is a sum runs in its dtype.
        """
        runs, *given = _autocast_dtypes(stack, operands.x, operands.states)
        return _in_dtypes(self.run(stack, operands.to(runs), batch_first), *given)

    def trace(self, stack: Stack, operands: Operands) -> Traced:
        if operands.x.dtype is torch.float16 and not torch.is_autocast_enabled("cpu"):
            return self.trace(stack, operands.to(torch.float32)).to(torch.float16)
        if stack.cell.name not in kernels.CELLS and not torch.compiler.is_compiling() and not is_watched():
            return programs.trace(stack, operands)
        if stack.cell.name not in kernels.CELLS:
            return REFERENCE.trace(stack, operands)
        return super().trace(stack, operands)

    def run_unchecked(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        batch_first: bool,
        step_inputs: tuple[Tensor, ...] = (),
        is_converted: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """``is_converted``: whether all has the dtype in which it is to be run, whatever autocast says."""
        if not _AVAILABLE:
            return None
        if is_watched():
            if step_inputs or stack.single_step or not _are_functorch_transforms_active():
                return None
            return mapped.run_unchecked(self.run_unchecked, stack, x, states, params, batch_first)
        try:
            if x.dim() != stack.axes or x.is_cuda:
                return None
            if states is not None:
                states = tuple([state if state.is_contiguous() else _copied(state) for state in states])
        except (AttributeError, RuntimeError, TypeError):  # no tensor of numbers
            return None
        if not is_converted and _is_any_autocast_enabled() and torch.is_autocast_enabled("cpu"):  # the one costs half of the other
            return self._run_autocast_step(stack, x, states, params) if stack.single_step else None
        if x.dtype is torch.float16:
            return self._run_half(stack, x, states, params, batch_first, step_inputs)
        if stack.cell.name not in kernels.CELLS:
            return programs.run_unchecked(stack, x, states, params, batch_first, step_inputs)
        numbers, threads, grad_mode = stack.numbers, torch.get_num_threads(), torch.is_grad_enabled()
        try:
            # By place, none of them by name, which would cost a tenth of a small kernel: no fresh states, spans, or memory to write to.
            first = numbers, params, x, states, None, None, None, None, batch_first, False, threads
            output, finals, *rest = _native.forward(*first, None, None, None, None, None, False, grad_mode)
        except _native.ContractError:  # an operand does not fit, or only lies in another way than the kernels read
            return _run_copied(stack, x, states, params, batch_first)
        except (RuntimeError, TypeError, ValueError):  # an operand is no plain tensor; there are no kernels for the cell
            return None
        if not grad_mode or not rest.pop():
            return output, finals
        return _differentiable((output, finals, call.Saved(*rest)), stack, x, states, params, batch_first)

    def _run_autocast_step(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """What ``run_unchecked`` does with a single step under autocast, with the results of ``run_autocast``. Layers change theirs."""
        if stack.cell.name not in kernels.CELLS or not _are_plain((x, *params, *(states or ())), _AUTOCAST):
            return None
        runs, *dtypes = _autocast_dtypes(stack, x, states)
        own = Operands(x, states, params).to(runs)
        done = self.run_unchecked(stack, own.x, own.states, own.params, False, is_converted=True)
        return None if done is None else _in_dtypes(done, *dtypes)

    def run_step_unchecked(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor]
    ) -> tuple[Tensor, ...] | None:
        done = self.run_unchecked(stack, x, states, params, False)
        if done is not None:
            return done[1]
        return super().run_step_unchecked(stack, x, states, params) if _are_functorch_transforms_active() else None

    def _run_half(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        batch_first: bool,
        step_inputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """What ``run_unchecked`` does where x is in float16."""
        if not _are_plain((x, *params, *step_inputs, *(states or ())), _HALF):
            return None
        x, states, params, spans = Operands(x, states, params, Spans(step_inputs=step_inputs)).to(torch.float32)
        done = self.run_unchecked(stack, x, states, params, batch_first, spans.step_inputs or (), is_converted=True)
        if done is None:
            return None
        finals = tuple([final.half() for final in done[1]])
        return finals[0] if stack.single_step else done[0].half(), finals


# What autocast changes; float64 it leaves alone.
_AUTOCAST = frozenset((torch.float32, torch.bfloat16, torch.float16))
_HALF = frozenset((torch.float16,))


def _are_plain(given: Sequence[Tensor], dtypes: frozenset[torch.dtype]) -> bool:
    """Whether all may be converted unchecked: what is laid out in another way, torch refuses with words of its own."""
    return all(type(t) in kernels.PLAIN and t.dtype in dtypes and t.layout is torch.strided for t in given)


def _autocast_dtypes(stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """Under autocast: the dtype in which a network runs, that of its output and first state, and that of its other states."""
    given, cell, target = (x if states is None else states[-1]).dtype, stack.cell, torch.get_autocast_dtype("cpu")
    lasting = torch.promote_types(given, target) if cell.sums else target
    return lasting if cell.states[0] in cell.sums else target, target if stack.proj_size else lasting, lasting


def _in_dtypes(done: tuple[Tensor, tuple[Tensor, ...]], first: torch.dtype, lasting: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
    output, finals = done
    return output.to(first), (finals[0].to(first), *[final.to(lasting) for final in finals[1:]])


def _is_widened(stack: Stack, x: Tensor) -> bool:
    """Whether the kernels run this network in float32 in place of x's dtype."""
    return x.dtype is torch.float16 or (x.dtype is torch.bfloat16 and stack.cell.name not in kernels.CELLS)


def _copied(state: Tensor) -> Tensor:
    """A state that is not dense, as the kernels read it, in the graph. It is checked with those that are."""
    return state.contiguous() if call.has_memory(state) else state


def _run_copied(
    stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor], batch_first: bool
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """What ``run_unchecked`` does with a call that was refused: run it on copies, if its operands lie in another way than is read."""
    try:
        with torch.no_grad():
            copied = call.readable_if_plain(Operands(x, states, params))
        if copied is None:
            return None
        saves = has_gradient((x, *(states or ()), *params))
        done = call.forward(stack, copied, batch_first, save=saves)
    except (RuntimeError, TypeError):  # it is not how they lie
        return None
    return _differentiable(done, stack, x, states, params, batch_first) if saves else done[:2]


def _differentiable(
    done: tuple[Tensor, tuple[Tensor, ...], call.Saved],
    stack: Stack,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    batch_first: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What has been computed, as a node of torch's graph."""
    own = map(savable, (x, *(states or ())))
    return of_node(stack, Scan.apply(done, stack, WHOLE, batch_first, *own, *params))  # type: ignore[no-untyped-call]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
