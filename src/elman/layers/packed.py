"""Checks a PackedSequence: its parts index memory, and it may have been made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils.rnn import PackedSequence

from elman.backends.savable import savable
from elman.backends.spans import flat_list
from elman.layers.errors import brief_list, brief_numbers, check_layout, wrong_kind
from elman.layers.spans import hides_numbers, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")
_PACK = ": make PackedSequences with torch.nn.utils.rnn.pack_padded_sequence"


def uncompiled(run: Callable[P, R]) -> Callable[P, R]:
    """A function that torch.compile leaves out of its graphs, as it does torch.nn's layers: a PackedSequence has any number of steps."""
    return cast("Callable[P, R]", torch.compiler.disable(run))  # type: ignore[no-untyped-call]


def check_batch_sizes(batch_sizes: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """Raise an error if a PackedSequence's batch sizes are wrong.

    Args:
        batch_sizes: how many sequences have each step.
        x: the packed steps, (N, I).

    Returns:
        The batch sizes, contiguous, without steps at the end that no sequence has; and B.

    Raises:
        TypeError: they are not a tensor.
        RuntimeError: they are not int64 of one axis on the CPU; there is no step; they grow or are negative; their sum is not N; each of
            vmap's examples has its own; or they are fake, as where torch.export records a call.
    """
    if not isinstance(batch_sizes, Tensor):
        raise wrong_kind("batch_sizes", "a tensor", batch_sizes)
    check_layout("batch_sizes", batch_sizes)
    if torch._C._functorch.is_batchedtensor(batch_sizes):
        raise RuntimeError(
            "expected one batch_sizes for all of vmap's examples, got one for each, from packing inside vmap: "
            "pass a padded x and lengths= instead"
        )
    if isinstance(batch_sizes, FakeTensor):
        raise RuntimeError("expected a padded tensor, got a PackedSequence, which torch.export cannot record: give x and lengths= instead")
    if batch_sizes.dim() != 1 or batch_sizes.dtype is not torch.int64 or batch_sizes.device.type != "cpu":
        got = f"{batch_sizes.dtype} of shape {tuple(batch_sizes.shape)} on {batch_sizes.device}"
        raise RuntimeError(f"expected batch_sizes of one axis, torch.int64, on the CPU, got {got}{_PACK}")
    batch_sizes = in_memory("batch_sizes", batch_sizes)
    sizes = flat_list(batch_sizes) if torch._C._are_functorch_transforms_active() else batch_sizes.tolist()
    if not any(sizes):
        raise RuntimeError(f"expected at least one step of a sequence, got none: batch_sizes is {brief_list(sizes)}{_PACK}")
    if sizes[-1] < 0 or sizes != sorted(sizes, reverse=True):
        raise RuntimeError(f"expected batch_sizes that never grow nor fall below 0, got {brief_list(sizes)}{_PACK}")
    if sum(sizes) != x.shape[0]:
        raise RuntimeError(
            f"expected {sum(sizes)} packed steps, the sum of batch_sizes, got {x.shape[0]}: x has shape {tuple(x.shape)}{_PACK}"
        )
    batch: Any = sizes[0]
    if torch._C._get_tracing_state() is not None:  # torch.jit.trace would write the number down for all calls
        batch = batch_sizes[0]
    return (batch_sizes[: len(sizes) - sizes.count(0)] if sizes[-1] == 0 else batch_sizes).contiguous(), batch


def check_order(sorted_indices: Tensor | None, unsorted_indices: Tensor | None, batch: int, x: Tensor) -> None:
    """Raise an error if the indices by which a PackedSequence sorts its sequences, and puts them back, are wrong.

    Args:
        sorted_indices: for each sequence in the packed order, its place before packing; None if they were in order.
        unsorted_indices: the way back.
        batch: B.
        x: the packed steps, (N, I).

    Raises:
        TypeError: one is not a tensor.
        RuntimeError: there is one without the other; one is not int64 of shape (B,) on x's device; or they do not undo each other.
    """
    if sorted_indices is None and unsorted_indices is None:
        return
    both = []
    for name, indices in (("sorted_indices", sorted_indices), ("unsorted_indices", unsorted_indices)):
        if indices is None:
            raise RuntimeError(f"expected both sorted_indices and unsorted_indices or neither, got no {name}{_PACK}")
        if not isinstance(indices, Tensor):
            raise wrong_kind(name, "a tensor", indices)
        check_layout(name, indices)
        if indices.dtype is not torch.int64 or indices.device != x.device or indices.shape != (batch,):
            got = f"{indices.dtype} of shape {tuple(indices.shape)} on {indices.device}"
            raise RuntimeError(f"expected {name} of torch.int64 and shape ({batch},) on {x.device}, where x is, got {got}{_PACK}")
        both.append(indices)
    if not x.is_cpu or hides_numbers():  # the numbers are elsewhere, or not known yet
        return
    try:
        undone = torch.equal(both[0].index_select(0, both[1]), torch.arange(batch, device="cpu"))
    except (IndexError, RuntimeError):  # one points outside
        undone = False
    if not undone:
        got = " and ".join(map(brief_numbers, both))
        raise RuntimeError(
            f"expected sorted_indices and unsorted_indices to hold each of {batch} sequences once and to undo each other, got {got}{_PACK}"
        )


def reordered(states: tuple[Tensor, ...], order: Tensor | None) -> tuple[Tensor, ...]:
    """States, (L·D, B, H), with the sequences in this order, (B,); None for the order that they have."""
    if order is None:
        return states
    order = savable(order)
    return tuple([state.index_select(1, order) for state in states])


def pack_as(packed: PackedSequence, output: Tensor, lengths: Tensor, batch_first: bool) -> PackedSequence:
    """A padded batch in the order before packing, packed as another PackedSequence is.

    Args:
        packed: the other one.
        output: (T, B, H), or (B, T, H) with batch_first.
        lengths: the number of steps of each sequence, (B,), on the CPU.
    """
    by_time, order = output.transpose(0, 1) if batch_first else output, packed.sorted_indices
    if order is not None:
        (by_time,), lengths = reordered((by_time,), order), lengths.index_select(0, order.cpu())
    data, _ = torch._VF._pack_padded_sequence(by_time, lengths, False)
    return PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices)
