// Gate gradients: what the backward scan leaves, and the epilogues that compute it.
#pragma once

#include "../buffer.h"
#include "../product/product.h"
#include "halves.h"

namespace elman::ELMAN_TARGET {

// The gate gradients of a chunk, a row for each of its steps of each sequence, half by half; and those of the chunk
// before: at a chunk's first position those of the last one there are read.
template <class T, class Cell> struct GateGradients {
  using Kept = Factor<T>;                                                 // as they are multiplied
  static constexpr long kLine = 64 / static_cast<long>(sizeof(Kept));     // numbers in a cache line
  static constexpr int kRecurrent = Cell::kGateGradients - Cell::kGates;  // the first of the recurrent parts

  const long H, capacity, positions;  // rows of a chunk, and its steps
  const long stride, h_stride;        // from one row to the next
  const Buffer<Kept> gates;           // (2, capacity, kGateGradients·H)
  const Buffer<Kept> h;               // (capacity, P): of h, where the units' output is projected

  GateGradients(const Network& net, long positions, bool projects)
      : H(net.H), capacity(positions * net.B), positions(positions), stride(spread(Cell::kGateGradients * H)),
        h_stride(spread(net.P)), gates(2 * capacity * stride), h(projects ? capacity * h_stride : 0) {}
  bool ok() const { return all_ok(gates, h); }
  // Rows a power of two apart would share a few sets of the cache: an odd number of cache lines spreads them.
  static long spread(long width) { return (ceil_div(width, kLine) | 1) * kLine; }

  // Of a part's sequences at a position of a chunk, before which all sequences have `before` rows there.
  SplitRows<Kept> rows(const StepOrder& part, long chunk, long before) const {
    return rows_by_half<Kept>(gates + chunk % 2 * capacity * stride, stride, positions, part, before);
  }
  SplitRows<Kept> h_rows(const StepOrder& part, long before) const {
    return rows_by_half<Kept>(h, h_stride, positions, part, before);
  }
};

template <class T> struct IncomingGradient {  // what comes to h from outside, for some rows
  StepRows<const T> output;                   // nowhere: zeros
  long column;                                // 0: one number stands for a whole row
  const T* final;                             // of row `ending` and those after; dense, `width` long; null: zeros
  long width, ending;
  ELMAN_INLINE void prefetch(long row, long group) const {
    if (output && column) __builtin_prefetch(output[row] + group * kLanes<T>);
  }
  ELMAN_INLINE Vec<T> init(long row, long group, int) const {
    const long at = group * kLanes<T>;
    Vec<T> grad{};
    if (output) grad = column ? load_within(output[row], at, width) : splat(*output[row]);
    if (final && row >= ending) grad += load_within(final + row * width, at, width);
    return grad;
  }
};

// The state before a step that backward() reads: c, which a call holds in its wide form, or h.
template <class T, class Cell> using PreviousState = std::conditional_t<Cell::kHasCellState, Wide<T>, T>;

// From the gradient of the states, through the cell, to the gradients of the gates.
template <class T, class Cell> struct CellGradientEpilogue : IncomingGradient<T> {
  static constexpr int K = Cell::kSaved, N = Cell::kGateGradients;
  const StepRows<const T> h;                        // the new h
  const StepRows<const Wide<T>> saved, grad_saved;  // (K, H); what comes to it, nowhere: zeros
  const PreviousState<T, Cell>* const* previous;    // before the step; null where the cell does not read it
  Wide<T>* carry;                                   // (rows, H); null likewise
  const SplitRows<typename GateGradients<T, Cell>::Kept> gates;  // N·H each
  long H;
  ELMAN_INLINE void prefetch(long row, long group) const {
    if constexpr (Cell::kBackwardReadsH) __builtin_prefetch(h[row] + group * kLanes<T>);
    for (int k = 0; k < K; ++k) __builtin_prefetch(saved[row] + k * H + group * kLanes<T>);
    IncomingGradient<T>::prefetch(row, group);
  }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* grad_h) const {
    const long column = group * kLanes<T>;
    Vec<T> a[K > N ? K : N], now{}, old{}, carried{};
    for (int k = 0; k < K; ++k) a[k] = load_within(saved[row] + k * H, column, H);
    if constexpr (Cell::kBackwardReadsH) now = load_within(h[row], column, H);
    if constexpr (Cell::kBackwardReadsPrevious)
      old = load_within(previous[row], column, H), carried = load_within(carry + row * H, column, H);
    if constexpr (K > 0)
      if (grad_saved) {
        Vec<T> grad[K];
        for (int k = 0; k < K; ++k) grad[k] = load_within(grad_saved[row] + k * H, column, H);
        Cell::backward_traced(a, grad, grad_h[0], now, old, carried);
        return store_gradients(row, column, a, carried);
      }
    Cell::backward(a, grad_h[0], now, old, carried);
    store_gradients(row, column, a, carried);
  }
  ELMAN_INLINE void store_gradients(long row, long column, const Vec<T>* a, Vec<T> carried) const {
    if constexpr (Cell::kBackwardReadsPrevious) store_within(carry + row * H, column, H, carried);
    for (int g = 0; g < N; ++g) store_within(gates[row] + g * H, column, H, a[g]);
  }
};

// The gradient of h itself: where a projection lies between it and the cell, and of initial states.
template <class T, class To> struct StateGradientEpilogue : IncomingGradient<T> {
  const SplitRows<To> to;
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* grad) const {
    store_within(to[row], group * kLanes<T>, this->width, grad[0]);
  }
};

}  // namespace elman::ELMAN_TARGET
