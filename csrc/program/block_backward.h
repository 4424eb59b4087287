// The backward scan of a direction whose units are independent: block by block of steps, from the last to the first.
#pragma once

#include "backward_scan.h"
#include "block_scan.h"

namespace elman::ELMAN_TARGET {

template <class T> class BlockBackwardScan : BlockScan<T> {
 public:
  // For up to so many positions of the order, which goes backward.
  BlockBackwardScan(const StepOrder& order, const BackwardDirection<T>& direction, const BackwardShared<T>& shared,
      const ColumnPart& columns, long positions)
      : BlockScan<T>(order, direction.of, shared.plan.phased_backward, columns, positions, 0),
        forward_(order.reversed()), direction_(direction), shared_(shared), grad_input_(plan_.inputs) {}
  bool ok() const { return BlockScan<T>::ok() && grad_input_.ok(); }

  // Positions begin..end-1, whose gate gradients begin at the shared ones' first row.
  void run(long begin, long end, const KeptArrays<T>& kept) {
    values_.begin([&](Kind, int own) -> Place<T> { return {&sums_, own * rows_ * H_}; });
    for (int st = 0; st < plan_.states; ++st) {
      before_[st] = values_.at(Kind::grad_new_state, st), after_[st] = values_.at(Kind::grad_state, st);
      if (begin > 0) copy_rows(rows_, width_, shared_carry(st), H_, this->carried(st), width_);
      else clear(this->carried(st), rows_);
    }
    for (int g = 0; g < plan_.inputs; ++g) grad_input_[g] = values_.at(Kind::grad_input, g);
    long before = 0;
    for (long from = begin; from < end; from += steps_) {
      const long to = min(end, from + steps_), rows = take(from, to, kept);
      values_.run_rows(before_steps, 0, rows);
      this->each_position(from, to, [&](long s, long m) { step(s, m); });
      values_.run_rows(after_steps, 0, rows);
      before = give(from, to, before);
    }
    for (int st = 0; st < plan_.states; ++st) copy_rows(rows_, width_, this->carried(st), width_, shared_carry(st), H_);
  }

 private:
  using BlockScan<T>::order_, BlockScan<T>::of_, BlockScan<T>::plan_, BlockScan<T>::columns_, BlockScan<T>::width_;
  using BlockScan<T>::H_, BlockScan<T>::rows_, BlockScan<T>::steps_, BlockScan<T>::values_, BlockScan<T>::before_;
  using BlockScan<T>::after_, BlockScan<T>::columns;

  T* shared_carry(int state) const { return shared_.carried(0, state, order_) + columns_.first; }
  long position(long s) const { return order_.net.T - 1 - s; }  // in forward_
  void clear(T* array, long rows) const {
    __builtin_memset(array, 0, static_cast<std::size_t>(rows * width_) * sizeof(T));
  }

  // What the block's steps read. Of the gradients that arrive at the states, those from the step after come later.
  long take(long from, long to, const KeptArrays<T>& kept) const {
    for (int k = 0; k < plan_.saved; ++k)
      this->copy_kept_in(kept.data + k * kept.stride, kept.rows, from, to, values_.at(Kind::saved, k));
    for (int st = 0; st < plan_.states; ++st) {
      T *state = values_.at(Kind::state, st), *new_state = values_.at(Kind::new_state, st);
      if (state)
        this->each_position(
            from, to, [&](long s, long m) { this->put_known_before(forward_, position(s), st, state + m * width_); });
      if (st == 0) this->copy_steps_in(columns(of_.h), width_, from, to, new_state);
      else this->copy_kept_in(of_.kept_state(st), of_.rows, from, to, new_state);
      if (before_[st]) put_arriving(st == 0 ? direction_.grad_h : traced(st - 1), from, to, before_[st]);
      if (before_[st]) add_final(this->from_first(direction_.grad_final(st)), from, to, before_[st]);
    }
    for (int g = 0; g < plan_.gates; ++g)
      if (T* array = values_.at(Kind::grad_gate, g)) put_arriving(traced(plan_.states - 1 + g), from, to, array);
    return BlockScan<T>::take(from, to);
  }
  StepTensor traced(int i) const {
    return direction_.call.grad_traced ? of_.of(direction_.call.grad_traced[i]) : StepTensor{nullptr, 0, 0};
  }
  void put_arriving(const StepTensor& x, long from, long to, T* array) const {
    this->each_position(from, to, [&](long s, long m) {
      const StepRows<const T> rows = order_.template rows_of<const T>(columns(x), s);
      for (long r = 0, n = order_.rows(s); r < n; ++r) {
        T* at = array + (m + r) * width_;
        if (rows && x.column) copy_rows(1, width_, rows[r], 0, at, 0);
        else if (!rows) clear(at, 1);
        for (long j = 0; rows && !x.column && j < width_; ++j) at[j] = *rows[r];
      }
    });
  }
  void add_final(const T* final, long from, long to, T* array) const {
    if (final)
      this->each_position(from, to, [&](long s, long m) {
        for (long r = order_.continuing(s), n = order_.rows(s); r < n; ++r)
          add(array + (m + r) * width_, final + sequence_of(order_, r) * H_, 1);
      });
  }
  void add(T* to, const T* from, long rows) const {
    add_columns<T>(to, from, rows * width_, 0, panels<T>(rows * width_));
  }

  // The recurrence at a position, and the gradients of the states before it: to the step before, to what a reset
  // started from, or to the initial state.
  void step(long s, long m) const {
    const long n = order_.rows(s);
    for (int st = 0; st < plan_.states; ++st)
      if (before_[st] && after_[st]) add(before_[st] + m * width_, this->carried(st), order_.continuing(s));
    values_.run_rows(each_step, m, n);
    for (int st = 0; st < plan_.states; ++st) {
      T *grad = this->carried(st), *initial = this->from_first(direction_.grad_initial(st));
      if (after_[st]) copy_rows(1, n * width_, after_[st] + m * width_, 0, grad, 0);
      for (long r = 0; order_.net.resets.data && r < n; ++r) {
        if (!forward_.resets(position(s), r)) continue;
        add(shared_.fresh(st, order_) + r * H_ + columns_.first, grad + r * width_, 1);
        clear(grad + r * width_, 1);
      }
      for (long r = order_.staying(s); initial && r < n; ++r)
        copy_rows(1, width_, grad + r * width_, 0, initial + sequence_of(order_, r) * H_, 0);
    }
  }

  // What a block has found, to where it goes. `before`: rows of the chunk before it; returns those before the next one.
  long give(long from, long to, long before) {
    const StepOrder all{order_.net, order_.reverse, 0, order_.net.B};
    this->each_position(from, to, [&](long s, long m) {
      const SplitRows<T> gates = shared_.gate_rows(order_, before);
      for (int g = 0; g < plan_.inputs; ++g)
        for (long r = 0, n = grad_input_[g] ? order_.rows(s) : 0; r < n; ++r)
          copy_rows(1, width_, grad_input_[g] + (m + r) * width_, 0,
              gates[r] + plan_.column_of_input[g] * H_ + columns_.first, 0);
      before += all.rows(s);
    });
    this->each_position(from, to, [&](long s, long m) {
      for (long r = 0; plan_.owns > 0 && r < order_.rows(s); ++r) {
        sums_ = shared_.sum(0, order_) + r * H_;
        values_.move(0, 0);
        values_.run_rows(own_sums, m + r, 1);
      }
    });
    for (int k = 0; k < plan_.step_inputs; ++k) {
      const StepTensor x = of_.of(direction_.call.grad_step_inputs[k]);
      const T* grad = values_.at(Kind::grad_step_input, k);
      if (x.data) give_step_input(plan_.step_input_is_vector[k], grad, x, from, to);
    }
    return before;
  }
  void give_step_input(bool vector, const T* grad, const StepTensor& x, long from, long to) const {
    this->each_position(from, to, [&](long s, long m) {
      const auto at = [&](long r) { return order_.template row_of<T>(vector ? columns(x) : x, s, r); };
      if (grad && !vector)
        return row_sums<T>(grad + m * width_, order_.rows(s), width_, [&](long r, T sum) { *at(r) = sum; });
      for (long r = 0; r < order_.rows(s); ++r)
        if (grad) copy_rows(1, width_, grad + (m + r) * width_, 0, at(r), 0);
        else if (vector) clear(at(r), 1);
        else *at(r) = T(0);
    });
  }

  const StepOrder forward_;  // the other way
  const BackwardDirection<T>& direction_;
  const BackwardShared<T>& shared_;
  const Buffer<const T*> grad_input_;  // by gate, where its gradient is computed; null: zero
  T* sums_ = nullptr;                  // of a sequence
};

}  // namespace elman::ELMAN_TARGET
