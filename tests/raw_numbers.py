"""What a raw call of the kernels must leave in memory, and how far from it rounding may lead. NumPy in float64, for test_fuzz.

Unlike ``oracle`` it takes the operands of the very call: the backward pass starts from whatever lies in ``output``, ``hidden``, ``saved``
and ``checkpoints``. A call's T and B count the steps and sequences that are run, in the order of ``raw.Steps``. A step's equations and
roundings are those of ``bounds``, all sequences of a step at once. A bound there is zero without rounding and convex in the size of one, so
float64's errors are at most 2^-29 times float32's; and as much again, since these numbers are float64 too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from approx import SIGMOID_ULPS, TANH_ULPS, Approx, Sum, U, gamma
from bounds import CELLS, Terms, Weights
from oracle import Direction, order, sigmoid
from raw import CELLS as NAMES
from raw import LSTM, SAVED, STATES, WEIGHTS, checkpoint_steps, shapes

if TYPE_CHECKING:
    from raw import Call

Values = dict[str, np.ndarray]
Saved = tuple[tuple[Approx, ...], tuple[Approx, ...], Approx]  # of a step: the states before, what the cell saves, h after

TINY = {0: 2.0**-149, 1: 2.0**-1074}  # what an underflow may lose
DOUBLE = 2 * 2.0**-29


def activation(call: Call, values: Values) -> tuple[Values, Values]:
    """The expected values by operand, and the errors allowed."""
    x = values.get("source", np.empty(0))
    function, ulps = ((np.tanh, TANH_ULPS), (lambda x: np.maximum(x, 0.0), 0.0), (sigmoid, SIGMOID_ULPS))[call["function"]]
    expected = function(x)
    unit = 2 * U * (DOUBLE if call["number"] else 1)
    return {"target": expected}, {"target": ulps * (unit * np.abs(expected) + TINY[call["number"]])}


def forward(call: Call, values: Values, alive: list[int]) -> tuple[Values, Values]:
    """The expected values and errors of a forward pass; ``alive`` counts the sequences of each step. Inputs and outputs are packed."""
    B, H, L, D, rows, cell = call["B"], call["H"], call["L"], call["D"], sum(alive), call["cell"]
    found: dict[str, list[Approx]] = {"hidden": [], "saved": [], "checkpoints": []} | {f"final {state}": [] for state in "hc"}
    x = Approx.exact(values["x"])
    for index in range(L):
        outputs = []
        for d in range(D):
            k = index * D + d
            weights, states = _weights(call, values, k), _states(call, values, "initial", k)
            fresh, cuts = _fresh(call, values, k), _cuts(values, alive, d)
            steps: dict[int, tuple[Approx, ...]] = {}
            for s, (t, here) in enumerate(_way(alive, d)):
                states = tuple(_cut(cuts[t], state, new) for state, new in zip(states, fresh, strict=True))
                if cell == LSTM and s in checkpoint_steps(call):
                    found["checkpoints"].append(states[1])
                live = slice(alive[t])
                after, saved = weights.forward(x[here], tuple(state[live] for state in states))
                states = tuple(new.followed_by(old[alive[t] :]) for new, old in zip(after, states, strict=True))
                steps[t] = (after[0], *saved)
            h, *saved = (_all(steps[t][i] for t in range(len(alive))) for i in range(1 + SAVED[cell]))
            outputs.append(h)
            found["saved"] += (
                [Approx.of(*(np.stack([getattr(number, name) for number in saved], 1) for name in ("value", "error")))] if saved else []
            )
            for state, name in zip(states, "hc", strict=False):
                found[f"final {name}"].append(state)
        x = _beside(outputs)
        found["hidden"].append(x)
    found["output"] = [found["hidden"].pop()]
    checkpoints = len(checkpoint_steps(call))
    if cell == LSTM:  # in a direction's way they come in order; in memory they are counted from its end
        found["checkpoints"] = [
            found["checkpoints"][k * checkpoints + checkpoints - 1 - m] for k in range(L * D) for m in range(checkpoints)
        ]
    assert all(step.value.shape == (rows, SAVED[cell], H) for step in found["saved"])
    assert all(state.value.shape == (B, H) for state in found["checkpoints"])
    return _split(call, {name: _all(parts, flat=True) for name, parts in found.items() if parts})


def backward(call: Call, values: Values, alive: list[int]) -> tuple[Values, Values]:
    """The expected gradients and their errors."""
    B, H, L, D, rows = call["B"], call["H"], call["L"], call["D"], sum(alive)
    width = D * (call["P"] or H)
    hidden, grad_hidden = (values[name].reshape(L - 1, rows, width) if name in values else () for name in ("hidden", "grad_hidden"))
    layers = [values["x"], *hidden, values["output"]]
    grad_out = Approx.exact(values.get("grad_output", np.zeros((rows, width))))
    found: dict[str, list[Approx]] = {
        f"{name} {state}": [] for name in ("grad_initial", "grad_fresh") for state in "hc"[: STATES[call["cell"]]]
    }
    for index in reversed(range(L)):
        x = Approx.exact(layers[index])
        grad_in = Approx.exact(grad_hidden[index - 1]) if index > 0 and len(grad_hidden) else None
        states_gradients, fresh_gradients = [], []
        for d in range(D):
            k = index * D + d
            weights = _weights(call, values, k)
            own = slice(d * weights.width, (d + 1) * weights.width)
            steps = _recall(call, values, alive, k, weights, x, layers[index + 1][:, own])
            terms, cuts = Terms(_direction(call, values, k)), _cuts(values, alive, d)
            grad_states = _states(call, values, "grad_final", k)
            at_fresh: list[tuple[Sum, ...]] = []
            grad_steps: dict[int, Approx] = {}
            for t, here in reversed(_way(alive, d)):
                live = slice(alive[t])
                d_h = Sum.of(grad_states[0][live]) + Sum.of(_columns(grad_out[here], own))
                grad_after = d_h, *(Sum.of(state[live]) for state in grad_states[1:])
                grad_x, grad_before = weights.backward(x[here], *steps[t], grad_after, terms, _grad_output(call, values, k, here))
                at_fresh.append(tuple(_some(cuts[t][live], state) for state in grad_before))
                gone = tuple(Approx.exact(np.zeros(state.value.value.shape[1])) for state in grad_before)
                grad_before = tuple(_cut(cuts[t][live], state.rounded(), zeros) for state, zeros in zip(grad_before, gone, strict=True))
                grad_states = tuple(new.followed_by(old[alive[t] :]) for new, old in zip(grad_before, grad_states, strict=True))
                grad_steps[t] = grad_x.rounded()
            grad_x = _all(grad_steps[t] for t in range(len(alive)))
            grad_in = grad_x if grad_in is None else (Sum.of(grad_in) + Sum.of(grad_x)).rounded()
            states_gradients.append(grad_states)
            fresh_gradients.append(tuple(map(_total, zip(*at_fresh, strict=True))))
            error = terms.error(rows)
            for name in terms.values.names:
                found[f"d {name} {k}"] = [Approx.of(np.atleast_1d(getattr(terms.values, name)), np.atleast_1d(getattr(error, name)))]
        for kind, gradients in (("grad_initial", states_gradients), ("grad_fresh", fresh_gradients)):
            for name, per_direction in zip("hc", zip(*gradients, strict=True), strict=False):
                found[f"{kind} {name}"] = [*per_direction, *found[f"{kind} {name}"]]
        grad_out = grad_in
    found["grad_x"] = [grad_out]
    assert all(state.value.shape[0] == B for state in found["grad_initial h"])
    return _split(call, {name: _all(parts, flat=True) for name, parts in found.items()})


def _recall(call: Call, values: Values, alive: list[int], k: int, weights: Weights, x: Approx, output: np.ndarray) -> dict[int, Saved]:
    """What backward knows of each step of a direction: from what was saved, or else by running its steps again.

    A checkpoint, which holds what a reset left there, says what c before its step was; the steps that are run again begin afresh all the
    same where a reset cuts.
    """
    B, H, cell, rows = call["B"], call["H"], call["cell"], sum(alive)
    initial = _states(call, values, "initial", k)
    h, *cells = initial
    scratch = list(cells)  # where steps are run again: as it stood at the checkpoint, and since then
    checkpoints = checkpoint_steps(call)
    fresh, cuts = _fresh(call, values, k), _cuts(values, alive, k % call["D"])
    steps: dict[int, Saved] = {}
    lived = 0
    for s, (t, here) in enumerate(_way(alive, k % call["D"])):
        n, cut = alive[t], cuts[t]
        h, cells, scratch = _cut(cut, h, fresh[0]), [_cut(cut, c, fresh[1]) for c in cells], [_cut(cut, c, fresh[1]) for c in scratch]
        before = (h[:n], *(state[:n] for state in cells))
        if not SAVED[cell]:
            saved: tuple[Approx, ...] = ()
        elif "saved" in values:
            numbers = values["saved"].reshape(call["L"] * call["D"], rows, SAVED[cell], H)[k, here]
            saved = tuple(Approx.exact(numbers[:, i]) for i in range(SAVED[cell]))
        else:
            if cell == LSTM and s in checkpoints:
                at = len(checkpoints) - 1 - sorted(checkpoints).index(s)
                scratch = [Approx.exact(values["checkpoints"].reshape(-1, len(checkpoints), B, H)[k, at])]
                before = (h[:n], scratch[0][:n])
                scratch = [_cut(cut, scratch[0], fresh[1])]
            elif cell == LSTM:  # a sequence that begins here has its initial state before it
                before = (h[:n], _cut(cut[:n], scratch[0][: min(n, lived)].followed_by(initial[1][min(n, lived) : n]), fresh[1]))
            _, saved = weights.forward(x[here], (h[:n], *(state[:n] for state in scratch)))
        if cell == LSTM:
            cells = [saved[-1].followed_by(cells[0][n:])]
            scratch = [saved[-1].followed_by(scratch[0][n:])]
        after = Approx.exact(output[here])
        steps[t] = before, saved, after
        h, lived = after.followed_by(h[n:]), n
    return steps


def _way(alive: list[int], direction: int) -> list[tuple[int, slice]]:
    """The steps in the order in which a direction takes them, and where the rows of each lie."""
    first = np.concatenate(([0], np.cumsum(alive)))
    return [(t, slice(first[t], first[t + 1])) for t in order(len(alive), direction)]


def _cuts(values: Values, alive: list[int], direction: int) -> dict[int, np.ndarray]:
    """For each step in a direction's way: of which sequences the state before it is a fresh one."""
    resets = values.get("reset", np.zeros(sum(alive))) != 0
    by_step = {t: np.pad(resets[here], (0, alive[0] - alive[t])) for t, here in _way(alive, 0)}
    never = np.zeros(alive[0], bool)
    return by_step if direction == 0 else {t: by_step.get(t + 1, never) for t in by_step}


