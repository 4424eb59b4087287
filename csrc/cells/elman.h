// The Elman cell: h = f(a), where a is the sum of the input's part, the state's part and the biases.
#pragma once

#include "cell.h"

namespace elman::ELMAN_TARGET {

struct ElmanBase {  // one gate, one state, and from the new state alone its derivative
  static constexpr int kGates = 1, kSplitGate = -1, kSaved = 0, kGateGradients = 1;
  static constexpr bool kReadsPreviousH = false, kHasCellState = false;
  static constexpr bool kBackwardReadsH = true, kBackwardReadsPrevious = false;
  static constexpr int input_gate(int column) { return column; }
};

template <class T> struct ElmanTanh : ElmanBase {
  static constexpr const char* kName = "rnn_tanh";
  using V = Vec<T>;
  static ELMAN_INLINE V forward(V* a, V, V, V&) { return tanh(a[0]); }
  static ELMAN_INLINE void backward(V* a, V grad_h, V h, V, V&) { a[0] = grad_h * fnma(h, h, splat(T(1))); }
};

template <class T> struct ElmanRelu : ElmanBase {
  static constexpr const char* kName = "rnn_relu";
  using V = Vec<T>;
  static ELMAN_INLINE V forward(V* a, V, V, V&) { return relu(a[0]); }
  static ELMAN_INLINE void backward(V* a, V grad_h, V h, V, V&) {
    const V zero{};
    a[0] = h <= zero ? zero : grad_h;  // where h is NaN the gradient passes, as in torch
  }
};

ELMAN_CELL(ElmanTanh)
ELMAN_CELL(ElmanRelu)

}  // namespace elman::ELMAN_TARGET
