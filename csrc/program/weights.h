// A direction's weights as the products of the forward scan read them, and the products of a step.
#pragma once

#include "../buffer.h"
#include "../product/packing.h"
#include "../scan/input_projection.h"
#include "call.h"

namespace elman::ELMAN_TARGET {

template <class T> constexpr long plane(long count) { return spread(count, sizeof(T)); }

// A panel of a product of gates: what it starts from (null: what lies where it goes), where it goes, and how many
// columns it has.
template <class T> struct PanelPlace {
  const T* start;
  long to, width;
};

template <class T, bool kWhole> struct GateEpilogue {  // whether all panels are whole
  const PanelPlace<T>* places;
  T* z;         // of the first row
  long stride;  // from one row to the next
  ELMAN_INLINE Vec<T> init(long row, long panel, int) const {
    const PanelPlace<T>& at = places[panel];
    return at.start ? load(at.start) : load_within(z + at.to + row * stride, 0, kWhole ? kLanes<T> : at.width);
  }
  ELMAN_INLINE void finish(long row, long panel, const Vec<T>* sum) const {
    const PanelPlace<T>& at = places[panel];
    store_within(z + at.to + row * stride, 0, kWhole ? kLanes<T> : at.width, sum[0]);
  }
};

// Panels from..to-1 of H columns.
struct ColumnPart {
  long from, to, first, count;  // the columns: the first, how many
};
template <class T> ColumnPart panel_columns(long H, long from, long to) {
  return {from, to, from * kLanes<T>, min(H, to * kLanes<T>) - from * kLanes<T>};
}
template <class T> ColumnPart column_part(long H, long i, long parts) {
  return panel_columns<T>(H, panels<T>(H) * i / parts, panels<T>(H) * (i + 1) / parts);
}

// The gates' parts of a chunk of steps lie in arrays of rows of H, the inputs' first; a recurrent one has its own
// unless it is added to an input's.
template <class T> class ProgramWeights {
 public:
  using Element = T;
  const Plan& plan;
  const long H, I;
  const long parts;   // that the columns are divided into
  const long stride;  // numbers of a row of all arrays

  ProgramWeights(const Plan& plan, const Network& net, long H, long I, long parts)
      : plan(plan), H(H), I(I), parts(parts), stride(array_of(plan.recurrents) * H), each_(panels<T>(H)),
        plane_(plane<T>(
            max(net.B, min(net.T * net.B, kProjectionBytes / static_cast<long>(sizeof(T)) / max(1, stride))) * H)),
        w_ih_(plan.inputs * each_ * kLanes<T> * I), w_hh_(plan.recurrents * each_ * kLanes<T> * H),
        bias_((plan.inputs + plan.recurrents) * each_ * kLanes<T>), places_((plan.inputs + plan.recurrents) * each_) {}
  bool ok() const { return all_ok(w_ih_, w_hh_, bias_, places_); }

  long tasks() const { return plan.inputs + plan.recurrents; }
  void pack(const ProgramParameters& p, long task) const {  // the task-th gate's
    const T *b_ih = static_cast<const T*>(p.b_ih), *b_hh = static_cast<const T*>(p.b_hh);
    const auto of = [&](const T* bias, long g) { return bias && g >= 0 ? bias + g * H : nullptr; };
    if (task < plan.inputs)
      return pack_gate(static_cast<const T*>(p.w_ih) + task * H * I, I, w_ih_, 0, task, plan.inputs, task, true,
          of(b_ih, task), of(b_hh, plan.joined_recurrent[task]));
    long at = task - plan.inputs, product = 0;
    while (at >= plan.gate_products[product].count) at -= plan.gate_products[product++].count;
    const GateProduct& gates = plan.gate_products[product];
    const long g = gates.gates[at], first = gates_before(product) * each_;
    pack_gate(static_cast<const T*>(p.w_hh) + g * H * H, H, w_hh_ + first * kLanes<T> * H, plan.inputs * each_ + first,
        at, gates.count, array_of(g), plan.joined_input[g] < 0, of(b_hh, g), nullptr);
  }

  // For a chunk of steps: how many numbers; how many rows of some columns; where a gate's part begins.
  long room(long) const { return stride > 0 ? stride / H * plane_ : 0; }
  long most_rows(const ColumnPart& columns) const { return (plane_ - columns.first) / max(1, columns.count); }
  long input_at(int g) const { return g * plane_; }
  long recurrent_at(int g) const { return array_of(g) * plane_; }

  // Panels from..to-1, one of the parts, of the inputs' parts of M rows of x; a row of z ends after `width` numbers.
  void project(long M, const Rows<T>& x, long from, long to, T* z, long width) const {
    multiply(M, x, I, w_ih_ + plan.inputs * from * kLanes<T> * I, plan.inputs * (to - from), plan.inputs * from, z,
        width, false);
  }
  void project(long M, const Rows<T>& x, long from, long to, T* z) const { project(M, x, from, to, z, H); }
  // Likewise the index-th product; z: at its first row.
  void multiply(long index, long M, const T* const* rows, long from, long to, T* z, bool falls) const {
    const long count = plan.gate_products[index].count, first = gates_before(index) * each_ + count * from;
    multiply(M, Rows<T>{rows}, H, w_hh_ + first * kLanes<T> * H, count * (to - from), plan.inputs * each_ + first, z, H,
        falls);
  }

 private:
  void multiply(
      long M, const Rows<T>& rows, long K, const T* w, long count, long place, T* z, long width, bool falls) const {
    const PanelPlace<T>* at = places_ + place;
    if (H % kLanes<T> == 0) product<T, 1>(M, rows, K, w, 0, count, GateEpilogue<T, true>{at, z, width}, falls);
    else product<T, 1>(M, rows, K, w, 0, count, GateEpilogue<T, false>{at, z, width}, falls);
  }
  long gates_before(long product) const {
    long count = 0;
    for (long p = 0; p < product; ++p) count += plan.gate_products[p].count;
    return count;
  }
  long array_of(int recurrent) const {
    if (recurrent < plan.recurrents && plan.joined_input[recurrent] >= 0) return plan.joined_input[recurrent];
    long array = plan.inputs;
    for (int g = 0; g < recurrent; ++g) array += plan.joined_input[g] < 0;
    return array;
  }
  // The i-th of `count` gates that are multiplied together: part by part of the columns, its panels are neighbours. The
  // panels' places begin at `place`.
  void pack_gate(const T* w, long K, T* packed, long place, long i, long count, long array, bool starts, const T* bias,
      const T* more) const {
    for (long part = 0; part < parts; ++part) {
      const ColumnPart c = column_part<T>(H, part, parts);
      const long n = c.to - c.from, at = count * c.from + i * n;
      pack_transposed<T, 1>(w, H, K, c.from, c.to, packed + at * kLanes<T> * K);
      for (long j = 0; j < n; ++j) {
        const long column = c.first + j * kLanes<T>, width = min(kLanes<T>, H - column);
        T* start = bias_ + (place + at + j) * kLanes<T>;
        for (long l = 0; l < kLanes<T>; ++l)
          start[l] = l < width ? (bias ? bias[column + l] : T(0)) + (more ? more[column + l] : T(0)) : T(0);
        places_[place + at + j] = {starts ? start : nullptr, array * plane_ + column, width};
      }
    }
  }
  const long each_, plane_;             // panels of a gate; numbers of an array
  const Buffer<T> w_ih_, w_hh_, bias_;  // (panels, K, W) and (panels, W)
  const Buffer<PanelPlace<T>> places_;
};

}  // namespace elman::ELMAN_TARGET
