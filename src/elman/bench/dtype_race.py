"""Races Elman against torch.nn in one dtype, on a GPU or on the CPU: compares their accuracy, then their times.

Both have the same weights, rounded to the race's dtype, the same input, and in training the same gradient of the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
from elman.bench.agreement import TOLERANCE, WrongAnswerError
from elman.bench.measure import AGAIN, Row
from elman.bench.race import race
from elman.bench.settings import torch_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from elman.bench.case import Case, Mode
    from elman.bench.place import Place

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TF32_EPS = 2.0**-10


@final
@dataclass(frozen=True)
class DtypeRow(Row):
    """A row of a race in one dtype.

    Attributes:
        errors: of Elman and of torch, for each array that they compute (the output, the final states; in training the gradients) how far it
            is from that of a float64 run: the norm of the difference over the norm.
    """

    errors: Mapping[str, Mapping[str, float]]

    def error(self, name: str) -> float:
        """The largest error of a contestant."""
        return max(self.errors[name].values())


class Beside(NamedTuple):
    """A contestant in another dtype than the race's."""

    name: str
    short: str
    library: Any
    dtype: torch.dtype


BESIDE = {
    ("cuda", "bfloat16"): Beside("torch float16", "fp16", nn, torch.float16),
    ("cpu", "bfloat16"): Beside("elman float32", "fp32", elman, torch.float32),
    ("cpu", "float16"): Beside("elman float32", "fp32", elman, torch.float32),
}
"""By device and dtype: torch in the dtype for which cuDNN has its fastest kernels; on the CPU, what is gained or lost against float32."""