def _cut(cut: np.ndarray, state: Approx, fresh: Approx) -> Approx:
    """A state, (B, width), with a fresh one, (width,), for some sequences."""
    value, error = (np.where(cut[:, None], getattr(fresh, name), getattr(state, name)) for name in ("value", "error"))
    return Approx(value, error, np.where(cut, fresh.norm, state.norm))


def _some(cut: np.ndarray, of: Sum) -> Sum:
    return Sum(Approx.of(of.value.value[cut], of.value.error[cut]), of.magnitude[cut], of.terms)


def _total(sums: tuple[Sum, ...]) -> Approx:
    """The sum of all rows of several sums, taken in any order; each may be added in two parts."""
    value, error, magnitude = (
        np.concatenate(parts) for parts in zip(*((s.value.value, s.value.error, s.magnitude) for s in sums), strict=True)
    )
    roundings = sums[0].terms + 2 * len(value)
    return Approx.of(value.sum(0), error.sum(0) + gamma(roundings) * magnitude.sum(0) + len(value) * roundings * TINY[0])


def _fresh(call: Call, values: Values, k: int) -> tuple[Approx, ...]:
    """What resets start from in the k-th direction, each of its state's width; zeros where they are null."""
    widths = (call["P"] or call["H"], call["H"])[: STATES[call["cell"]]]
    return tuple(
        Approx.exact(values[f"fresh {state}"][k] if f"fresh {state}" in values else np.zeros(width))
        for state, width in zip("hc", widths, strict=False)
    )


