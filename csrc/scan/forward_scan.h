// The forward scan of one direction: a template on the cell. Each step is one product of the states before it with the
// packed recurrent weights, which starts from the input's projection and ends in the cell, tile by tile, in registers.
// The states before a step are read where the step before wrote them: h in the output, c where the final c will be.
#pragma once

#include "input_projection.h"
#include "packed_weights.h"

namespace elman::ELMAN_TARGET {

// What one direction of one layer reads and writes on its way forward.
template <class T> struct ForwardTensors {
  StepTensor x, h;         // (T, B, I) and (T, B, P)
  const T* initial;        // (B, P): h before the first step; null: zeros
  const T* fresh;          // (P,): the h that resets start from; null: zeros
  const Wide<T>* fresh_c;  // (H,) likewise
  Wide<T>* c;        // (B, H): c before the first step, and after each sequence's last; null where the cell has none
  T* units;          // (B, H): the units' output before its projection; null where nothing is projected
  StepTensor saved;  // (T, B, K·H), Wide<T>; data null: not saved
  Wide<T>* checkpoints;  // (number of checkpoints, B, H); null: not saved
  bool recomputes;       // h is there already; only c and what is saved are needed
};

template <class T, class Cell> struct CellEpilogue {  // one step of the cell
  static constexpr int G = Cell::kGates;
  const PackedWeights<T, Cell>& weights;
  const Wide<T>* z;
  long stride;
  const T* const* previous;  // h before the step
  StepRows<T> h;             // after it; nowhere: not needed
  Wide<T>* c;                // (rows, H): before the step, and after it
  StepRows<Wide<T>> saved;   // (K, H) of each row; nowhere: not saved
  ELMAN_INLINE Vec<T> init(long row, long group, int g) const {
    return g == Cell::kSplitGate ? load(weights.split_bias(group)) : projected(row, group, g);
  }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* unit) const {
    const long column = group * kLanes<T>, H = weights.H;
    Vec<T> a[G + Cell::kSaved], x{}, state{}, memory{};
    for (int g = 0; g < G; ++g) a[g] = unit[g];
    if constexpr (Cell::kSplitGate >= 0) x = projected(row, group, Cell::kSplitGate);
    if constexpr (Cell::kReadsPreviousH) state = load_within(previous[row], column, H);
    if constexpr (Cell::kHasCellState) memory = load_within(c + row * H, column, H);
    const Vec<T> out = Cell::forward(a, x, state, memory);
    if constexpr (Cell::kHasCellState) store_within(c + row * H, column, H, memory);
    if (h) store_within(h[row], column, H, out);
    if (Cell::kSaved > 0 && saved)
      for (int k = 0; k < Cell::kSaved; ++k) store_within(saved[row] + k * H, column, H, a[k]);
  }
  ELMAN_INLINE Vec<T> projected(long row, long group, int g) const {
    return load(z + row * stride + (group * G + g) * kLanes<T>);
  }
};

// The projected positions for the order's sequences and the part-th of `parts` parts of the columns. Where there are
// several, the threads that do them meet after each step.
template <class T, class Cell> void scan_forward(const StepOrder& order, const ForwardTensors<T>& tensors,
    InputProjection<PackedWeights<T, Cell>>& projection, long part, long parts, Failure& failure, Team& team) {
  const PackedWeights<T, Cell>& weights = projection.weights;
  const long from = projection.from, to = projection.to, stride = weights.stride, B = order.count();
  const long H = weights.H, P = weights.P, out_groups = weights.out_groups;
  const bool projects = tensors.units && !tensors.recomputes, meets = parts > 1;
  const Buffer<T> zeros(P);
  const Lhs<T> previous(B, P), units(projects ? B : 0, H);
  if (!failure.let_go_on(all_ok(projection, zeros, previous, units), meets, team)) return projection.abandon();
  for (long i = 0; i < P; ++i) zeros[i] = T{};
  for (long r = 0; projects && r < B; ++r) units.rows[r] = tensors.units + (order.first + r) * H;
  Wide<T>* c = Cell::kHasCellState ? tensors.c + order.first * H : nullptr;
  for (long chunk = 0; chunk < projection.chunks(); ++chunk) {
    const Wide<T>* z = projection.take(chunk);
    for (long s = projection.begin(chunk); s < projection.end(chunk); ++s) {
      const long n = order.rows(s);
      const StepRows<T> h = order.template rows_of<T>(tensors.h, s);
      if (c && order.net.resets.data)
        for (long r = 0; r < n; ++r)
          if (order.resets(s, r)) copy_columns(c + r * H, tensors.fresh_c, 1, H, from, to);
      if (tensors.checkpoints && is_checkpoint(order.net, s)) {
        const long at = checkpoint_at(order.net, s) * order.net.B + order.first;
        copy_columns(tensors.checkpoints + at * H, c, B, H, from, to);
      }
      order.template gather_previous<T>(tensors.h, s, tensors.initial, tensors.fresh, P, zeros, previous.rows);
      CellEpilogue<T, Cell> cell{
          weights, z, stride, previous.rows, {}, c, order.template rows_of<Wide<T>>(tensors.saved, s)};
      if (projects) cell.h = {tensors.units + order.first * H, H};
      else if (!tensors.recomputes) cell.h = h;
      product<Factor<T>, Cell::kGates>(n, previous.first(n), P, weights.w_hh(from), from, to, cell, s % 2);
      z += n * stride;
      if (meets && !tensors.recomputes) team.barrier();
      if (projects) {
        const long first = out_groups * part / parts, last = out_groups * (part + 1) / parts;
        const StoreEpilogue<T, StepRows<T>> store{h, P, false};
        product<Factor<T>, 1>(n, units.first(n), H, weights.w_hr(first), first, last, store);
        if (meets) team.barrier();
      }
    }
    projection.wavefront.advance(projection.end(chunk));
  }
}

}  // namespace elman::ELMAN_TARGET
