// The order in which a direction takes its steps: which sequences have one, where its rows lie, and what came before;
// and what of a call's tensors belongs to a layer and direction.
#pragma once

#include "../kernels.h"
#include "../simd.h"

namespace elman::ELMAN_TARGET {

// Where the rows of one step lie: evenly, in an order of their own. Data null: nowhere.
template <class T> struct StepRows {
  T* data = nullptr;
  long stride = 0;
  const std::int64_t* order = nullptr;  // null: one after another
  ELMAN_INLINE T* operator[](long row) const { return data + (order ? order[row] : row) * stride; }
  explicit operator bool() const { return data; }
};

// Positions 0..T-1 of the sequences first..last-1. Position s is step(s); row r of what a position reads and writes is
// sequence first + r. Sequences are in falling order of length: those that have a step are always the first so many.
struct StepOrder {
  const Network& net;
  bool reverse;
  long first, last;

  long count() const { return last - first; }
  long step(long s) const { return reverse ? net.T - 1 - s : s; }
  long rows_at(long t) const { return net.alive ? max(0, min(last, net.alive[t]) - first) : count(); }
  long rows(long s) const { return rows_at(step(s)); }
  // Of the rows of position s, the first so many have the position before, too; the others start here.
  long continuing(long s) const { return s == 0 ? 0 : min(rows(s), rows(s - 1)); }
  // The first so many have the position after; the others end here.
  long staying(long s) const { return s == net.T - 1 ? 0 : min(rows(s), rows(s + 1)); }
  // The same steps from the last to the first.
  StepOrder reversed() const { return {net, !reverse, first, last}; }

  // Whether row r's state before position s is a fresh one, and not that of the position before (or the initial one).
  bool resets(long s, long r) const {
    if (!net.resets.data) return false;
    const long t = step(s) + reverse;  // in reverse, what comes to a step comes from the step after
    const long b = net.order ? net.order[first + r] : first + r;
    return t < net.T && r < rows_at(t) && net.resets.data[t * net.resets.step + b * net.resets.sequence];
  }

  // Where the rows of position s lie.
  template <class T> StepRows<T> rows_of(const StepTensor& x, long s) const {
    const long t = step(s);
    T* data = static_cast<T*>(x.data);
    if (!data) return {};
    if (!net.alive) return {data + t * x.step + first * x.sequence, x.sequence, nullptr};
    if (!x.padded) return {data + (net.offset[t] + first) * x.sequence, x.sequence, nullptr};
    return {data + t * x.step, x.sequence, net.order + first};
  }
  template <class T> T* row_of(const StepTensor& x, long s, long r) const { return rows_of<T>(x, s)[r]; }

  // Pointers to all rows of positions from..to-1, one after another; returns how many.
  template <class T> long gather(const StepTensor& x, long from, long to, T** pointers) const {
    long m = 0;
    for (long s = from; s < to; ++s) {
      const StepRows<T> here = rows_of<T>(x, s);
      for (long r = 0, n = rows(s); r < n; ++r) pointers[m++] = here[r];
    }
    return m;
  }

  // Pointers to the rows of `states` before position s: those of the position before where there is one, else those of
  // `initial` (dense, `width` long), or where a reset cuts, `fresh`. Null: `zeros`.
  template <class T> void gather_previous(const StepTensor& states, long s, const T* initial, const T* fresh,
      long width, const T* zeros, const T** pointers) const {
    const long old = continuing(s), n = rows(s);
    if (old > 0) {
      const StepRows<const T> previous = rows_of<const T>(states, s - 1);
      for (long r = 0; r < old; ++r) pointers[r] = previous[r];
    }
    for (long r = old; r < n; ++r) pointers[r] = initial ? initial + (first + r) * width : zeros;
    if (net.resets.data)
      for (long r = 0; r < n; ++r)
        if (resets(s, r)) pointers[r] = fresh ? fresh : zeros;
  }
};

// The index-th of the parts of `size` numbers; null of null.
template <class T> ELMAN_INLINE T* slice(void* all, long index, long size) {
  return all ? static_cast<T*>(all) + index * size : nullptr;
}
template <class T> ELMAN_INLINE const T* slice(const void* all, long index, long size) {
  return slice<T>(const_cast<void*>(all), index, size);
}

// A dense (rows, width) buffer that holds all of a layer's rows; and one that holds what is saved of them.
inline StepTensor dense(const Network& net, void* data, long width) { return {data, net.B * width, width}; }
inline StepTensor dense_saved(const Network& net, void* data, long width) {
  return net.padded_rows ? StepTensor{data, net.padded_batch * width, width, 1, true} : dense(net, data, width);
}
// The same tensor from a column on.
template <class T> ELMAN_INLINE StepTensor from_column(const StepTensor& x, long column) {
  return {x.data ? static_cast<T*>(x.data) + column : nullptr, x.step, x.sequence, x.column, x.padded};
}

template <class T> void copy_steps(const Network& net, const StepTensor& from, const StepTensor& to, long width) {
  const StepOrder order{net, false, 0, net.B};
  for (long t = 0; t < net.T; ++t)
    for (long r = 0, n = order.rows(t); r < n; ++r)
      __builtin_memcpy(order.row_of<T>(to, t, r), order.row_of<T>(from, t, r), width * sizeof(T));
}

// What is saved of a layer and direction, (rows, K, H).
template <class T> ELMAN_INLINE StepTensor saved_of(const Network& net, const void* all, long index) {
  const long width = net.cell->saved * net.H;
  return dense_saved(net, const_cast<T*>(slice<T>(all, index, net.saved_rows() * width)), width);
}

// c is saved before the first position, and before those at which the backward pass's chunks end, counted from the end.
inline long checkpoint_at(const Network& net, long s) { return ceil_div(net.T - s, backward_chunk(net)) - 1; }
inline bool is_checkpoint(const Network& net, long s) { return s == 0 || (net.T - s) % backward_chunk(net) == 0; }

}  // namespace elman::ELMAN_TARGET
