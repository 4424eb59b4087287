// The Elman cell: h = f(a), where a is the sum of the input's part, the state's part and the biases.
#pragma once

#include "../math.h"

namespace elman::ELMAN_TARGET {

// What the scan asks of a cell, on vectors of units:
//   kGates                  pre-activations per unit, side by side in the register tile
//   forward(a)              a[g] in, the new state out
//   backward(d, h, a)       d: gradient of the new state; h: the new state, as stored; a[g] out: gradient of each pre-activation
template <class T>
struct ElmanTanh {
  static constexpr int kGates = 1;
  static ELMAN_INLINE Vec<T> forward(const Vec<T>* a) { return tanh(a[0]); }
  static ELMAN_INLINE void backward(Vec<T> d, Vec<T> h, Vec<T>* a) { a[0] = d * (splat(T(1)) - h * h); }
};

template <class T>
struct ElmanRelu {
  static constexpr int kGates = 1;
  static ELMAN_INLINE Vec<T> forward(const Vec<T>* a) { return relu(a[0]); }
  static ELMAN_INLINE void backward(Vec<T> d, Vec<T> h, Vec<T>* a) {
    const Vec<T> zero{};
    a[0] = h <= zero ? zero : d;  // where h is NaN the gradient passes, as in torch
  }
};

}  // namespace elman::ELMAN_TARGET
