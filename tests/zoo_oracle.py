"""The cells of elman.zoo, each written from its paper for one sequence and one step, in NumPy: neither torch nor elman is imported.

A step gets x, its states by their letters, the weights ``w`` and what comes with the step, and returns the states after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
tanh, exp, sqrt = np.tanh, np.exp, np.sqrt


def sigma(a: Array) -> Array:
    return 1 / (1 + exp(-a))


def relu(a: Array) -> Array:
    return np.where(a > 0, a, 0.0)


def standard(*vectors: Array) -> list[Array]:
    """Several vectors as one with mean 0 and variance 1, cut again."""
    whole = np.concatenate(vectors)
    return np.split((whole - np.mean(whole)) / sqrt(np.var(whole) + 1e-5), len(vectors))


class Weights:
    """The parameters of one direction. ``W.f(x)``: the rows of gate f of the input's matrix times x, and bias; ``U.f(h)``: of the other."""

    def __init__(self, parameters: dict[str, Array], inputs: str, recurrent: str) -> None:
        self.W = _Matrices(parameters, "ih", inputs)
        self.U = _Matrices(parameters, "hh", recurrent)
        self.own = parameters

    def __getitem__(self, name: str) -> Array:
        return self.own[name]


class _Matrices:
    def __init__(self, parameters: dict[str, Array], which: str, gates: str) -> None:
        if gates:
            matrix = parameters[f"weight_{which}"]
            bias = parameters.get(f"bias_{which}", np.zeros(len(matrix)))
            self._all = {gate: (np.split(matrix, len(gates))[k], np.split(bias, len(gates))[k]) for k, gate in enumerate(gates)}

    def __getattr__(self, gate: str) -> Any:
        matrix, bias = self._all[gate]
        return lambda v: matrix @ v + bias


# --- With gates as an LSTM's ------------------------------------------------------------------------------------------


def peephole_lstm(x: Array, h: Array, c: Array, w: Weights) -> tuple[Array, ...]:
    W, U = w.W, w.U
    new = sigma(W.f(x) + U.f(h) + w["p_f"] * c) * c + sigma(W.i(x) + U.i(h) + w["p_i"] * c) * tanh(W.g(x) + U.g(h))
    return sigma(W.o(x) + U.o(h) + w["p_o"] * new) * tanh(new), new


def coupled_lstm(x: Array, h: Array, c: Array, w: Weights) -> tuple[Array, ...]:
    write = sigma(w.W.i(x) + w.U.i(h))
    new = c + write * (tanh(w.W.g(x) + w.U.g(h)) - c)
    return tanh(new) * sigma(w.W.o(x) + w.U.o(h)), new


def layer_norm_lstm(x: Array, h: Array, c: Array, w: Weights) -> tuple[Array, ...]:
    below, before = standard(*(getattr(w.W, k)(x) for k in "ifgo")), standard(*(getattr(w.U, k)(h) for k in "ifgo"))
    a = {k: w["gain_ih_" + k] * below[n] + w["gain_hh_" + k] * before[n] + w["shift_" + k] for n, k in enumerate("ifgo")}
    new = sigma(a["f"]) * c + sigma(a["i"]) * tanh(a["g"])
    return sigma(a["o"]) * tanh(w["gain_c"] * standard(new)[0] + w["shift_c"]), new


def slstm(x: Array, h: Array, c: Array, n: Array, m: Array, w: Weights, forget: Any = sigma) -> tuple[Array, ...]:
    """As the paper writes it before it is stabilised: c and n as they are, of which the network has exp(-m) times as much."""
    i, f = exp(w.W.i(x) + w.U.i(h)), forget(w.W.f(x) + w.U.f(h))
    c, n = f * c * exp(m) + i * tanh(w.W.g(x) + w.U.g(h)), f * n * exp(m) + i
    return sigma(w.W.o(x) + w.U.o(h)) * c / n, c, n, 0 * m


def slstm_exp(x: Array, h: Array, c: Array, n: Array, m: Array, w: Weights) -> tuple[Array, ...]:
    return slstm(x, h, c, n, m, w, exp)


def phased_lstm(x: Array, h: Array, c: Array, phase: Array, w: Weights, dt: Array) -> tuple[Array, ...]:
    time = phase * w["tau"] + dt  # since the last whole period
    phi = np.mod(time - w["shift"] * w["tau"], w["tau"]) / w["tau"]
    k = np.empty_like(h)
    for unit, (angle, on) in enumerate(zip(phi, w["on"], strict=True)):
        k[unit] = 2 * angle / on if angle < on / 2 else 2 - 2 * angle / on if angle < on else 0.001 * angle
    h_open, c_open = peephole_lstm(x, h, c, w)
    return k * h_open + (1 - k) * h, k * c_open + (1 - k) * c, np.mod(time, w["tau"]) / w["tau"]


# --- With gates as a GRU's --------------------------------------------------------------------------------------------


