"""Fitting: truncated backpropagation through time over parallel streams of text.

The text is cut into B streams that lie side by side. Each step takes the next T characters of every stream, starts from the state in which
the step before ended, and sends gradients back through these T characters and no further.
Source: R. J. Williams, J. Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories", Neural
Computation 2 (1990).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from math import cos, inf, log, pi
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from elman.train import LEARNING_RATE
from elman.train.evaluate import as_characters
from elman.train.processes import OneProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from elman.train.char_model import CharModel


HOPELESS = 1000.0
"""Bits per character beyond which no training comes back: a model that knows nothing costs 8, and one that float32 can still tell from
impossible 149. Trainings that passed 100 for a while have recovered, none that passed 1000."""

SAVE_EVERY = 60.0
"""Seconds after which a training is saved again: what a crash costs at most."""

_WARM_UP = 0.03
"""The share of the training in which the learning rate rises."""


@dataclass(frozen=True)
class FitSettings:
    """How a model is fitted.

    Exactly one of ``steps`` and ``seconds`` ends the training. With ``steps`` the same weights give the same losses on the same machine,
    with the same state of torch's generator if the cell draws from it; with ``seconds`` the learning rate follows the clock, so that a slow
    machine still goes through the whole schedule.

    Attributes:
        streams: B, how many parts of the text are read side by side.
        chunk: T, through how many characters gradients go back.
        learning_rate: Adam's, at its highest.
        clip: the gradient's norm is cut to this.
    """

    steps: int | None = None
    seconds: float | None = None
    streams: int = 32
    chunk: int = 32
    learning_rate: float = LEARNING_RATE
    clip: float = 1.0

    def within(self, length: int) -> FitSettings:
        """These settings with no more streams and no longer chunks than a text of ``length`` characters, at least two, has room for.

        >>> settings = FitSettings(steps=1, streams=100, chunk=50).within(121)
        >>> settings.streams, settings.chunk
        (2, 50)
        """
        pairs = length - 1
        chunk = min(self.chunk, pairs)
        return replace(self, streams=min(self.streams, pairs // chunk), chunk=chunk)

    def share(self, processes: OneProcess) -> slice:
        """Which of the streams this process runs.

        Raises:
            ValueError: they are not to be divided.
        """
        count, left = divmod(self.streams, processes.world_size)
        if left:
            raise ValueError(
                f"expected as many streams as {processes.world_size} processes can share equally, got {self.streams}: "
                f"let --streams be a multiple of {processes.world_size}"
            )
        return slice(processes.global_rank * count, (processes.global_rank + 1) * count)

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("expected exactly one of steps and seconds, got neither")
        if self.steps is not None and self.seconds is not None:
            raise ValueError("expected exactly one of steps and seconds, got both")
        for name, value in vars(self).items():
            if value is not None and not 0 < value < inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True)
class Step:
    """What is known after one step of fitting.

    Attributes:
        number: steps done, from 1.
        characters: characters read so far.
        seconds: since fitting began.
        fraction: how much of the training is done, 0 to 1.
        bits: bits per character on this step's own chunk, before the update.
    """

    number: int
    characters: int
    seconds: float
    fraction: float
    bits: float


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a step: all that it takes to go on to the same numbers.

    Attributes:
        step: the step.
        state: in which it ended, of all streams: the next chunk starts from it.
        model: the weights, by name.
        proven: those from before the step, which have read a chunk at a reasonable cost.
        adam: Adam's numbers for each parameter.
        generators: the state of torch's generator, which a cell may draw from, in each process.
    """

    step: Step
    state: Any
    model: dict[str, Tensor]
    proven: dict[str, Tensor]
    adam: dict[int, dict[str, Tensor]]
    generators: Sequence[Tensor]


class DivergedError(RuntimeError):
    """The training has left every reasonable model behind; the model has the last weights that had not.

    Attributes:
        step: the step that found out.
        bits: bits per character there, or infinity or NaN.
        weights_step: after which step the weights are those that the model has now; 0 for the initial ones.
    """

    def __init__(self, step: int, bits: float, weights_step: int, learning_rate: float) -> None:
        mend = f"try a learning rate below {learning_rate:g}" if step > 1 else "nothing has been learned yet, so look at the cell"
        super().__init__(f"the training diverged: at step {step} a character costs {bits:.3g} bits, where knowing nothing costs 8; {mend}")
        self.step, self.bits, self.weights_step = step, bits, weights_step


