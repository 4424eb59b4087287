"""Every cell with a name, also one that torch.nn lacks: its step gives what a loop written from its paper gives, and so does its kernel."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import oracle
from cases import as_layers
from elman.backends import kernels
from elman.backends.native import NativeBackend
from elman.backends.reference import ReferenceBackend
from elman.cells import BY_NAME
from native import required
from program_runs import Call, Options, distance

pytestmark = pytest.mark.usefixtures("poisoned")

NATIVE, REFERENCE = NativeBackend(), ReferenceBackend()


@pytest.mark.parametrize("name", BY_NAME)
def test_a_step_is_what_the_paper_says(name: str) -> None:
    call = Call.of(BY_NAME[name](), Options(lengths=(6, 0, 3, 6, 1)))
    arriving = call.arriving(call.run(REFERENCE))
    results, grads = call.differentiate(REFERENCE, arriving)
    stack, given = call.stack, call.states or ()
    x, output, *rest = (tensor.numpy() for tensor in (call.x, *arriving, *given))
    layers = as_layers([param.numpy() for param in call.params], stack.num_layers, stack.num_directions, stack.bias)
    expected = oracle.run(name, layers, x, tuple(rest[len(given) :]), list(call.options.lengths or ()), output, tuple(rest[: len(given)]))
    assert distance(results, list(map(torch.from_numpy, (expected.output, *expected.finals)))) < 1e-12
    directions = [direction for layer in expected.grad_layers for direction in layer]
    weights = [np.asarray(getattr(direction, each)) for direction in directions for each in direction.names]
    assert distance(grads, list(map(torch.from_numpy, (expected.grad_x, *expected.grad_initial, *weights)))) < 1e-12


@required
@pytest.mark.usefixtures("every_isa")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", kernels.CELLS)
def test_a_kernel_computes_what_the_step_says(name: str, seed: int) -> None:
    call = Call.of(BY_NAME[name](), Options.drawn(random.Random(seed)))
    (results, grads), (expected, expected_grads) = call.differentiate(NATIVE), call.differentiate(REFERENCE)
    assert distance(results, expected) < 1e-12
    assert distance(grads, expected_grads) < 1e-12


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_a_cell_with_two_states_compiles_from_a_struct_and_a_line_in_the_table(tmp_path: Path) -> None:
    """A minimal one, so without what is optional: ``output``."""
    kernels_there = shutil.copytree(Path(__file__).parents[1] / "csrc", tmp_path / "csrc")
    struct = (kernels_there / "cells" / "lstm.h").read_text(encoding="utf-8")
    struct = re.sub(r"\n.* V output\(.*", "", struct).replace("output(o, c)", "o * tanh(c)")
    struct = struct.replace("Lstm", "Coupled").replace('"lstm"', '"coupled"')
    (kernels_there / "cells" / "coupled.h").write_text(struct, encoding="utf-8")
    table = kernels_there / "cells" / "all.h"
    table.write_text(
        table.read_text(encoding="utf-8").replace('#include "lstm.h"\n', '#include "lstm.h"\n#include "coupled.h"\n'), encoding="utf-8"
    )
    command = ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-DELMAN_TARGET=scalar", "-I.", "target.cpp"]
    result = subprocess.run(command, cwd=kernels_there, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
