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

template <class T, bool kStarts> struct GateEpilogue {  // kStarts: all start from a vector, as these are side by side
  const PanelPlace<T>* places;
  const T* starts;
  T* z;         // of the first row
  long stride;  // from one row to the next
  ELMAN_INLINE Vec<T> init(long row, long panel, int) const {
    if constexpr (kStarts) return load(starts + panel * kLanes<T>);
    const PanelPlace<T>& at = places[panel];
    return at.start ? load(at.start) : load_within(z + at.to + row * stride, 0, at.width);
  }
  ELMAN_INLINE void finish(long row, long panel, const Vec<T>* sum) const {
    const PanelPlace<T>& at = places[panel];
    store_within(z + at.to + row * stride, 0, at.width, sum[0]);
  }
  ELMAN_INLINE bool place(long row, long, long first, long panels, SumsInPlace<T>& sums) const {
    sums.apart = stride, sums.adds = false;
    for (long i = 0; i < panels; ++i) {
      const PanelPlace<T>& at = places[first + i];
      if (at.width != kLanes<T>) return false;
      T* const to = z + at.to + row * stride;
      const T* const start = kStarts ? starts + (first + i) * kLanes<T> : at.start;
      sums.place(i, start ? start : to, start ? 0 : stride, to);
    }
    return true;
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

// The gates' parts of a chunk of steps lie in arrays of rows of H (code.h). Where a step has one row and there are no
// blocks of steps, those of a row are neighbours instead, part by part of the columns: then a product adds to them in
// place, panel by panel.
template <class T> class ProgramWeights {
 public:
  using Element = T;
  const Plan& plan;
  const long H, I;
  const long parts;        // that the columns are divided into
  const long stride, row;  // numbers of a row of all arrays; from one row of a chunk to the next

  ProgramWeights(const Plan& plan, const Network& net, long H, long I, long parts, bool in_blocks)
      : plan(plan), H(H), I(I), parts(parts), stride(plan.arrays * panels<T>(H) * kLanes<T>),
        row(net.B == 1 && !in_blocks ? stride : H), each_(panels<T>(H)),
        plane_(plane<T>(
            max(net.B, min(net.T * net.B, kProjectionBytes / static_cast<long>(sizeof(T)) / max(1, stride))) * H)),
        neighbours_(net.B == 1 && !in_blocks), w_ih_(plan.inputs * each_ * kLanes<T> * I),
        w_hh_(plan.recurrents * each_ * kLanes<T> * H), bias_((plan.inputs + plan.recurrents) * each_ * kLanes<T>),
        places_((plan.inputs + plan.recurrents) * each_) {}
  bool ok() const { return all_ok(w_ih_, w_hh_, bias_, places_); }

  long tasks() const { return plan.inputs + plan.recurrents; }
  void pack(const ProgramParameters& p, long task) const {  // the task-th gate's
    const T *b_ih = static_cast<const T*>(p.b_ih), *b_hh = static_cast<const T*>(p.b_hh);
    const auto of = [&](const T* bias, long g) { return bias && g >= 0 ? bias + g * H : nullptr; };
    if (task < plan.inputs)
      return pack_gate(static_cast<const T*>(p.w_ih) + task * H * I, I, w_ih_, 0, task, plan.inputs,
          plan.array_of_input[task], true, of(b_ih, task), of(b_hh, plan.joined_recurrent[task]));
    long at = task - plan.inputs, product = 0;
    while (at >= plan.gate_products[product].count) at -= plan.gate_products[product++].count;
    const GateProduct& gates = plan.gate_products[product];
    const long g = gates.gates[at], first = gates.before * each_;
    pack_gate(static_cast<const T*>(p.w_hh) + g * H * H, H, w_hh_ + first * kLanes<T> * H, plan.inputs * each_ + first,
        at, gates.count, plan.array_of_recurrent[g], plan.joined_input[g] < 0, of(b_hh, g), nullptr);
  }

  // For a chunk of steps: how many numbers; how many rows of some columns; where a gate's part begins, columns counted
  // from the first of all.
  long room(long rows) const { return neighbours_ ? rows * stride : plan.arrays * plane_; }
  long most_rows(const ColumnPart& columns) const { return (plane_ - columns.first) / max(1, columns.count); }
  long input_at(int g, const ColumnPart& c) const { return at(plan.array_of_input[g], c) - c.first; }
  long recurrent_at(int g, const ColumnPart& c) const { return at(plan.array_of_recurrent[g], c) - c.first; }

  // Panels from..to-1, one of the parts, of the inputs' parts of M rows of x; a row of z ends after `width` numbers.
  void project(long M, const Rows<T>& x, long from, long to, T* z, long width) const {
    const long first = plan.inputs * from;
    product<T, 1>(M, x, I, w_ih_ + first * kLanes<T> * I, 0, plan.inputs * (to - from),
        GateEpilogue<T, true>{places_ + first, bias_ + first * kLanes<T>, z, width});
  }
  void project(long M, const Rows<T>& x, long from, long to, T* z) const { project(M, x, from, to, z, row); }
  // Likewise the index-th product; z: at its first row.
  void multiply(long index, long M, const T* const* rows, long from, long to, T* z, bool falls) const {
    const GateProduct& of = plan.gate_products[index];
    const long first = of.before * each_ + of.count * from, count = of.count * (to - from);
    const T* w = w_hh_ + first * kLanes<T> * H;
    const PanelPlace<T>* places = places_ + plan.inputs * each_ + first;
    if (!neighbours_)
      return product<T, 1>(M, Rows<T>{rows}, H, w, 0, count, GateEpilogue<T, false>{places, nullptr, z, row}, falls);
    T* in_place = z + places->to;
    for (long i = 0; i < count; ++i)
      if (const T* start = places[i].start) store(in_place + i * kLanes<T>, load(start));
    add_product(Rows<T>{rows}, H, w, count, in_place, falls);
  }

 private:
  // Of one row, whose panels are neighbours.
  static void add_product(const Rows<T>& rows, long K, const T* w, long count, T* to, bool falls) {
    static constexpr Tiles<T, Rows<T>, SumsApart<T>> tiles;
    const long most = columns_for(1, K), number = count <= most ? 1 : ceil_div(count, most);
    const auto edge = [&](long i) { return i == 0 ? 0 : i == number ? count : count * i / number; };
    for (long i = 0; i < number; ++i) {
      const long tile = falls ? number - 1 - i : i, from = edge(tile);
      tiles.of[1][edge(tile + 1) - from](rows, 0, K, w + from * K * kLanes<T>, {reinterpret_cast<Vec<T>*>(to) + from});
    }
  }
  long at(long array, const ColumnPart& c) const {
    return neighbours_ ? (plan.arrays * c.from + array * (c.to - c.from)) * kLanes<T> : array * plane_ + c.first;
  }
  // The i-th of `count` gates that are multiplied together: part by part of the columns, its panels are neighbours. The
  // panels' places begin at `place`.
  void pack_gate(const T* w, long K, T* packed, long place, long i, long count, long array, bool starts, const T* bias,
      const T* more) const {
    for (long part = 0; part < parts; ++part) {
      const ColumnPart c = column_part<T>(H, part, parts);
      const long n = c.to - c.from, first = count * c.from + i * n;
      pack_transposed<T, 1>(w, H, K, c.from, c.to, packed + first * kLanes<T> * K);
      for (long j = 0; j < n; ++j) {
        const long column = c.first + j * kLanes<T>, width = min(kLanes<T>, H - column);
        T* start = bias_ + (place + first + j) * kLanes<T>;
        for (long l = 0; l < kLanes<T>; ++l)
          start[l] = l < width ? (bias ? bias[column + l] : T(0)) + (more ? more[column + l] : T(0)) : T(0);
        places_[place + first + j] = {
            starts ? start : nullptr, at(array, c) + j * kLanes<T>, neighbours_ ? kLanes<T> : width};
      }
    }
  }
  const long each_, plane_;  // panels of a gate; numbers of an array
  const bool neighbours_;
  const Buffer<T> w_ih_, w_hh_, bias_;  // (panels, K, W) and (panels, W)
  const Buffer<PanelPlace<T>> places_;
};

}  // namespace elman::ELMAN_TARGET
