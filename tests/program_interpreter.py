"""Runs a Program step by step in plain torch, on arrays of (B, H): what the kernels must give, and strict about what they may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elman.backends.program.arithmetic import COMPUTE
from elman.backends.program.program import GIVEN_BACKWARD, GIVEN_FORWARD, NOTHING, Code, Opcode, Operand, Program, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

READ_AGAIN = {Role.TEMP, Role.CARRY, Role.SAVED, Role.NEW_STATE, Role.FACTOR, Role.GRAD_RECURRENT}
Arrays = dict[Operand, Tensor]


def run(code: Code, given: Mapping[Operand, Tensor], given_roles: frozenset[Role], after_stage: Callable[[int, Arrays], None]) -> Arrays:
    """Run the stages; return what has been written.

    Args:
        after_stage: called between two stages with what there is, to add what the products give.
    """
    arrays: Arrays = dict(given)
    written: Arrays = {}
    like = next(each for each in given.values() if each.dim() == 2)
    for stage, (first, end) in enumerate(code.stages):
        for opcode, to, *reads in code.instructions[first:end]:
            values = []
            for read in reads:
                if read == NOTHING:
                    continue
                role, index = code.operands[read]
                if role is Role.CONSTANT:
                    values.append(torch.full_like(like, code.constants[index]))
                    continue
                assert role in given_roles | READ_AGAIN, f"reads {role.name}"
                values.append(arrays[role, index].expand_as(like))
            target = code.operands[to]
            assert target[0] not in given_roles, f"writes {target[0].name}"
            assert target[0] is Role.TEMP or target[0] is Role.CARRY or target not in written, f"writes {target} twice"
            arrays[target] = written[target] = COMPUTE[Opcode(opcode)](*values)
        for key in [key for key in arrays if key[0] is Role.TEMP]:  # scratch of a block
            del arrays[key]
        if stage + 1 < len(code.stages):
            after_stage(stage, arrays)
    assert {index for role, index in written if role is Role.TEMP} <= set(range(code.temps))
    assert {index for role, index in written if role is Role.CARRY} == set(range(code.carries))
    return written


class ProgramStep(torch.autograd.Function):
    """A step by a program, with its gradient: the leaves' tensors in, states and gates out."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: object, program: Program, training: bool, leaves: tuple[Operand, ...], weight: Tensor, bias: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        given = dict(zip(leaves, tensors, strict=True))
        size = given[Role.STATE, 0].shape[-1]

        def product(gates: tuple[int, ...], v: Tensor) -> Arrays:
            rows = {gate: slice(gate * size, (gate + 1) * size) for gate in gates}
            return {(Role.RECURRENT, gate): v @ weight[part].T + bias[part] for gate, part in rows.items()}

        given |= product(program.products[0], given[Role.STATE, 0])
        code = program.training if training else program.forward
        written = run(
            code,
            given,
            GIVEN_FORWARD,
            lambda stage, arrays: arrays.update(product(program.products[stage + 1], arrays[Role.FACTOR, stage])),
        )
        results = [written[Role.NEW_STATE, index] for index in range(program.states)]
        results += [written[Role.GATE, index] for index in range(program.gates)]
        ctx.program, ctx.leaves, ctx.given, ctx.written, ctx.weight = program, leaves, given, written, weight  # type: ignore[attr-defined]
        return tuple(each.clone() for each in results)

    @staticmethod
    def backward(ctx: object, *arriving: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        program, leaves, given, written, weight = ctx.program, ctx.leaves, ctx.given, ctx.written, ctx.weight  # type: ignore[attr-defined]
        size = given[Role.STATE, 0].shape[-1]
        readable = {key: each for key, each in (given | written).items() if key[0] in GIVEN_BACKWARD}
        readable |= {(Role.GRAD_NEW_STATE, index): each for index, each in enumerate(arriving[: program.states])}
        readable |= {(Role.GRAD_GATE, index): each for index, each in enumerate(arriving[program.states :])}

        def product(gates: tuple[int, ...], arrays: Arrays) -> Tensor:
            zero = torch.zeros_like(given[Role.STATE, 0])
            return sum((arrays.get((Role.GRAD_RECURRENT, g), zero) @ weight[g * size : (g + 1) * size] for g in gates), zero)

        factors = len(program.products) - 1

        def after(stage: int, arrays: Arrays) -> None:
            arrays[Role.GRAD_FACTOR, factors - 1 - stage] = product(program.products[factors - stage], arrays)

        grads = run(program.backward, readable, GIVEN_BACKWARD, after)
        grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        for number, gates in enumerate(program.products):
            v = given[Role.STATE, 0] if number == 0 else written[Role.FACTOR, number - 1]
            for gate in gates:
                if (Role.GRAD_RECURRENT, gate) in grads:
                    part = slice(gate * size, (gate + 1) * size)
                    grad_weight[part] = grads[Role.GRAD_RECURRENT, gate].T @ v
                    grad_bias[part] = grads[Role.GRAD_RECURRENT, gate].sum(0)
        to = {
            Role.INPUT: Role.GRAD_INPUT,
            Role.STATE: Role.GRAD_STATE,
            Role.OWN: Role.GRAD_OWN,
            Role.STEP_INPUT: Role.GRAD_STEP_INPUT,
        }
        found = []
        for role, index in leaves:
            gradient = grads.get((to[role], index)) if role in to else None
            if (role, index) == (Role.STATE, 0):
                through = product(program.products[0], grads)
                gradient = through if gradient is None else gradient + through
            found.append(None if gradient is None else gradient.sum_to_size(given[role, index].shape))
        return None, None, None, grad_weight, grad_bias, *found
