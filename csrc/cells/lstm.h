// The long short-term memory, with a forget gate and no peepholes, as torch has it:
//   i = s(a_i)   f = s(a_f)   g = tanh(a_g)   o = s(a_o)   c' = f c + i g   h' = o tanh(c')
#pragma once

#include "cell.h"

namespace elman::ELMAN_TARGET {

template <class T> struct Lstm {
  using V = Vec<T>;
  static constexpr const char* kName = "lstm";
  static constexpr int kGates = 4, kSplitGate = -1, kSaved = 5, kGateGradients = 4;
  static constexpr bool kReadsPreviousH = false, kHasCellState = true;
  static constexpr bool kBackwardReadsH = false, kBackwardReadsPrevious = true;
  static constexpr int input_gate(int column) { return column; }

  static ELMAN_INLINE V output(V o, V c) { return o * tanh(c); }  // from what is saved, where it is needed again
  static ELMAN_INLINE V forward(V* a, V, V, V& c) {               // saves i, f, g, o, c'
    const V i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]), o = sigmoid(a[3]);
    c = fma(f, c, i * g);
    a[0] = i, a[1] = f, a[2] = g, a[3] = o, a[4] = c;
    return output(o, c);
  }
  static ELMAN_INLINE void backward(V* a, V grad_h, V, V previous, V& carry) {
    const V i = a[0], f = a[1], g = a[2], o = a[3], t = tanh(a[4]), one = splat(T(1));
    const V grad_c = fma(grad_h * o, fnma(t, t, one), carry);
    carry = grad_c * f;
    a[0] = grad_c * g * (i * (one - i));
    a[1] = grad_c * previous * (f * (one - f));
    a[2] = grad_c * i * fnma(g, g, one);
    a[3] = grad_h * t * (o * (one - o));
  }
  static ELMAN_INLINE void backward_traced(V* a, const V* grad_saved, V grad_h, V h, V previous, V& carry) {
    const V i = a[0], f = a[1], g = a[2], o = a[3], one = splat(T(1));
    carry += grad_saved[4];
    backward(a, grad_h, h, previous, carry);
    a[0] = fma(grad_saved[0], i * (one - i), a[0]);
    a[1] = fma(grad_saved[1], f * (one - f), a[1]);
    a[2] = fma(grad_saved[2], fnma(g, g, one), a[2]);
    a[3] = fma(grad_saved[3], o * (one - o), a[3]);
  }
};

ELMAN_CELL(Lstm)

}  // namespace elman::ELMAN_TARGET
