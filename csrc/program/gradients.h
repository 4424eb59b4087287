// From the gate gradients of a chunk, those of inputs and weights: a few large products instead of many small ones.
// Which block adds to which sum, and when, does not depend on the threads.
#pragma once

#include "../scan/row_sums.h"
#include "backward_scan.h"

namespace elman::ELMAN_TARGET {

// Of one half of the sequences.
template <class T> class ProgramGradientProducts {
 public:
  // Chunks have so many positions; 0: nothing is needed of it.
  ProgramGradientProducts(const BackwardDirection<T>& direction, const BackwardShared<T>& shared,
      const StepOrder& order, long half, long positions)
      : direction_(direction), shared_(shared), plan_(shared.plan), H_(shared.H), I_(direction.of.I),
        order_(batch_part(order, half, halves_of(order.net))), half_(half), capacity_(positions * order_.count()),
        gates_(shared.gates.ok() ? shared.gates + order_.first * positions * shared.stride : nullptr),
        gradients_(direction.call.gradients[direction.of.index]),
        sum_ih_(gradients_.w_ih, plan_.inputs * H_ * I_, is_second()),
        sum_hh_(gradients_.w_hh, plan_.recurrents * H_ * H_, is_second()), bias_sums_(plan_.columns * H_), zeros_(H_),
        x_rows_(capacity_), h_rows_(plan_.products * capacity_), grad_x_rows_(shared.needs_x ? capacity_ : 0) {
    for (long j = 0; j < H_ && zeros_.ok(); ++j) zeros_[j] = T(0);
  }
  bool ok() const { return all_ok(sum_ih_, sum_hh_, bias_sums_, zeros_, x_rows_, h_rows_, grad_x_rows_); }

  // Before the tasks of positions begin..end-1, counted from the end: where their rows lie.
  void gather(long begin, long end, const KeptArrays<T>& kept) {
    const DirectionOf<T>& of = direction_.of;
    rows_ = order_.gather<const T>(of.x, begin, end, x_rows_);
    if (shared_.needs_x) order_.gather<T>(direction_.grad_x, begin, end, grad_x_rows_);
    const StepOrder forward = order_.reversed();
    for (long s = begin, m = 0; s < end; ++s) {
      const long position = order_.net.T - 1 - s, n = order_.rows(s), first = order_.first;
      if (plan_.gate_products[0].count > 0) previous_h(forward, position, n, h_rows_ + m);
      for (long i = 0; plan_.products > 1 && i < kept.rows.parts; ++i) {
        const StepOrder mine = batch_part({forward.net, forward.reverse, 0, forward.net.B}, i, kept.rows.parts);
        const T* row = kept.data + plan_.saved * kept.stride + kept.rows.at(mine, position) * H_;
        for (long r = max(first, mine.first); r < min(first + n, mine.last); ++r)
          for (int p = 1; p < plan_.products; ++p)
            h_rows_[p * capacity_ + m + r - first] = row + (r - mine.first) * H_ + (p - 1) * kept.stride;
      }
      m += n;
    }
  }

  long tasks() const {
    long count = x_tasks() + input_tasks() + needs_bias();
    for (int p = 0; p < plan_.products; ++p) count += product_tasks(p);
    return count;
  }
  bool run(long i) const {  // the i-th task, large ones first, so that threads end together; false: out of memory
    const auto within = [&](long tasks) { return i < tasks || (i -= tasks, false); };
    if (within(input_tasks()))
      return weight_gradient(x_rows_, I_, i, sum_ih_.data(), plan_.input_order, plan_.inputs, plan_.input_column);
    for (int p = 0; p < plan_.products; ++p) {
      const GateProduct& of = plan_.gate_products[p];
      if (within(product_tasks(p)))
        return weight_gradient(h_rows_ + p * capacity_, H_, i, sum_hh_.data(), of.gates, of.count, of.column);
    }
    if (within(needs_bias())) return gates(0).sum_up(plan_.columns * H_, bias_sums_, chunks_ > 0), true;
    return gates(plan_.input_column)
        .multiply(i, plan_.inputs * H_, shared_.w_ih, grad_x_rows_, I_, direction_.accumulates);
  }
  void finish_chunk() { ++chunks_; }

  // After the last chunk, the i-th of `parts` tasks: this half's sums and those of a second one; null: there is none.
  void finish(const ProgramGradientProducts* second, long i, long parts) const {
    if (chunks_ == 0) return;
    sum_ih_.finish(second ? &second->sum_ih_ : nullptr, i, parts);
    sum_hh_.finish(second ? &second->sum_hh_ : nullptr, i, parts);
    if (i > 0 || !needs_bias()) return;
    if (second) add_columns<T>(bias_sums_, second->bias_sums_, plan_.columns * H_, 0, panels<T>(plan_.columns * H_));
    const auto put = [&](void* bias, long gate, long column) {
      if (bias) __builtin_memcpy(static_cast<T*>(bias) + gate * H_, bias_sums_ + column * H_, H_ * sizeof(T));
    };
    for (int g = 0; g < plan_.inputs; ++g) put(gradients_.b_ih, g, plan_.column_of_input[g]);
    for (int g = 0; g < plan_.recurrents; ++g) put(gradients_.b_hh, g, plan_.column_of_recurrent[g]);
  }

 private:
  bool is_second() const { return half_ > 0 && capacity_ > 0; }
  bool needs_bias() const { return gradients_.b_ih || gradients_.b_hh; }
  GateGradientRows<T> gates(long column) const { return {gates_ + column * H_, rows_, shared_.stride}; }
  long x_tasks() const { return shared_.needs_x ? tasks_of_rows(rows_) : 0; }
  long input_tasks() const { return tasks_of_weight<T>(gradients_.w_ih, plan_.inputs, H_, I_); }
  long product_tasks(int p) const { return tasks_of_weight<T>(gradients_.w_hh, plan_.gate_products[p].count, H_, H_); }

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

  // Panels of the i-th task of a weight's `columns` columns: the gradients of `count` gates from a column on, times
  // what the weights were multiplied with.
  bool weight_gradient(const T* const* multiplied, long columns, long i, T* gradient, const std::int32_t* order,
      int count, long column) const {
    const auto pack = [&](long from, long n, long first, long last, T* to) {
      pack_rows<T>(multiplied + from, n, columns, first, last, to);
    };
    const auto add = [&](const auto& block, long at, long groups, const T* packed, bool adds) {
      for (int g = 0; g < count; ++g)
        block.from_column(g * H_).multiply_transposed(
            H_, packed, groups, gradient + order[g] * H_ * columns, columns, at, adds);
    };
    return gates(column).sum(i, count, H_, columns, chunks_ > 0, pack, add);
  }

  const BackwardDirection<T>& direction_;
  const BackwardShared<T>& shared_;
  const Plan& plan_;
  const long H_, I_;
  const StepOrder order_;  // of the half
  const long half_, capacity_;
  T* const gates_;  // the half's
  const ProgramGradients& gradients_;
  const SumOfHalf<T> sum_ih_, sum_hh_;
  const Buffer<T> bias_sums_, zeros_;       // by column; (H,)
  const Buffer<const T*> x_rows_, h_rows_;  // of the chunk: (capacity,) and (products, capacity)
  const Buffer<T*> grad_x_rows_;
  long rows_ = 0, chunks_ = 0;
};

}  // namespace elman::ELMAN_TARGET