def _grad_output(call: Call, values: Values, k: int, here: slice) -> tuple[Approx, ...] | None:
    """What arrives at the numbers saved of a step."""
    if "grad_saved" not in values:
        return None
    numbers = values["grad_saved"].reshape(call["L"] * call["D"], -1, SAVED[call["cell"]], call["H"])[k, here]
    return tuple(Approx.exact(numbers[:, i]) for i in range(SAVED[call["cell"]]))


def _direction(call: Call, values: Values, k: int) -> Direction:
    """The parameters of a direction, counted through all layers; zeros for biases that there are not."""
    there = {name: values.get(f"{name} {k}", np.zeros(shape)) for name, shape in shapes(call | {"bias": True}, k).items()}
    return Direction(*(there[name] for name in WEIGHTS if name in there))


def _weights(call: Call, values: Values, k: int) -> Weights:
    return Weights(CELLS[NAMES[call["cell"]]], _direction(call, values, k))


def _states(call: Call, values: Values, name: str, k: int) -> tuple[Approx, ...]:
    """The k-th direction's, each (B, its width); zeros where they are null."""
    B, directions = call["B"], call["L"] * call["D"]
    widths = (call["P"] or call["H"], call["H"])[: STATES[call["cell"]]]
    given = (values.get(f"{name} {state}", np.zeros((directions, B, width))) for state, width in zip("hc", widths, strict=False))
    return tuple(Approx.exact(state.reshape(directions, B, width)[k]) for state, width in zip(given, widths, strict=True))


def _columns(vectors: Approx, columns: slice) -> Approx:
    return Approx.of(vectors.value[:, columns], vectors.error[:, columns])


def _beside(parts: list[Approx]) -> Approx:
    return Approx.of(*(np.concatenate([getattr(part, name) for part in parts], 1) for name in ("value", "error")))


def _all(parts: object, flat: bool = False) -> Approx:
    """One after another; ``flat``, as numbers without shape."""
    parts = list(parts)
    return Approx.of(
        *(np.concatenate([a.ravel() if flat else a for a in (getattr(part, name) for part in parts)]) for name in ("value", "error"))
    )


def _split(call: Call, found: dict[str, Approx]) -> tuple[Values, Values]:
    scale = DOUBLE if call["number"] else 1.0
    return {name: value.value for name, value in found.items()}, {name: scale * value.error for name, value in found.items()}
