// From the gate gradients of many rows, by large products: those of what was multiplied with the weights, row by row,
// and sums over the rows, those of weights and biases.
#pragma once

#include "../buffer.h"
#include "../product/packing.h"
#include "step_order.h"

namespace elman::ELMAN_TARGET {

// Rows summed in one go into a weight's gradient, read and written once for each. Blocks keep long sums accurate.
constexpr long kRowsSummed = 512;
// Rows of an input's gradient, at most, in one task; bytes of each row that one of a weight's packs; for up to how many
// columns, and for fewer rows than how many, gate gradients are multiplied where they lie.
constexpr long kRowsOfTask = 96, kBytesOfTask = 768, kFewColumns = 64, kFewRows = 16;
inline long rows_of_task(long rows) { return min(kRowsOfTask, ceil_div(rows, 32) * 8); }  // of few rows a quarter
inline long tasks_of_rows(long rows) { return ceil_div(rows, rows_of_task(rows)); }
// A weight's gradient, (gates·width, columns): a task takes some columns, and of a tall one half of each gate's width.
template <class T> long groups_of(long columns) { return ceil_div(columns * long(sizeof(Wide<T>)), kBytesOfTask); }
template <class T> long parts_of(long gates, long width, long columns) {
  return width > kLanes<T> && columns > kFewColumns && gates * width >= 2 * columns ? 2 : 1;
}
template <class T> long tasks_of_weight(const void* gradient, long gates, long width, long columns) {
  return gradient && gates ? groups_of<T>(columns) * parts_of<T>(gates, width, columns) : 0;
}

// T: what the gate gradients are kept and multiplied as; sums are Wide<T>.
template <class T> struct GateGradientRows {
  using Sum = Wide<T>;
  const T* first;
  long rows, stride, part = 0, parts = 1;  // from one row to the next; which part of each gate is multiplied
  GateGradientRows from_column(long column) const { return {first + column, rows, stride, part, parts}; }

  // The i-th task: rows times packed weights (width, columns), to the rows `to` or added to them. False: out of memory.
  template <class To>
  bool multiply(long i, long width, const Sum* w, const Buffer<To*>& to, long columns, bool add) const {
    const long from = i * rows_of_task(rows), last = min(rows, from + rows_of_task(rows));
    const Buffer<const T*> gates(last - from);
    if (!gates.ok()) return false;
    for (long m = from; m < last; ++m) gates[m - from] = first + m * stride;
    const StoreEpilogue<To, To* const*> store{to + from, columns, add};
    product<T, 1>(last - from, Rows<T>{gates}, width, w, 0, panels<T>(columns), store);
    return true;
  }

  // A weight's i-th task: pack(first row, rows, first panel, last panel, to) gives its panels;
  // add(block, first column, panels, packed, whether to add) takes each block of rows. False: out of memory.
  template <class P, class A> bool sum(long i, long gates, long width, long columns, bool adds, P pack, A add) const {
    const long n = parts_of<T>(gates, width, columns), group = i / n, all = panels<T>(columns);
    const long groups = groups_of<T>(columns), begin = all * group / groups, end = all * (group + 1) / groups;
    const Buffer<Sum> packed((end - begin) * kLanes<T> * depth<T>(min(rows, kRowsSummed)));
    if (!packed.ok()) return false;
    for (long from = 0; from < rows; from += kRowsSummed) {
      const GateGradientRows block{first + from * stride, min(kRowsSummed, rows - from), stride, i % n, n};
      pack(from, block.rows, begin, end, packed);
      add(block, begin * kLanes<T>, end - begin, packed, adds || from > 0);
    }
    return true;
  }
  // (width, columns) = or += the transpose of the rows times what was packed, from a column on: this part of the width.
  // Mostly the rows are packed, too, a vector of each at a time: tiles would wait for numbers that lie a row apart.
  void multiply_transposed(
      long width, const Sum* packed, long groups, Sum* gradient, long columns, long column, bool add) const {
    const auto multiply = [&](const auto& a, long from, long count, long K) {
      const StepRows<Sum> to{gradient + from * columns + column, columns};
      product<T, 1>(count, a, K, packed, 0, groups, StoreEpilogue<Sum, StepRows<Sum>>{to, columns - column, add});
    };
    const long all = panels<T>(width), begin = all * part / parts * W, end = min(width, all * (part + 1) / parts * W);
    if constexpr (!kPairs<T>)
      if (columns <= kFewColumns || rows < kFewRows)
        return multiply(Columns<T>{first + begin, stride}, begin, end - begin, rows);
    alignas(64) Sum some[depth<T>(kRowsSummed) * W];
    for (long from = begin; from < end; from += W) {
      pack_panel<T>(rows, [&](long k) { return load_within(first + k * stride, from, width); }, some);
      multiply(Columns<T>{some, W}, from, min(W, end - from), depth<T>(rows) * (kPairs<T> ? 2 : 1));
    }
  }

  // sums[0] ... sums[width - 1] = or += the rows.
  void sum_up(long width, Sum* sums, bool adds) const {
    constexpr long kTogether = 8;  // panels, in registers
    long j = 0;
    for (; j + kTogether * W <= width; j += kTogether * W) sum_panels<kTogether>(j, j + kTogether * W, sums, adds);
    for (; j < width; j += W) sum_panels<1>(j, width, sums, adds);
  }

 private:
  static constexpr long W = kLanes<T>;
  template <long kPanels> void sum_panels(long column, long width, Sum* sums, bool adds) const {
    for (long from = 0; from < rows; from += kRowsSummed) {
      Vec<T> part[kPanels] = {};
      for (long m = from; m < min(rows, from + kRowsSummed); ++m)
        for (long p = 0; p < kPanels; ++p) part[p] += load_within(first + m * stride, column + p * W, width);
      for (long p = 0, j = column; p < kPanels; ++p, j += W)
        store_within(sums, j, width, adds || from > 0 ? load_within(sums, j, width) + part[p] : part[p]);
    }
  }
};

}  // namespace elman::ELMAN_TARGET
