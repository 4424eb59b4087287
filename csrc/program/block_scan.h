// The scan of a direction whose units are independent: no product within a step. So a thread takes some columns of some
// sequences by itself, and what is not part of the recurrence runs over a block of steps at once (code.h, Phase).
#pragma once

#include "places.h"

namespace elman::ELMAN_TARGET {

// Bytes of the inputs and values of a block of steps: they should stay in a core's second-level cache.
constexpr long kBlockOfSteps = 256 * 1024;

// What both ways have in common. Values of a block lie in arrays of (its rows, columns): those of its first position,
// then those of the next.
template <class T> class BlockScan {
 public:
  BlockScan(const StepOrder& order, const DirectionOf<T>& direction, const Code& code, const ColumnPart& columns,
      long positions, long inputs)
      : order_(order), of_(direction), plan_(direction.plan()), columns_(columns), width_(columns.count),
        H_(direction.call.net.H), rows_(order.count()), steps_(steps_of(code, positions, inputs)),
        values_(plan_, code, direction.parameters(), steps_ * rows_, columns, width_, true),
        carried_(plan_.states * rows_ * width_), before_(plan_.states), after_(plan_.states) {}
  bool ok() const { return all_ok(values_, carried_, before_, after_); }

 protected:
  // Before positions from..to-1: step inputs and draws. Returns how many rows they have.
  long take(long from, long to) const {
    for (int k = 0; k < plan_.step_inputs; ++k) {
      const bool vector = plan_.step_input_is_vector[k];
      const StepTensor& x = of_.call.step_inputs[k].first;
      copy_steps_in(vector ? columns(x) : x, vector ? width_ : 1, from, to, values_.at(Kind::step_input, k));
    }
    for (int k = 0; k < plan_.draws; ++k)
      copy_steps_in(columns(of_.of(of_.call.draws[k])), width_, from, to, values_.at(Kind::draw, k));
    long count = 0;
    for (long s = from; s < to; ++s) count += order_.rows(s);
    return count;
  }
  StepTensor columns(const StepTensor& x) const { return from_column<T>(x, x.column * columns_.first); }
  T* row_of(T* kept, const KeptRows& rows, const StepOrder& order, long s) const {
    return kept + rows.at(order, s) * H_ + columns_.first;
  }
  template <class Pointer> Pointer from_first(Pointer array) const { return array ? array + columns_.first : nullptr; }

  // f(s, m): of positions from..to-1, each with its first row in the block.
  template <class F> void each_position(long from, long to, F f) const {
    for (long s = from, m = 0; s < to; m += order_.rows(s++)) f(s, m);
  }
  // Between an array of the block and the caller's tensors, or kept arrays; null: nothing to do.
  void copy_steps_in(const StepTensor& x, long width, long from, long to, T* array) const {
    if (array)
      each_position(from, to, [&](long s, long m) { copy_in<T>(order_, x, s, width, width_, array + m * width_); });
  }
  void copy_steps_out(const T* array, const StepTensor& x, long from, long to) const {
    if (array && x.data)
      each_position(from, to,
          [&](long s, long m) { copy_out<T>(order_, array + m * width_, x, s, width_, column_part<T>(width_, 0, 1)); });
  }
  void copy_kept_in(T* kept, const KeptRows& rows, long from, long to, T* array) const {
    if (array)
      each_position(from, to, [&](long s, long m) {
        copy_rows(order_.rows(s), width_, row_of(kept, rows, order_, s), H_, array + m * width_, width_);
      });
  }
  void copy_kept_out(const T* array, T* kept, const KeptRows& rows, long from, long to) const {
    if (array && kept)
      each_position(from, to, [&](long s, long m) {
        copy_rows(order_.rows(s), width_, array + m * width_, width_, row_of(kept, rows, order_, s), H_);
      });
  }

  // The states before a position of the order forward; previous(r): row r's after the position before.
  template <class F> void put_before(const StepOrder& forward, long s, int state, F previous, T* to) const {
    const T *start = from_first(of_.initial(state)), *anew = from_first(of_.fresh(state));
    for (long r = 0, n = forward.rows(s), old = forward.continuing(s); r < n; ++r, to += width_) {
      const T* from = forward.resets(s, r) ? anew
          : r < old                        ? previous(r)
          : start                          ? start + sequence_of(forward, r) * H_
                                           : nullptr;
      if (from) copy_rows(1, width_, from, 0, to, 0);
      else __builtin_memset(to, 0, static_cast<std::size_t>(width_) * sizeof(T));
    }
  }
  // Likewise where the forward pass has left all states.
  void put_known_before(const StepOrder& forward, long s, int state, T* to) const {
    const StepRows<const T> h = s > 0 ? forward.rows_of<const T>(columns(of_.h), s - 1) : StepRows<const T>{};
    const T* kept = s > 0 && state > 0 ? row_of(of_.kept_state(state), of_.rows, forward, s - 1) : nullptr;
    put_before(forward, s, state, [&](long r) { return state == 0 ? h[r] : kept + r * H_; }, to);
  }
  T* carried(int state) const { return carried_ + state * rows_ * width_; }

  const StepOrder order_;
  const DirectionOf<T>& of_;
  const Plan& plan_;
  const ColumnPart columns_;
  const long width_, H_, rows_, steps_;  // of the columns; of all; sequences; positions of a block
  Values<T> values_;
  const Buffer<T> carried_;          // (states, rows, columns): from one block to the next
  const Buffer<T*> before_, after_;  // by state, where the step's recurrence reads and leaves it; null: not in it

 private:
  long steps_of(const Code& code, long positions, long inputs) const {
    long arrays = 0;
    for (int v = 0; v < code.value_count; ++v) {
      const Kind kind = code.values[v].kind;
      arrays += kind != Kind::temp && kind != Kind::constant && kind != Kind::own && kind < Kind::sum_own;
    }
    const long bytes = max(1, rows_) * (arrays * width_ + inputs) * static_cast<long>(sizeof(T));
    return max(1, min(positions, kBlockOfSteps / max(1, bytes)));
  }
};

template <class T> class BlockForwardScan : BlockScan<T> {
 public:
  BlockForwardScan(const StepOrder& order, const DirectionOf<T>& direction, const ProgramWeights<T>& weights,
      const Code& code, const ColumnPart& columns, long start, long stop)
      : BlockScan<T>(order, direction, code, columns,
            min(stop - start, weights.most_rows(columns) / max(1, order.count())), direction.I),
        weights_(weights), start_(start), stop_(stop), memory_(weights.room(0)), x_(steps_ * rows_, direction.I),
        z_(memory_) {}
  bool ok() const { return BlockScan<T>::ok() && all_ok(memory_, x_); }

  void run(const ProgramForward& call) {
    begin();
    for (long from = start_; from < stop_; from += steps_) {
      const long to = min(stop_, from + steps_), rows = project(from, to);
      values_.run_rows(before_steps, 0, rows);
      this->each_position(from, to, [&](long s, long m) {
        for (int st = 0; st < plan_.states; ++st) {
          if (!before_[st]) continue;
          const T* previous = s == from ? this->carried(st) : after_[st] + (m - order_.rows(s - 1)) * width_;
          this->put_before(order_, s, st, [&](long r) { return previous + r * width_; }, before_[st] + m * width_);
        }
        values_.run_rows(each_step, m, order_.rows(s));
      });
      values_.run_rows(after_steps, 0, rows);
      give(call, from, to);
    }
  }
  // Once more, where all states are known, to `kept`.
  void run_again(const KeptArrays<T>& kept) {
    begin();
    for (long from = start_; from < stop_; from += steps_) {
      const long to = min(stop_, from + steps_), rows = project(from, to);
      for (int st = 0; st < plan_.states; ++st)
        if (before_[st])
          this->each_position(
              from, to, [&](long s, long m) { this->put_known_before(order_, s, st, before_[st] + m * width_); });
      for (const Phase phase : {before_steps, each_step, after_steps}) values_.run_rows(phase, 0, rows);
      for (int k = 0; k < plan_.saved; ++k)
        this->copy_kept_out(values_.at(Kind::saved, k), kept.data + k * kept.stride, kept.rows, from, to);
    }
  }

 private:
  using BlockScan<T>::order_, BlockScan<T>::of_, BlockScan<T>::plan_, BlockScan<T>::columns_, BlockScan<T>::width_;
  using BlockScan<T>::H_, BlockScan<T>::rows_, BlockScan<T>::steps_, BlockScan<T>::values_, BlockScan<T>::before_;
  using BlockScan<T>::after_;

  void begin() {
    values_.begin([&](Kind, int gate) -> Place<T> { return {&z_, weights_.input_at(gate, columns_)}; });
    values_.move(0, 0);
    for (int st = 0; st < plan_.states; ++st)
      before_[st] = values_.at(Kind::state, st), after_[st] = values_.at(Kind::new_state, st);
  }
  long project(long from, long to) const {
    const long rows = order_.template gather<const T>(of_.x, from, to, x_.rows);
    weights_.project(rows, x_.first(rows), columns_.from, columns_.to, z_, width_);
    return this->take(from, to);
  }
  // What a block has found, to where it goes.
  void give(const ProgramForward& call, long from, long to) const {
    this->copy_steps_out(after_[0], this->columns(of_.h), from, to);
    for (int st = 0; st < plan_.states; ++st) {
      this->copy_kept_out(after_[st], of_.kept_state(st), of_.rows, from, to);
      if (call.traced && st > 0) this->copy_steps_out(after_[st], this->columns(of_.of(call.traced[st - 1])), from, to);
      T* final = slice<T>(call.final[st], of_.index, call.batch * H_) + columns_.first;
      this->each_position(from, to, [&](long s, long m) {
        for (long r = order_.staying(s); r < order_.rows(s); ++r)
          copy_rows(1, width_, after_[st] + (m + r) * width_, 0, final + sequence_of(order_, r) * H_, 0);
        if (s == to - 1) copy_rows(order_.rows(s), width_, after_[st] + m * width_, width_, this->carried(st), width_);
      });
    }
    if (call.kept && !call.recompute)
      for (int k = 0; k < plan_.saved; ++k)
        this->copy_kept_out(values_.at(Kind::saved, k), of_.saved(k), of_.rows, from, to);
    if (call.traced)
      for (int g = 0; g < plan_.gates; ++g)
        this->copy_steps_out(
            values_.at(Kind::gate, g), this->columns(of_.of(call.traced[plan_.states - 1 + g])), from, to);
  }

  const ProgramWeights<T>& weights_;
  const long start_, stop_;
  const Buffer<T> memory_;
  const Lhs<T> x_;
  T* const z_;  // the inputs' parts
};

}  // namespace elman::ELMAN_TARGET
