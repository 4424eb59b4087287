// The cells by the numbers that calls name them with.
#pragma once

#include "../kernels.h"
#include "elman.h"
#include "gru.h"
#include "lstm.h"

namespace elman::ELMAN_TARGET {

// Calls f with the cell asked for, computed in T.
template <class T, class F> bool with_cell(CellKind cell, F f) {
  switch (cell) {
    case CellKind::rnn_tanh: return f(ElmanTanh<T>{});
    case CellKind::rnn_relu: return f(ElmanRelu<T>{});
    case CellKind::gru: return f(Gru<T>{});
    case CellKind::lstm: return f(Lstm<T>{});
  }
  return false;
}

}  // namespace elman::ELMAN_TARGET
