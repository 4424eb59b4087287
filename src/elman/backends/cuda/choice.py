"""Which plan runs a layer on a device: those that fit it, and a model of how long a step takes by each.

Pure arithmetic: nothing here needs a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import log2
from operator import attrgetter, mul
from typing import TYPE_CHECKING, NamedTuple

from elman.backends.cuda.plan import Number, Plan, products_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elman.backends.cuda.launcher import DeviceProperties
    from elman.backends.cuda.shape import CellShape


class Step(NamedTuple):
    """What a step takes a group of blocks, in parts; or how much of each part a plan has."""

    exchange: float  # each exchange: barriers, the chain of dependent instructions
    through_memory: float  # each one, more through global memory
    cluster_kb: float  # each KiB that a block sends through a cluster
    memory_kb: float  # each KiB that a block reads from global memory, or writes there
    product: float  # each instruction of the tensor cores
    sums: float  # each 4096 partial sums
    shared_kb: float  # each KiB of weights in shared memory
    item: float  # each further unit of a thread, by the cell's weight
    cell: float  # the pointwise part, by the cell's weight
    wide_cluster: float  # a cluster of 16, beside its bytes


# Microseconds on an H200, from some 900 measured plans of RNN, GRU and LSTM (bfloat16 and tf32, H from 32 to 1024, B from 16 to 128): a
# least-squares fit within 18 %. Of the plans measured for a network, the one that it chooses takes 1.6 % longer than the best one on the
# average. The weights in shared memory, which no measured plan had, are of its bandwidth of 128 bytes a cycle. tests/cuda_plans.py
# measures, and fits them.
MODEL = Step(
    exchange=0.188,
    through_memory=1.21,
    cluster_kb=0.032,
    memory_kb=0.023,
    product=0.00085,
    sums=0.053,
    shared_kb=0.0045,
    item=0.097,
    cell=0.145,
    wide_cluster=0.08,
)
_NOT_MEASURED = 1.1  # by which plans that read weights from shared memory must be expected to be faster than others
_HAVE_CLUSTERS_OF_16 = {(9, 0), (10, 0), (10, 3)}  # compute capabilities; others that know clusters have up to 8 blocks
_MAX_ITEMS = 16  # units of a thread
_OTHER_REGISTERS = 52  # of a thread, beside weights, sums and units: addresses, operands on their way
_SHARED_REGISTERS = 24  # more, for weights on their way from shared memory


@lru_cache(maxsize=4096)
def choose(
    shape: CellShape,
    is_backward: bool,
    number: Number,
    hidden: int,
    sequences: int,
    directions: int,
    has_spans: bool,
    device: DeviceProperties,
    is_traced: bool = False,
    largest_cluster: int = 16,
) -> tuple[Plan, ...]:
    """The plan that the model expects to be fastest, those within a tenth of it, and simpler ones behind; empty if none fits."""
    tiles = [tile for tile in (8, 16, 32) if tile == 8 or tile < 2 * sequences]
    plans = [plan for tile in tiles for plan in candidates(shape, is_backward, number, hidden, tile, device, largest_cluster)]
    costs = {plan: cost(plan, sequences, directions, device) for plan in plans}
    ranked = sorted(costs, key=lambda plan: (costs[plan], _preference(plan)))
    found = [plan for plan in ranked if costs[plan] <= 1.1 * costs[ranked[0]]][:3]
    for needs_more in (attrgetter("is_reduce_scatter"), attrgetter("shared_eighths")):
        if all(map(needs_more, found)):  # a plan of the other way, if the registers of these do not suffice
            found += [plan for plan in ranked if not needs_more(plan)][:1]
    return tuple(replace(plan, has_spans=has_spans, is_traced=is_traced) for plan in found)


def cost(plan: Plan, sequences: int, directions: int, device: DeviceProperties, model: Step = MODEL) -> float:
    """By which plans are compared."""
    return expected(plan, sequences, directions, device, model) * (_NOT_MEASURED if plan.shared_eighths else 1.0)


def expected(plan: Plan, sequences: int, directions: int, device: DeviceProperties, model: Step = MODEL) -> float:
    """Microseconds of a step for all sequences."""
    step: float = sum(map(mul, model, parts_of(plan)))
    return turns(plan, sequences, directions, device) * step


def parts_of(plan: Plan) -> Step:
    """How much a step of one group has of each part."""
    weight = plan.shape.weight * (1.5 if plan.is_backward else 1.0)
    items = -(-plan.units * plan.tile // plan.threads)
    work = plan.number.size / 2 * (3 if plan.number is Number.FLOAT32 else 1)
    exchanges = len(plan.products) + plan.shape.sums[plan.is_backward]
    kilobytes, is_global = plan.exchanged_bytes / 1024, plan.mailbox_numbers > 0
    return Step(
        exchange=max(1, exchanges),
        through_memory=exchanges * is_global,
        cluster_kb=kilobytes * (plan.blocks > 1 and not is_global),
        memory_kb=kilobytes * (2 if plan.is_reduce_scatter else 1) * is_global,  # of a reduce-scatter a block writes as much
        product=sum(rows * columns / 256 * plan.tile / 8 * work for rows, columns in plan.products),
        sums=sum(plan.split * rows * plan.tile / 4096 for rows, _ in plan.products),
        shared_kb=plan.shared_weight_bytes / 1024,
        item=weight * (items - 1),
        cell=weight,
        wide_cluster=plan.is_cluster and plan.blocks == 16,
    )


def turns(plan: Plan, sequences: int, directions: int, device: DeviceProperties) -> float:
    """How many groups take their steps one after the other; a quarter more for two whose blocks share a multiprocessor."""
    groups, at_once, longer = -(-sequences // plan.tile) * directions, resident_groups(plan, device), 1.0
    if plan.blocks > 1 and not plan.mailbox_numbers and groups > at_once:
        registers = plan.weight_registers + 60 + plan.warp_tiles * plan.tile // 2
        registers = min(255, registers + (_for_shared_weights(plan.tile) if plan.shared_eighths else 0))
        if min(device.registers // (registers * _counted_threads(plan)), device.shared_bytes // plan.shared_bytes) >= 2:
            longer, at_once = 1.25, at_once * 2
    return longer * -(-groups // at_once)


def is_fast_with_many_sequences(shape: CellShape, number: Number, hidden: int, device: DeviceProperties) -> bool:
    """Whether a network that has plans is expected to be no slower than torch's layers with hundreds of sequences: if registers have room
    for all weights, or two groups run at once. By the model, not by measurement.
    """
    for is_backward in (False, True):
        network = shape, is_backward, number, hidden
        has_whole = not all(plan.shared_eighths for plan in choose(*network, 1, 1, False, device))
        if not has_whole and all(resident_groups(plan, device) == 1 for plan in choose(*network, 64, 1, False, device)):
            return False
    return True


def registers_of_thread(plan: Plan, device: DeviceProperties) -> int:
    """At most how many a thread has."""
    return min(255, device.registers // _counted_threads(plan))


def _counted_threads(plan: Plan) -> int:
    """Those of a block as they count for registers: each of a multiprocessor's four parts has room for as many warps as the fullest."""
    return -(-plan.warps // 4) * 128


def resident_groups(plan: Plan, device: DeviceProperties) -> int:
    """Groups of blocks, one block a multiprocessor, that run at once: a cluster lies within one of the processor's parts of 16 or 18."""
    if plan.is_cluster and plan.blocks >= 8:
        return max(1, device.multiprocessors * {8: 15, 16: 7}[plan.blocks] // 132)
    return max(1, device.multiprocessors // plan.blocks)


def _preference(plan: Plan) -> float:
    """Among plans of the same expectation: how far from what was measured best, eight warps that share columns by four."""
    best = abs(log2(plan.warps / 8)) + 0.4 * abs(log2(plan.split / 4)) + 0.5 * (plan.weight_registers > 96)
    return best + plan.shared_weight_bytes / (128 << 10)


@lru_cache(maxsize=1024)
def candidates(
    shape: CellShape, is_backward: bool, number: Number, hidden: int, tile: int, device: DeviceProperties, largest_cluster: int = 16
) -> tuple[Plan, ...]:
    """The plans that fit the device, of each way to share the units the two whose warps are arranged best; for any number of sequences.

    Blocks that are more than half padding, or have no unit of the network, are made only where there is no other plan with all weights in
    registers.
    """
    if not any(shape.products) and not shape.rows[is_backward]:
        return _unconnected(shape, is_backward, number, hidden, tile, device)
    largest = 1 if device.capability < (9, 0) else 16 if device.capability in _HAVE_CLUSTERS_OF_16 else 8
    clusters = [blocks for blocks in (2, 4, 8, 16) if blocks <= min(largest, largest_cluster, device.multiprocessors)]
    exchanges = [(1, True), *[(blocks, True) for blocks in clusters]]
    exchanges += [(blocks, False) for blocks in (4, 8, 16, 24, 32, 48, 64, 96, 128) if blocks <= device.multiprocessors]
    for wasteful in (False, True):
        found: dict[Plan, None] = {}
        for (blocks, is_cluster), multiple, is_reduce_scatter in product(exchanges, (16, 32) if wasteful else (16,), (False, True)):
            if is_reduce_scatter and not (is_backward and blocks > 1 and _exchanges_less(shape, number, is_cluster, device)):
                continue
            units = -(-hidden // (multiple * blocks)) * multiple
            if blocks > 1 and units * (blocks - 1) >= hidden and (not wasteful or blocks * units > 2 * hidden):
                continue  # a block without units
            products = products_of(shape, is_backward, blocks, units, is_reduce_scatter)
            if sum(rows * columns for rows, columns in products) * number.size > 4 * device.registers + device.shared_bytes:
                continue  # the weights do not fit, however they are arranged
            sizes = shape, is_backward, number, hidden, tile, blocks, units, is_cluster, is_reduce_scatter, device
            plans = list(_arrangements(*sizes, False)) or list(_arrangements(*sizes, True))
            fitting = [plan for plan in plans if plan.shared_bytes <= device.shared_bytes]
            found |= dict.fromkeys(sorted(fitting, key=_preference)[:2])
        if not all(plan.shared_eighths for plan in found):
            break
    return tuple(found)


def _exchanges_less(shape: CellShape, number: Number, is_cluster: bool, device: DeviceProperties) -> bool:
    """Whether parts of the state's gradient, float32's, are fewer bytes than all gates' gradients, and it was not measured that they are
    slower or not at all.

    On an H200 they were faster, an LSTM of 256 units by a tenth; but in 16 bits through global memory slower, one of 1024 units by two
    fifths. Through global memory a block writes as much as it reads: nobody has tried it where the second-level cache is small.
    """
    is_less = sum(map(len, shape.products)) * number.size > 4 * sum(map(bool, shape.products))
    return is_less and (is_cluster or (number.size == 4 and device.capability >= (9, 0) and device.l2_bytes >= 40 << 20))


def _unconnected(shape: CellShape, is_backward: bool, number: Number, hidden: int, tile: int, device: DeviceProperties) -> tuple[Plan, ...]:
    """Of a cell without a product, whose units know nothing of each other: blocks that exchange nothing, a unit a thread or some."""
    for units, ring in ((32, 8), (16, 8), (16, 4)):
        plan = Plan(shape, is_backward, number, hidden, -(-hidden // units), units, tile, 1, 1, False, is_cluster=False, ring=ring)
        if plan.shared_bytes <= device.shared_bytes:
            return (plan,)
    return ()


def _arrangements(
    shape: CellShape,
    is_backward: bool,
    number: Number,
    hidden: int,
    tile: int,
    blocks: int,
    units: int,
    is_cluster: bool,
    is_reduce_scatter: bool,
    device: DeviceProperties,
    shares: bool,
) -> Iterator[Plan]:
    """How warps can share a block's weights: those that fit its registers, or, with shares, those that fit together with shared memory."""
    products, gates = products_of(shape, is_backward, blocks, units, is_reduce_scatter), shape.gates
    for warp_tiles, split, in_registers in product(range(1, 9), (1, 2, 4, 8, 16), (False, True)):
        if any(rows // 16 % warp_tiles or columns % (64 // number.size * split) for rows, columns in products):
            continue
        if not products and (warp_tiles, split) != (1, 1):  # nobody multiplies
            continue
        if is_reduce_scatter and (split > 1 or in_registers):  # a warp has whole parts, and sends them
            continue
        if in_registers and (split > 1 or len(shape.products) > 1 or shape.rows[is_backward] or (not is_backward and warp_tiles % gates)):
            continue
        plan = Plan(shape, is_backward, number, hidden, blocks, units, tile, warp_tiles, split, in_registers, is_cluster, is_reduce_scatter)
        items = -(-units * tile // plan.threads)
        if not 1 <= plan.warps <= 16 or items > _MAX_ITEMS:
            continue
        sums = warp_tiles * tile // 2 * (2 if warp_tiles * tile < 32 else 1)
        totals = shape.totals + (len(shape.apart) if number is Number.FLOAT32 else 0)  # these with what they have lost
        of_unit = 4 + 2 * max(0, shape.states - 2) + is_backward * totals + shape.held[is_backward]
        room = registers_of_thread(plan, device) - sums - of_unit * items - _OTHER_REGISTERS
        if shares and (shared := _with_room(plan, room, device)):
            yield shared
        elif not shares and plan.weight_registers <= room:
            yield plan


def _with_room(plan: Plan, weight_registers: int, device: DeviceProperties) -> Plan | None:
    """The plan with as many weights in shared memory as so many registers leave; None if they are too many."""
    weight_registers -= _for_shared_weights(plan.tile)
    if weight_registers < 0 or not plan.weight_registers:
        return None
    for eighths in range(max(1, 8 - 8 * weight_registers // plan.weight_registers), 9):
        part = replace(plan, shared_eighths=eighths)
        if part.weight_registers <= weight_registers:
            parts = part, replace(part, ring=4)  # steps that read weights are long: two of them hide the way from global memory
            return next((part for part in parts if part.shared_bytes <= device.shared_bytes), None)
    return None


def _for_shared_weights(tile: int) -> int:
    """Registers of a thread for weights that it reads from shared memory, and for what it multiplies them by."""
    return _SHARED_REGISTERS + tile // 2
