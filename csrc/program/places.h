// Where the values of a program lie in one direction of one layer.
#pragma once

#include "machine.h"
#include "weights.h"

namespace elman::ELMAN_TARGET {

// The caller's index of the sequence in the r-th row of an order.
inline long sequence_of(const StepOrder& order, long r) {
  return order.net.order ? order.net.order[order.first + r] : order.first + r;
}
inline bool cuts(const StepOrder& order, long s, long n) {
  if (order.net.resets.data)
    for (long r = 0; r < n; ++r)
      if (order.resets(s, r)) return true;
  return false;
}
// The rows of a position, side by side where they lie; null where they do not.
template <class T> T* side_by_side(const StepOrder& order, const StepTensor& x, long s, long width) {
  const StepRows<T> rows = order.rows_of<T>(x, s);
  return rows.data && !rows.order && (rows.stride == width || order.rows(s) == 1) ? rows.data : nullptr;
}
// Rows of a position from a tensor of `width` columns, 1 or H, to an array of rows of H.
template <class T> void copy_in(const StepOrder& order, const StepTensor& from, long s, long width, long H, T* to) {
  const StepRows<const T> rows = order.rows_of<const T>(from, s);
  for (long r = 0, n = order.rows(s); r < n; ++r, to += H)
    if (width == H) __builtin_memcpy(to, rows[r], H * sizeof(T));
    else
      for (long i = 0; i < H; ++i) to[i] = *rows[r];
}
// Some columns of rows of H, from an array to a tensor.
template <class T>
void copy_out(const StepOrder& order, const T* from, const StepTensor& to, long s, long H, const ColumnPart& columns) {
  const StepRows<T> rows = order.rows_of<T>(to, s);
  for (long r = 0, n = order.rows(s); r < n; ++r)
    __builtin_memcpy(rows[r] + columns.first, from + r * H + columns.first, columns.count * sizeof(T));
}

// Rows of so many numbers, from one stride to another.
template <class T> void copy_rows(long n, long width, const T* from, long from_stride, T* to, long to_stride) {
  for (; n-- > 0; from += from_stride, to += to_stride)
    for (long i = 0; i < width; i += kLanes<T>) store_within(to, i, width, load_within(from, i, width));
}

// Where the rows of arrays lie that are kept of each position: position by position, from row number `first` of the
// direction's on; or where the sequences are in parts, of which an order is then one, part by part.
struct KeptRows {
  long parts = 1, first = 0;
  long at(const StepOrder& order, long s) const {  // the first row of a position
    const long t = order.step(s);
    if (parts > 1) return order.first * order.net.T + t * order.count();
    return (order.net.offset ? order.net.offset[t] : t * order.net.B) + order.first - first;
  }
};
// SAVED and the factors.
template <class T> struct KeptArrays {
  T* data;
  long stride;  // from one to the next
  KeptRows rows;
};

// What of a call belongs to one direction of one layer.
template <class T> struct DirectionOf {
  const ProgramCall& call;
  const long index, I;
  const StepTensor x, h;  // (T, B, I) and (T, B, H)
  const KeptRows rows{};  // of what is kept

  const Plan& plan() const { return *call.plan; }
  const ProgramParameters& parameters() const { return call.parameters[index]; }
  const T* initial(int s) const { return slice<T>(call.initial[s], index, call.batch * call.net.H); }
  const T* fresh(int s) const { return slice<T>(call.fresh[s], index, call.net.H); }
  StepTensor of(const DirectionTensor& tensor) const { return from_column<T>(tensor.first, index * tensor.direction); }
  // What is kept: the i-th array.
  T* kept(int i) const {
    return slice<T>(call.kept, index, kept_each(plan(), call.recompute, call.net)) +
        i * plane<T>(call.net.rows * call.net.H);
  }
  T* kept_state(int state) const {
    int i = 0;
    for (int s = 1; s < state; ++s) i += keeps_state(plan(), call.recompute, s);
    return call.kept && keeps_state(plan(), call.recompute, state) ? kept(i) : nullptr;
  }
  T* saved(int k) const { return kept(kept_states(plan(), call.recompute) + k); }
  KeptArrays<T> saved_and_factors() const { return {saved(0), plane<T>(call.net.rows * call.net.H), rows}; }
  T* factor(int j) const { return saved(plan().saved + j); }

  // The states before position s, of which those of the position before lie side by side: where they are, or brought
  // together in `to`.
  const T* before(const StepOrder& order, long s, int state, const T* previous, T* to) const {
    const long n = order.rows(s), old = order.continuing(s), H = call.net.H;
    const bool cut = cuts(order, s, n);
    const T *start = initial(state), *anew = fresh(state);
    if (!cut && old == n) return previous;
    if (!cut && old == 0 && start && !order.net.order) return start + order.first * H;
    for (long r = 0; r < n; ++r) {
      const T* from = cut && order.resets(s, r) ? anew
          : r < old                             ? previous + r * H
          : start                               ? start + sequence_of(order, r) * H
                                                : nullptr;
      if (from) __builtin_memcpy(to + r * H, from, H * sizeof(T));
      else __builtin_memset(to + r * H, 0, H * sizeof(T));
    }
    return to;
  }
  // The states after position s, kept by the forward pass, side by side.
  const T* after(const StepOrder& order, long s, int state, T* to) const {
    const Network& net = call.net;
    if (state > 0) return kept_state(state) + rows.at(order, s) * net.H;
    if (const T* found = side_by_side<const T>(order, h, s, net.H)) return found;
    copy_in(order, h, s, net.H, net.H, to);
    return to;
  }
  // Likewise before it. `to` and `room`: so many rows, apart.
  const T* known_before(const StepOrder& order, long s, int state, T* to, T* room) const {
    return before(order, s, state, s > 0 ? after(order, s - 1, state, room) : nullptr, to);
  }
};

// Where a step's values of a kind lie: so far beyond what one of the scan's pointers points to, and further with the
// row among those of the chunk, or among all that are kept, where it has all its numbers or one.
enum Along { still, along_chunk, along_kept, along_kept_rows };
template <class T> struct Place {
  T* const* from;
  long beyond = 0;
  Along along = still;
};

// The values of a code: scratch, numbers and parameters lie here. Where they hold all, the rest does too, but for the
// inputs' parts and for sums, which are of one row; else it is put where it lies, step by step.
template <class T> class Values {
 public:
  const Code& code;
  const BlockShape shape;

  // Of some columns, for at most so many rows, which are `stride` apart where they are not here.
  Values(const Plan& plan, const Code& code, const ProgramParameters& parameters, long rows, const ColumnPart& columns,
      long stride, bool holds_all = false)
      : code(code),
        shape(columns.count == stride ? block_shape<T>(plan, stride)
                                      : BlockShape{1, min(columns.count, block_shape<T>(plan, stride).columns)}),
        plan_(plan), parameters_(parameters), rows_(rows), width_(columns.count), first_(columns.first),
        stride_(stride), holds_all_(holds_all), bases_(2 * code.value_count), strides_(3 * code.value_count),
        moving_(code.value_count), memory_(lay_out(nullptr, false)) {}
  bool ok() const { return all_ok(bases_, strides_, moving_, memory_); }
  // Once there is memory. place(kind, index): of values that are not here.
  template <class F> void begin(F place) {
    const Places<T> at = places();
    lay_out(memory_, true);
    for (int i = 0; i < moving_count_; ++i) {
      Moving& m = moving_[i];
      const Value& v = code.values[m.value];
      m.place = place(v.kind, v.index);
      if (v.of_row) m.place.along = along_kept_rows;
    }
    for (int v = 0; v < code.value_count; ++v) {
      const Value& value = code.values[v];
      if (value.kind == Kind::constant) fill(at.base[v], static_cast<T>(code.constants[value.index]), kLanes<T>);
      else if (value.kind == Kind::own) put_own(at.base[v], value.index);
    }
    run(0, code.stages[0], 0, shape.rows, [](auto...) {});
  }
  // Where a value lies that is held here; null: no instruction has it.
  T* at(Kind kind, int index) const {
    for (int v = 0; v < code.value_count; ++v)
      if (code.values[v].kind == kind && code.values[v].index == index) return bases_[v];
    return nullptr;
  }
  // To a step, by where its first row begins in the chunk, and its place among those kept.
  void move(long in_chunk, long kept) const {
    const long further[] = {first_, first_ + in_chunk, first_ + kept * stride_, kept};
    for (int i = 0; i < moving_count_; ++i) {
      const Moving& m = moving_[i];
      bases_[m.value] = *m.place.from + (m.place.beyond + further[m.place.along]);
    }
  }
  template <class F> void run(int stage, long rows, F finish) const {
    run(code.stages[stage], code.stages[stage + 1], 0, rows, finish);
  }
  void run_rows(int stage, long begin, long rows) const {
    run(code.stages[stage], code.stages[stage + 1], begin, rows, [](auto...) {});
  }

 private:
  struct Moving {
    int value;
    Place<T> place;
  };
  template <class F> void run(int first, int end, long begin, long rows, F finish) const {
    run_instructions(code, first, end, places(), bases_ + code.value_count, shape, begin, rows, width_, finish);
  }
  Places<T> places() const { return {bases_, strides_, strides_ + code.value_count, strides_ + 2 * code.value_count}; }
  static void fill(T* to, T x, long n) {
    for (long i = 0; i < n; ++i) to[i] = x;
  }
  void put_own(T* to, int own) const {
    const T* from = static_cast<const T*>(parameters_.own[own]);
    if (!plan_.own_is_vector[own]) return fill(to, *from, kLanes<T>);
    for (long r = 0; r < shape.rows; ++r) __builtin_memcpy(to + r * width_, from + first_, width_ * sizeof(T));
  }
  // Puts all where it lies, from `memory` on, or only counts; returns how many numbers that takes, which may be none.
  long lay_out(T* memory, bool puts) {
    constexpr long W = kLanes<T>, kLine = 64 / static_cast<long>(sizeof(T));
    const Places<T> to = places();
    long used = 0;
    moving_count_ = 0;
    for (int v = 0; v < code.value_count; ++v) {
      const Value& value = code.values[v];
      long count = 0, row = 0, column = 0, lane = W;
      switch (value.kind) {
        case Kind::constant: count = W, lane = 0; break;
        case Kind::own:
          if (plan_.own_is_vector[value.index]) count = shape.rows * width_, column = 1;
          else count = W, lane = 0;
          break;
        case Kind::derived: count = shape.rows * width_, column = 1; break;
        case Kind::temp: count = shape.rows * (value.of_row ? 1 : shape.columns); break;
        case Kind::carry: count = plane<T>(rows_ * width_), row = width_, column = 1; break;
        case Kind::grad_input:
        case Kind::grad_recurrent:
        case Kind::grad_own:
          if (value.kept || holds_all_) count = plane<T>(rows_ * width_), row = width_, column = 1;
          else count = shape.rows * shape.columns;
          break;
        default:
          row = value.kind == Kind::sum_own && holds_all_ ? 0 : value.of_row ? 1 : stride_, column = !value.of_row;
          if (holds_all_ && value.kind != Kind::sum_own && value.kind != Kind::input) count = plane<T>(rows_ * stride_);
          else if (puts) moving_[moving_count_++].value = v;
      }
      if (puts) to.put(v, count ? memory + used : nullptr, row, column, lane);
      used += ceil_div(count, kLine) * kLine;
    }
    return used;
  }

  const Plan& plan_;
  const ProgramParameters& parameters_;
  const long rows_, width_, first_, stride_;  // the columns: how many, the first
  const bool holds_all_;
  const Buffer<T*> bases_;
  const Buffer<long> strides_;
  const Buffer<Moving> moving_;
  int moving_count_ = 0;
  const Buffer<T> memory_;
};

}  // namespace elman::ELMAN_TARGET