def layer_norm_gru(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    (a_z, a_r), (q_z, q_r) = standard(w.W.z(x), w.W.r(x)), standard(w.U.z(h), w.U.r(h))
    z = sigma(w["gain_ih_z"] * a_z + w["gain_hh_z"] * q_z + w["shift_z"])
    r = sigma(w["gain_ih_r"] * a_r + w["gain_hh_r"] * q_r + w["shift_r"])
    candidate = tanh(w["gain_ih_n"] * standard(w.W.n(x))[0] + w["shift_n"] + r * (w["gain_hh_n"] * standard(w.U.n(h))[0] + w["shift_hn"]))
    return (h + z * (candidate - h),)


def gru2014(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    r, z = sigma(w.W.r(x) + w.U.r(h)), sigma(w.W.z(x) + w.U.z(h))
    return (z * h + (1 - z) * tanh(w.W.n(x) + w.U.n(r * h)),)


def mgu(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    f = sigma(w.W.f(x) + w.U.f(h))
    return (h + f * (tanh(w.W.n(x) + w.U.n(f * h)) - h),)


def ligru(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    z = sigma(w["gain_z"] * standard(w.W.z(x))[0] + w["shift_z"] + w.U.z(h))
    return (h * z + (1 - z) * relu(w["gain_n"] * standard(w.W.n(x))[0] + w["shift_n"] + w.U.n(h)),)


def grud(x: Array, h: Array, w: Weights, dt: Array) -> tuple[Array, ...]:
    h = h * exp(-np.maximum(0, w["w_d"] * dt + w["b_d"]))
    return gru_write(h, sigma(w.W.z(x) + w.U.z(h)), tanh(w.W.n(x) + w.U.n(sigma(w.W.r(x) + w.U.r(h)) * h)))


def gru_write(h: Array, z: Array, candidate: Array) -> tuple[Array, ...]:
    return ((1 - z) * h + z * candidate,)


# --- With one gate or none --------------------------------------------------------------------------------------------


def ugrnn(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    g = sigma(w.W.g(x) + w.U.g(h) + 1.0)
    return (g * h + (1 - g) * tanh(w.W.n(x) + w.U.n(h)),)


def janet(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    s = w.U.f(h) + w.W.f(x)
    return (sigma(s) * h + (1 - sigma(s - 1.0)) * tanh(w.U.n(h) + w.W.n(x)),)


def star(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    k = sigma(w.W.k(x) + w.U.k(h))
    return (tanh(h - k * h + k * tanh(w.W.z(x))),)


def fast_grnn(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    both = w.W.z(x) + w.U.z(h)
    z, candidate = sigma(both + w["b_z"]), tanh(both + w["b_n"])
    return (sigma(w["zeta"]) * (1 - z) * candidate + sigma(w["nu"]) * candidate + z * h,)


def antisymmetric_rnn(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    return (h + 0.01 * tanh(w.U.h(h) - 0.01 * h + w.W.h(x)),)


def gated_antisymmetric_rnn(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    shared = w.U.h(h) - 0.02 * h
    return (h + 0.5 * sigma(shared + w.W.z(x)) * tanh(shared + w.W.h(x)),)


def cornn(x: Array, y: Array, z: Array, w: Weights) -> tuple[Array, ...]:
    acceleration = tanh(w.U.y(y) + w.U.z(z) + w.W.y(x)) - 2.7 * y - 4.7 * z
    z = z + 0.042 * acceleration
    return y + 0.042 * z, z


def leaky_rnn(x: Array, h: Array, v: Array, w: Weights) -> tuple[Array, ...]:
    v = v + 0.2 * (w.U.v(h) + w.W.v(x) - v)  # dt/tau times what tau dv/dt is
    return relu(v), v


def cfc(x: Array, h: Array, w: Weights, dt: Array) -> tuple[Array, ...]:
    share = sigma(-(w.W.f(x) + w.U.f(h)) * dt)
    return (share * tanh(w.W.g(x) + w.U.g(h)) + (1 - share) * tanh(w.W.k(x) + w.U.k(h)),)


# --- Without a product in the step ------------------------------------------------------------------------------------


def min_gru(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    z = sigma(w.W.z(x))
    return ((1 - z) * h + z * w.W.n(x),)


def min_gru_positive(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    z, a = sigma(w.W.z(x)), w.W.n(x)
    return ((1 - z) * h + z * np.array([each + 0.5 if each >= 0 else sigma(each) for each in a]),)


def min_lstm(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    f, i = sigma(w.W.f(x)), sigma(w.W.i(x))
    return (f / (f + i) * h + i / (f + i) * w.W.n(x),)


def indrnn(x: Array, h: Array, w: Weights) -> tuple[Array, ...]:
    return (relu(w.W.h(x) + w["u"] * h),)


def sru(x: Array, h: Array, c: Array, w: Weights) -> tuple[Array, ...]:
    f, r = sigma(w.W.f(x) + w["v_f"] * c), sigma(w.W.r(x) + w["v_r"] * c)
    c = f * c + (1 - f) * w.W.n(x)
    return r * c + (1 - r) * w.W.k(x) * sqrt(3), c