@dataclass(frozen=True)
class Network:
    """A case's network of one library, with its data, on a device.

    Attributes:
        layer: the network.
        x: (T, B, I).
        grad_output: of the output, (T, B, D·H).
        lengths: of the sequences, on the CPU; None where all have all steps.
    """

    layer: nn.Module
    x: Tensor
    grad_output: Tensor
    lengths: Tensor | None

    def forward(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output and the final states."""
        if self.lengths is None:
            output, finals = self.layer(self.x)
        elif isinstance(self.layer, elman.RNN | elman.GRU | elman.LSTM):
            output, finals = self.layer(self.x, lengths=self.lengths)
        else:
            packed, finals = self.layer(pack_padded_sequence(self.x, self.lengths, enforce_sorted=False))
            output, _ = pad_packed_sequence(packed, total_length=len(self.x))
        return output, finals if isinstance(finals, tuple) else (finals,)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of x and of every parameter."""
        return torch.autograd.grad(self.forward()[0], (self.x, *self.layer.parameters()), self.grad_output)

    def call(self, mode: Mode) -> Callable[[], object]:
        """What is timed."""
        return self.forward if mode == "infer" else self.gradients

    def arrays(self, case: Case, mode: Mode) -> dict[str, Tensor]:
        """What is computed, by name."""
        if mode == "infer":
            output, finals = self.forward()
            return {"output": output, **dict(zip(case.finals, finals, strict=True))}
        names = ("x", *(name for name, _ in self.layer.named_parameters()))
        return dict(zip(names, self.gradients(), strict=True))

    def why(self) -> str:
        """Which of Elman's backends runs it."""
        return str(elman.why(self.layer, self.x, lengths=self.lengths))  # type: ignore[arg-type]


class Data(NamedTuple):
    """A case's weights by torch's names, and its data, as :class:`Network` has them, in float32."""

    parameters: dict[str, Tensor]
    x: Tensor
    grad_output: Tensor
    lengths: Tensor


@lru_cache(maxsize=1)  # the networks of a case share it: to draw it takes seconds where the case is large
def data_of(case: Case, device: str) -> Data:
    """What a case is run with, on the device; the lengths, uniform in 1..T, on the CPU."""
    arrays, parameters = case.arrays()
    draw = np.random.default_rng(1)
    grad_output = draw.standard_normal((case.steps, case.batch, case.num_directions * case.hidden_size), np.float32)
    return Data(
        parameters={name: torch.from_numpy(array) for name, array in parameters.items()},
        x=torch.from_numpy(arrays["x"]).to(device),
        grad_output=torch.from_numpy(grad_output).to(device),
        lengths=torch.from_numpy(draw.integers(1, case.steps, case.batch, endpoint=True)),
    )


def network_of(
    library: Any,
    case: Case,
    mode: Mode,
    dtype: torch.dtype,
    device: str,
    *,
    ragged: bool = False,
    in_float64: bool = False,
) -> Network:
    """A case's network.

    Args:
        library: ``elman`` or ``torch.nn``.
        mode: in training, input and weights need gradients.
        dtype: that weights and data are rounded to.
        ragged: give the sequences lengths, uniform in 1..T.
        in_float64: compute in float64, with the rounded weights and data.
    """
    parameters, x, grad_output, lengths = data_of(case, device)
    layer = getattr(library, case.cell.upper())(
        case.input_size, case.hidden_size, num_layers=case.num_layers, bidirectional=case.bidirectional
    )
    layer.load_state_dict(parameters)
    computed = torch.float64 if in_float64 else dtype
    return Network(
        layer=layer.to(device, dtype).to(computed).requires_grad_(mode == "train"),
        x=x.to(dtype).to(computed).detach().requires_grad_(mode == "train"),
        grad_output=grad_output.to(dtype).to(computed),
        lengths=lengths if ragged else None,
    )


def relative_errors(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """How far each array is from what is expected: the norm of the difference over the norm."""
    return {name: float((got[name].double() - right).norm() / right.norm().clamp_min(1e-300)) for name, right in expected.items()}


def check(who: str, errors: Mapping[str, float], beside: Mapping[str, float], dtype: torch.dtype) -> None:
    """Raise if an array is wrong: it has more than twice torch's error, and more than a few roundings of the dtype would make.

    Where torch's overflows, which tells nothing, only the latter.

    Raises:
        WrongAnswerError: says which array, and by how much it is off.
    """
    eps = TF32_EPS if dtype is torch.float32 and torch.backends.cudnn.allow_tf32 else torch.finfo(dtype).eps
    for name, error in errors.items():
        torchs = beside[name] if math.isfinite(beside[name]) else 0.0
        if not error <= max(TOLERANCE, 4 * eps, 2 * torchs):  # NaN is wrong too
            raise WrongAnswerError(f"{who}: {name} has a relative error of {error:.3g}, torch's of {beside[name]:.3g}")


def measure(
    cases: Iterable[tuple[int, Case]],
    modes: Sequence[Mode],
    dtype: str,
    place: Place,
    *,
    rounds: int,
    ragged: bool = False,
    always_again: bool = False,
) -> Iterator[DtypeRow]:
    """Race every case in every mode, one row at a time.

    Args:
        cases: each with its row number in its grid.
        modes: which of inference and training.
        dtype: a name in ``DTYPES``; what ``BESIDE`` has for it races too.
        place: where; on the CPU with its number of threads.
        rounds: of each race (``elman.bench.race``).
        ragged: the sequences' lengths are uniform in 1..T; torch packs, runs and unpacks them.
        always_again: race Elman against itself in every row, not only in the first of each cell and mode.

    Raises:
        WrongAnswerError: Elman's numbers are wrong, in the row after the last one given.
    """
    again: set[tuple[str, Mode]] = set()
    device, of_dtype, beside = place.device, DTYPES[dtype], BESIDE.get((place.device, dtype))
    for number, case in cases:
        for mode in modes:
            with torch_set(threads=place.threads), torch.set_grad_enabled(mode == "train"):
                ours, theirs = (network_of(library, case, mode, of_dtype, device, ragged=ragged) for library in (elman, nn))
                errors = _errors(ours, theirs, case, mode, of_dtype, device, ragged)
                calls = {"torch": theirs.call(mode), "elman": ours.call(mode)}
                if beside is not None:
                    calls[beside.name] = network_of(beside.library, case, mode, beside.dtype, device, ragged=ragged).call(mode)
                if always_again or (case.cell, mode) not in again:
                    again.add((case.cell, mode))
                    calls[AGAIN] = network_of(elman, case, mode, of_dtype, device, ragged=ragged).call(mode)
                timings = race(calls, rounds=rounds, min_block_s=place.block_s, stopwatch=place.stopwatch)
                row = DtypeRow(number, case, mode, ours.why(), timings, peak=None, errors=errors)
            yield row


def _errors(
    ours: Network, theirs: Network, case: Case, mode: Mode, dtype: torch.dtype, device: str, ragged: bool
) -> dict[str, dict[str, float]]:
    """Elman's errors and torch's; the former are checked."""
    expected = network_of(nn, case, mode, dtype, device, ragged=ragged, in_float64=True).arrays(case, mode)
    errors = {name: relative_errors(network.arrays(case, mode), expected) for name, network in (("elman", ours), ("torch", theirs))}
    check(f"elman, {case.cell} {case}, {mode}", errors["elman"], errors["torch"], dtype)
    return errors
