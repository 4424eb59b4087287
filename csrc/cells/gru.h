// The gated recurrent unit, with the reset gate after the product, as torch and cuDNN have it:
//   r = s(x_r + h_r)   z = s(x_z + h_z)   n = tanh(x_n + r h_n)   h' = n + z (h - n)
// x_g and h_g being gate g's input and recurrent parts, each with its bias.
#pragma once

#include "cell.h"

namespace elman::ELMAN_TARGET {

template <class T> struct Gru {
  using V = Vec<T>;
  static constexpr const char* kName = "gru";
  static constexpr int kGates = 3, kSplitGate = 2, kSaved = 4, kGateGradients = 4;
  static constexpr bool kReadsPreviousH = true, kHasCellState = false;
  static constexpr bool kBackwardReadsH = false, kBackwardReadsPrevious = true;
  static constexpr int input_gate(int column) { return (column + 2) % 3; }  // n, r, z; n's recurrent part follows

  static ELMAN_INLINE V forward(V* a, V x_n, V h, V&) {  // saves r, z, n, h_n
    const V r = sigmoid(a[0]), z = sigmoid(a[1]), h_n = a[2], n = tanh(fma(r, h_n, x_n));
    a[0] = r, a[1] = z, a[2] = n, a[3] = h_n;
    return fma(z, h - n, n);
  }
  static ELMAN_INLINE void backward(V* a, V grad_h, V, V previous, V& carry) {
    const V r = a[0], z = a[1], n = a[2], h_n = a[3], one = splat(T(1));
    grad_h += carry;
    carry = grad_h * z;
    const V grad_n = grad_h * (one - z) * fnma(n, n, one);
    a[0] = grad_n;
    a[1] = grad_n * h_n * (r * (one - r));
    a[2] = grad_h * (previous - n) * (z * (one - z));
    a[3] = grad_n * r;
  }
  static ELMAN_INLINE void backward_traced(V* a, const V* grad_saved, V grad_h, V h, V previous, V& carry) {
    const V r = a[0], z = a[1], n = a[2], h_n = a[3], one = splat(T(1));
    backward(a, grad_h, h, previous, carry);
    a[0] = fma(grad_saved[2], fnma(n, n, one), a[0]);
    a[1] = fma(a[0], h_n, grad_saved[0]) * (r * (one - r));
    a[2] = fma(grad_saved[1], z * (one - z), a[2]);
    a[3] = fma(a[0], r, grad_saved[3]);
  }
};

ELMAN_CELL(Gru)

}  // namespace elman::ELMAN_TARGET
