// Halves of a batch's sequences: the backward pass keeps the gate gradients of each, and sums over each, apart.
#pragma once

#include "../buffer.h"
#include "../product/packing.h"
#include "division.h"

namespace elman::ELMAN_TARGET {

// A weight's gradient is summed over each half of the sequences, and then over both: two threads need not read what the
// other wrote. Whether there are halves depends on the batch alone, so that threads change no bit.
constexpr long kLeastOfHalf = 4;
inline long halves_of(const Network& net) { return !net.alive && net.B >= 2 * kLeastOfHalf ? 2 : 1; }

// Rows of a position that lie in two places: the first `split` of them, and the others.
template <class T> struct SplitRows {
  T *first, *others;
  long split, stride;
  ELMAN_INLINE T* operator[](long row) const {
    return row < split ? first + row * stride : others + (row - split) * stride;
  }
};
template <class T> SplitRows<T> rows_from(T* first, long stride) { return {nullptr, first, 0, stride}; }

// Rows of so many positions of all sequences, half by half: where those of a part's sequences lie, of a position before
// which all sequences together have `before` rows.
template <class T> SplitRows<T> rows_by_half(T* all, long stride, long positions, const StepOrder& part, long before) {
  const long B = part.net.B, middle = halves_of(part.net) == 2 ? batch_part(part, 0, 2).last : 0;
  if (middle == 0) return rows_from(all + (before + part.first) * stride, stride);
  const long i = before / B, first = i * middle + part.first,
             others = positions * middle + i * (B - middle) + max(0, part.first - middle);
  return {all + first * stride, all + others * stride, max(0, middle - part.first), stride};
}

// The sum of a weight's gradient over one half: the first half's is the gradient itself, unless that is rounded from
// it.
template <class T> class SumOfHalf {
 public:
  using Sum = Wide<T>;
  SumOfHalf(void* gradient, long size, bool apart)
      : gradient_(static_cast<T*>(gradient)), size_(size), own_(apart && gradient ? size : 0) {}
  bool ok() const { return own_.ok(); }
  Sum* data() const {
    if constexpr (!kHalved<T>)
      if (!own_) return gradient_;
    return own_;
  }
  // The i-th of `parts` tasks, of the first half's: the gradient is both sums. Null: there is no second half.
  void finish(const SumOfHalf* second, long i, long parts) const {
    const long groups = panels<T>(size_), from = groups * i / parts, to = groups * (i + 1) / parts;
    if (second && second->own_) add_columns<Sum>(data(), second->own_, size_, from, to);
    if (kHalved<T> && gradient_) copy_columns<T, Sum>(gradient_, own_, 1, size_, from, to);
  }

 private:
  T* const gradient_;
  const long size_;
  const Buffer<Sum> own_;
};

// How a direction goes back through its chunks of so many positions. It has scan(chunk, begin, end, part of the
// sequences, part of the columns, failure, team), gather(chunk, begin, end, half), products(half) and finish_scan().
template <class Direction> class ByHalves {
 public:
  ByHalves(const Network& net, long positions) : T_(net.T), halves_(halves_of(net)), positions_(positions) {}
  void run_half(long half, Failure& failure, Team& team) {
    for (long begin = 0, chunk = 0; begin < T_ && !failure; begin += positions_, ++chunk) {
      const long end = min(T_, begin + positions_);
      self().scan(chunk, begin, end, half, 0, failure, team);
      if (failure) return;
      self().gather(chunk, begin, end, half);
      auto& products = self().products(half);
      for (long i = 0; i < products.tasks(); ++i) failure.unless(products.run(i));
      products.finish_chunk();
    }
  }
  void multiply(long chunk, long begin, long end, Failure& failure, Team& team) {
    for (long half = 0; half < halves_; ++half) self().gather(chunk, begin, end, half);
    auto &first = self().products(0), &second = self().products(1);
    const long tasks = first.tasks();
    team.each(tasks + (halves_ == 2 ? second.tasks() : 0),
        [&](std::int64_t i) { failure.unless(i < tasks ? first.run(i) : second.run(i - tasks)); });
    first.finish_chunk(), second.finish_chunk();
  }
  void finish(Team& team) {
    const long parts = team.threads();
    team.each(parts,
        [&](std::int64_t i) { self().products(0).finish(halves_ == 2 ? &self().products(1) : nullptr, i, parts); });
    self().finish_scan();
  }

  // All of some directions, which go at the same time. Where a thread has a half of the sequences, their gradients are
  // its own, too: a second direction adds to what the first has left of grad_x.
  static void run(Direction* const* directions, long together, const Division& by, Failure& failure, Team& team) {
    const ByHalves& of = *directions[0];
    if (team.threads() <= 2 && of.halves_ == 2 && by.batch_parts == 2 && by.column_parts == 1)
      team.each(2, [&](std::int64_t half) {
        for (long i = 0; i < together; ++i) directions[i]->run_half(half, failure, team);
      });
    else
      for (long begin = 0, chunk = 0; begin < of.T_ && !failure; begin += of.positions_, ++chunk) {
        const long end = min(of.T_, begin + of.positions_);
        each_part(by, together, team,
            [&](long i, long batch, long part) { directions[i]->scan(chunk, begin, end, batch, part, failure, team); });
        for (long i = 0; i < together && !failure; ++i) directions[i]->multiply(chunk, begin, end, failure, team);
      }
    for (long i = 0; i < together && !failure; ++i) directions[i]->finish(team);
  }

 protected:
  const long T_, halves_, positions_;

 private:
  Direction& self() { return static_cast<Direction&>(*this); }
};

}  // namespace elman::ELMAN_TARGET
