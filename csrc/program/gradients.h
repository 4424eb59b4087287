// From the gate gradients of a chunk, those of inputs and weights: a few large products instead of many small ones.
// Which block adds to which sum, and when, does not depend on the threads.
#pragma once

#include "backward_scan.h"

namespace elman::ELMAN_TARGET {

// Rows summed in one go into a weight's gradient; rows of an input's gradient, at most, and panels of a weight's, in
// one task.
constexpr long kRowsSummed = 512, kRowsOfTask = 96, kPanelsOfTask = 6;

template <class T> class ProgramGradientProducts {
 public:
  ProgramGradientProducts(const BackwardDirection<T>& direction, const BackwardShared<T>& shared, long capacity)
      : direction_(direction), shared_(shared), plan_(shared.plan), H_(shared.H), I_(direction.of.I),
        needs_x_(direction.grad_x.data && capacity > 0), gradients_(direction.call.gradients[direction.of.index]),
        w_ih_(needs_x_ ? plan_.inputs * H_ * panels<T>(I_) * kLanes<T> : 0), bias_sums_(plan_.columns * H_), zeros_(H_),
        x_rows_(capacity), h_rows_(plan_.products * capacity), grad_x_rows_(needs_x_ ? capacity : 0),
        capacity_(capacity) {}
  bool ok() const { return all_ok(w_ih_, bias_sums_, zeros_, x_rows_, h_rows_, grad_x_rows_); }

  bool begin() const {  // false: out of memory
    for (long j = 0; j < H_; ++j) zeros_[j] = T(0);
    const Buffer<const T*> w(needs_x_ ? plan_.inputs * H_ : 0);
    if (!needs_x_ || !w.ok()) return w.ok();
    for (long g = 0, k = 0; g < plan_.inputs; ++g)
      for (long j = 0; j < H_; ++j)
        w[k++] = static_cast<const T*>(direction_.of.parameters().w_ih) + (plan_.input_order[g] * H_ + j) * I_;
    pack_rows<T>(w, plan_.inputs * H_, I_, 0, panels<T>(I_), w_ih_);
    return true;
  }

  // Before the tasks of positions begin..end-1, counted from the end: where their rows lie.
  void gather(const StepOrder& order, long begin, long end, const KeptArrays<T>& kept) {
    const DirectionOf<T>& of = direction_.of;
    rows_ = order.gather<const T>(of.x, begin, end, x_rows_);
    if (needs_x_) order.gather<T>(direction_.grad_x, begin, end, grad_x_rows_);
    const StepOrder forward = order.reversed();
    for (long s = begin, m = 0; s < end; ++s) {
      const long position = order.net.T - 1 - s, n = order.rows(s);
      if (plan_.gate_products[0].count > 0) previous_h(forward, position, n, h_rows_ + m);
      for (long i = 0; plan_.products > 1 && i < kept.rows.parts; ++i) {
        const StepOrder mine = batch_part(forward, i, kept.rows.parts);
        const T* row = kept.data + plan_.saved * kept.stride + kept.rows.at(mine, position) * H_;
        for (long r = mine.first; r < min(n, mine.last); ++r, row += H_)
          for (int p = 1; p < plan_.products; ++p) h_rows_[p * capacity_ + m + r] = row + (p - 1) * kept.stride;
      }
      m += n;
    }
  }

  long tasks() const {
    long count = x_tasks() + input_tasks() + 1;
    for (int p = 0; p < plan_.products; ++p) count += product_tasks(p);
    return count;
  }
  bool run(long i) const {  // the i-th task, large ones first, so that threads end together; false: out of memory
    const auto within = [&](long tasks) { return i < tasks || (i -= tasks, false); };
    if (within(input_tasks()))
      return weight_gradient(x_rows_, I_, i, gradients_.w_ih, plan_.input_order, plan_.inputs, plan_.input_column);
    for (int p = 0; p < plan_.products; ++p) {
      const GateProduct& of = plan_.gate_products[p];
      if (within(product_tasks(p)))
        return weight_gradient(h_rows_ + p * capacity_, H_, i, gradients_.w_hh, of.gates, of.count, of.column);
    }
    return within(1) ? bias_gradient() : input_gradient(i);
  }
  void finish_chunk() { ++chunks_; }

 private:
  static constexpr long W = kLanes<T>;
  long task_rows() const { return min(kRowsOfTask, ceil_div(rows_, 32) * 8); }  // of few rows a quarter
  long x_tasks() const { return needs_x_ ? ceil_div(rows_, task_rows()) : 0; }
  long input_tasks() const { return gradients_.w_ih && plan_.inputs ? ceil_div(panels<T>(I_), kPanelsOfTask) : 0; }
  long product_tasks(int p) const {
    return gradients_.w_hh && plan_.gate_products[p].count ? ceil_div(panels<T>(H_), kPanelsOfTask) : 0;
  }

  void previous_h(const StepOrder& forward, long s, long n, const T** to) const {
    const DirectionOf<T>& of = direction_.of;
    const long old = forward.continuing(s);
    const StepRows<const T> previous = old > 0 ? forward.rows_of<const T>(of.h, s - 1) : StepRows<const T>{};
    const T *initial = of.initial(0), *fresh = of.fresh(0);
    for (long r = 0; r < n; ++r) {
      const T* from = forward.resets(s, r) ? fresh
          : r < old                        ? previous[r]
          : initial                        ? initial + sequence_of(forward, r) * H_
                                           : nullptr;
      to[r] = from ? from : static_cast<const T*>(zeros_);
    }
  }

  bool input_gradient(long i) const {
    const long from = i * task_rows(), to = min(rows_, from + task_rows());
    const Buffer<const T*> rows(to - from);
    if (!rows.ok()) return false;
    for (long m = from; m < to; ++m) rows[m - from] = shared_.gates + m * shared_.stride + plan_.input_column * H_;
    const StoreEpilogue<T, T* const*> store{grad_x_rows_ + from, I_, direction_.accumulates};
    product<T, 1>(to - from, Rows<T>{rows}, plan_.inputs * H_, w_ih_, 0, panels<T>(I_), store);
    return true;
  }

  // Panels of the i-th task of a weight's `columns` columns: the gradients of `count` gates from a column on, times
  // what the weights were multiplied with.
  bool weight_gradient(const T* const* multiplied, long columns, long i, void* gradient, const std::int32_t* gates,
      int count, long column) const {
    const long first = i * kPanelsOfTask, last = min(panels<T>(columns), first + kPanelsOfTask);
    const Buffer<T> packed((last - first) * W * min(rows_, kRowsSummed));
    if (!packed.ok()) return false;
    for (long from = 0; from < rows_; from += kRowsSummed) {
      const long n = min(kRowsSummed, rows_ - from);
      pack_rows<T>(multiplied + from, n, columns, first, last, packed);
      for (int g = 0; g < count; ++g) {
        const T* a = shared_.gates + from * shared_.stride + (column + g) * H_;
        T* to = static_cast<T*>(gradient) + gates[g] * H_ * columns + first * W;
        const StoreEpilogue<T, StepRows<T>> store{{to, columns, nullptr}, columns - first * W, chunks_ > 0 || from > 0};
        product<T, 1>(H_, Columns<T>{a, shared_.stride}, n, packed, 0, last - first, store);
      }
    }
    return true;
  }

  bool bias_gradient() const {
    if (!gradients_.b_ih && !gradients_.b_hh) return true;
    const long n = plan_.columns * H_;
    const Buffer<T> part(n);
    if (!part.ok()) return false;
    for (long from = 0; from < rows_; from += kRowsSummed) {
      for (long j = 0; j < n; ++j) part[j] = T(0);
      for (long m = from; m < min(rows_, from + kRowsSummed); ++m) {
        const T* row = shared_.gates + m * shared_.stride;
        for (long j = 0; j < n; ++j) part[j] += row[j];
      }
      for (long j = 0; j < n; ++j) bias_sums_[j] = chunks_ + from > 0 ? bias_sums_[j] + part[j] : part[j];
    }
    const auto put = [&](void* bias, long gate, long column) {  // so far; the last chunk's are the whole
      if (bias) __builtin_memcpy(static_cast<T*>(bias) + gate * H_, bias_sums_ + column * H_, H_ * sizeof(T));
    };
    for (int g = 0; g < plan_.inputs; ++g) put(gradients_.b_ih, g, plan_.column_of_input[g]);
    for (int g = 0; g < plan_.recurrents; ++g) put(gradients_.b_hh, g, plan_.column_of_recurrent[g]);
    return true;
  }

  const BackwardDirection<T>& direction_;
  const BackwardShared<T>& shared_;
  const Plan& plan_;
  const long H_, I_;
  const bool needs_x_;
  const ProgramGradients& gradients_;
  const Buffer<T> w_ih_, bias_sums_, zeros_;  // packed; by column; (H,)
  const Buffer<const T*> x_rows_, h_rows_;    // of the chunk: (capacity,) and (products, capacity)
  const Buffer<T*> grad_x_rows_;
  const long capacity_;
  long rows_ = 0, chunks_ = 0;
};

}  // namespace elman::ELMAN_TARGET
