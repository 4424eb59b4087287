// A direction's weights as the products of the forward scan read them, and the products of a step.
#pragma once

#include "../buffer.h"
#include "../product/packing.h"
#include "call.h"

namespace elman::ELMAN_TARGET {

// Where the results of a product of gates go, by panel: `to` at the first row, the next one H further; and what they
// start from. The panels of a gate are neighbours, and its last one may be in part empty.
template <class T> struct PanelPlaces {
  T** to;
  const T** from;
  long* from_stride;  // 0: the same for all rows
};

template <class T> struct GateEpilogue {
  const PanelPlaces<T> places;
  const long H, each;  // units; panels of a gate
  const bool whole;    // H fills all panels
  ELMAN_INLINE long width(long panel) const { return whole ? kLanes<T> : H - panel % each * kLanes<T>; }
  ELMAN_INLINE Vec<T> init(long row, long panel, int) const {
    return load_within(places.from[panel] + row * places.from_stride[panel], 0, width(panel));
  }
  ELMAN_INLINE void finish(long row, long panel, const Vec<T>* sum) const {
    store_within(places.to[panel] + row * H, 0, width(panel), sum[0]);
  }
};

// The i-th of so many parts of H columns, in whole vectors.
struct ColumnPart {
  long first, count;
};
template <class T> ColumnPart column_part(long H, long i, long parts) {
  const long first = panels<T>(H) * i / parts * kLanes<T>, last = panels<T>(H) * (i + 1) / parts * kLanes<T>;
  return {first, min(H, last) - first};
}

template <class T> class ProgramWeights {
 public:
  const Plan& plan;
  const long H, I;
  const long parts;  // that the inputs' columns are divided into
  const long each;   // panels of a gate

  ProgramWeights(const Plan& plan, long H, long I, long parts = 1)
      : plan(plan), H(H), I(I), parts(parts), each(panels<T>(H)), w_ih_(plan.inputs * each * kLanes<T> * I),
        w_hh_(plan.recurrents * each * kLanes<T> * H), input_bias_(plan.inputs * each * kLanes<T>),
        recurrent_bias_(plan.recurrents * each * kLanes<T>) {}
  bool ok() const { return all_ok(w_ih_, w_hh_, input_bias_, recurrent_bias_); }
  long most_panels() const { return max(plan.inputs, plan.recurrents) * each; }

  long tasks() const { return plan.inputs + plan.recurrents; }
  void pack(const ProgramParameters& p, long task) const {  // the task-th gate's
    const long W = kLanes<T>;
    const T *b_ih = static_cast<const T*>(p.b_ih), *b_hh = static_cast<const T*>(p.b_hh);
    if (task < plan.inputs) {
      const long g = task, joined = plan.joined_recurrent[g];
      for (long part = 0; part < parts; ++part) {
        const ColumnPart c = column_part<T>(H, part, parts);
        const long from = c.first / W, count = panels<T>(c.count), at = plan.inputs * from + g * count;
        pack_transposed<T, 1>(static_cast<const T*>(p.w_ih) + g * H * I, H, I, from, from + count, w_ih_ + at * W * I);
        put_bias(b_ih ? b_ih + g * H + c.first : nullptr, b_hh && joined >= 0 ? b_hh + joined * H + c.first : nullptr,
            c.count, input_bias_ + at * W);
      }
      return;
    }
    for (long product = 0, slot = 0; product < plan.products; ++product)
      for (int i = 0; i < plan.gate_products[product].count; ++i, ++slot) {
        if (slot != task - plan.inputs) continue;
        const long g = plan.gate_products[product].gates[i];
        pack_transposed<T, 1>(static_cast<const T*>(p.w_hh) + g * H * H, H, H, 0, each, w_hh_ + slot * each * W * H);
        put_bias(b_hh ? b_hh + g * H : nullptr, nullptr, H, recurrent_bias_ + slot * each * W);
      }
  }

  // A part of the columns of the inputs' parts of M rows of x, by gate. `places`: room for so many panels.
  void project(long M, const Lhs<T>& x, T* const* to, const PanelPlaces<T>& places, long part = 0) const {
    const ColumnPart c = column_part<T>(H, part, parts);
    const long count = panels<T>(c.count), first = plan.inputs * c.first;
    for (int g = 0; g < plan.inputs; ++g) put(places, g, count, to[g], input_bias_ + first + g * count * kLanes<T>, 0);
    product<T, 1>(M, x.first(M), I, w_ih_ + first * I, 0, plan.inputs * count, epilogue(places, c.count));
  }
  // The index-th product, by recurrent gate; added to what lies there where its parts are joined.
  void multiply(int index, long M, const T* const* rows, T* const* to, bool falls, const PanelPlaces<T>& places) const {
    const GateProduct& of = plan.gate_products[index];
    long first = 0;
    for (int p = 0; p < index; ++p) first += plan.gate_products[p].count;
    for (int i = 0; i < of.count; ++i) {
      T* at = to[of.gates[i]];
      if (plan.joined_input[of.gates[i]] >= 0) put(places, i, each, at, at, H);
      else put(places, i, each, at, recurrent_bias_ + (first + i) * each * kLanes<T>, 0);
    }
    product<T, 1>(
        M, Rows<T>{rows}, H, w_hh_ + first * each * kLanes<T> * H, 0, of.count * each, epilogue(places, H), falls);
  }

 private:
  static GateEpilogue<T> epilogue(const PanelPlaces<T>& places, long width) {
    return {places, width, panels<T>(width), width % kLanes<T> == 0};
  }
  static void put(const PanelPlaces<T>& places, long gate, long count, T* to, const T* from, long stride) {
    for (long j = 0; j < count; ++j) {
      places.to[gate * count + j] = to + j * kLanes<T>;
      places.from[gate * count + j] = from + j * kLanes<T>, places.from_stride[gate * count + j] = stride;
    }
  }
  static void put_bias(const T* bias, const T* more, long width, T* to) {
    for (long i = 0; i < panels<T>(width) * kLanes<T>; ++i)
      to[i] = i < width ? (bias ? bias[i] : T(0)) + (more ? more[i] : T(0)) : T(0);
  }
  const Buffer<T> w_ih_, w_hh_, input_bias_, recurrent_bias_;  // (panels, K, W) and (panels, W)
};

}  // namespace elman::ELMAN_TARGET