def fit(
    model: CharModel,
    text: bytes,
    settings: FitSettings,
    after_step: Callable[[Step], bool | None] | None = None,
    processes: OneProcess | None = None,
    *,
    start: Progress | None = None,
    save: Callable[[Progress], object] | None = None,
) -> Step:
    """Fit the model to the text.

    Args:
        model: is changed in place.
        text: at least two characters. A short one is read over and over again, in fewer streams or shorter chunks if it must be.
        settings: how, and how long.
        after_step: called after every step; when it returns False, fitting ends there. Of several processes the first one's is asked.
        processes: those that run this side by side, each with its share of the streams, to the weights that one would reach; None for one.
        start: where an earlier training with the same text and settings stood: this one goes on from there, to the same numbers.
        save: called every ``SAVE_EVERY`` seconds, and when ``after_step`` ends the training, with where it stands. The tensors are the
            training's own, and change with the next step. Of several processes the first one's is called.

    Returns:
        The last step.

    Raises:
        DivergedError: a chunk costs more than ``HOPELESS`` bits per character, or no finite number.
        ValueError: the streams cannot be shared out.
    """
    settings, processes = settings.within(len(text)), processes or OneProcess()
    own = settings.share(processes)
    step, state = Step(0, 0, 0.0, 0.0, inf), None
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
    proven = {name: value.clone() for name, value in model.state_dict().items()}
    if start:
        step, state = start.step, _each(start.state, lambda whole: whole[:, own])
        model.load_state_dict(start.model)
        adam.load_state_dict({"state": start.adam, "param_groups": adam.state_dict()["param_groups"]})
        proven = {name: value.clone() for name, value in start.proven.items()}
        if processes.global_rank < len(start.generators):  # else there were fewer processes, and this one draws on as it would
            torch.set_rng_state(start.generators[processes.global_rank])
    trained, optimizer = processes.setup(model, adam)

    def cost(loss: Tensor) -> float:
        return processes.all_reduce(loss.detach().clone()).item() / log(2)

    def prove(number: int, bits: float) -> None:
        """Note the weights that read a chunk at this cost, step ``number`` minus one's; if the cost is hopeless go back to those before."""
        if not bits <= HOPELESS:  # nor is NaN
            model.load_state_dict(proven)
            raise DivergedError(number, bits, max(0, number - 2), settings.learning_rate)
        for name, value in model.state_dict().items():
            proven[name].copy_(value)

    began, saved = perf_counter() - step.seconds, perf_counter()
    for inputs, targets, fresh in read_chunks(text, settings.streams, settings.chunk, step.number):
        number = step.number + 1
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step.fraction)
        before = None if fresh else state
        loss, state = _loss(trained, inputs[:, own], targets[:, own], before)
        bits = cost(loss)
        prove(number, bits)
        optimizer.zero_grad()
        processes.backward(loss)
        clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()

        seconds = perf_counter() - began
        fraction = number / settings.steps if settings.steps else min(1.0, seconds / (settings.seconds or 1))
        step = Step(number, step.characters + targets.numel(), seconds, fraction, bits)
        go_on = after_step is None or after_step(step) is not False
        due = save is not None and fraction < 1 and not (go_on and perf_counter() - saved < SAVE_EVERY)
        fraction, go_on, due = processes.broadcast((fraction, go_on, due))  # their clocks differ
        step = replace(step, fraction=fraction)
        if due:
            whole = _each(state, lambda own: torch.cat(tuple(processes.all_gather(own)), 1))
            generators = processes.all_gather(torch.get_rng_state()).unbind()
            if save:
                save(Progress(step, whole, model.state_dict(), proven, adam.state_dict()["state"], generators))
            saved = perf_counter()
        if fraction >= 1 or not go_on:
            break
    with torch.no_grad():  # no step follows that would judge the last one's weights
        prove(number + 1, cost(_loss(trained, inputs[:, own], targets[:, own], before)[0]))
    return step


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The mean cost of the targets in nats, and the state at the end, through which no gradient goes."""
    logits, state = model(inputs, state)
    return cross_entropy(logits.flatten(0, 1), targets.flatten().long()), _each(state, Tensor.detach)


def _each(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A state, which is a tensor or a tuple of some, with each of them changed."""
    return tuple([change(each) for each in state]) if isinstance(state, tuple) else change(state)


def read_chunks(text: bytes, streams: int, chunk: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """The text in chunks, without end: inputs (T, B), targets (T, B) one character further on, and whether the text begins anew.
    The chunks before ``first`` are passed over.

    >>> inputs, targets, fresh = next(read_chunks(b"abcdefghi", streams=2, chunk=3))
    >>> [bytes(column.tolist()) for column in inputs.t()], [bytes(column.tolist()) for column in targets.t()], fresh
    ([b'abc', b'efg'], [b'bcd', b'fgh'], True)
    """
    settings = FitSettings(steps=1, streams=streams, chunk=chunk).within(len(text))
    streams, chunk = settings.streams, settings.chunk
    characters = as_characters(text)
    length = (len(characters) - 1) // streams
    inputs = characters[: streams * length].view(streams, length).t()
    targets = characters[1 : streams * length + 1].view(streams, length).t()
    for number in count(first):
        begin = number % (length // chunk) * chunk
        yield inputs[begin : begin + chunk], targets[begin : begin + chunk], begin == 0


def schedule(fraction: float) -> float:
    """The learning rate's share of its highest value: a short linear rise, then half a cosine down to nothing.

    >>> [round(schedule(fraction), 2) for fraction in (0, 0.03, 0.515, 1)]
    [0.01, 1.0, 0.5, 0.0]

    Source: I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017).
    """
    if fraction < _WARM_UP:
        return max(fraction / _WARM_UP, 0.01)
    return (1 + cos(pi * (fraction - _WARM_UP) / (1 - _WARM_UP))) / 2
