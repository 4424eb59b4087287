// The input's part of the pre-activations, W_ih x + b: projected chunk by chunk of steps, each in one product.
#pragma once

#include "../product/packing.h"
#include "../threads.h"
#include "step_order.h"

namespace elman::ELMAN_TARGET {

// Bytes of the projections at hand: with the inputs they come from they should stay in a core's second-level cache.
constexpr long kProjectionBytes = 128 * 1024;
// Where threads follow one another through a sequence: how many chunks one may be ahead, and of how many rows.
constexpr long kChunksAhead = 4, kRowsAhead = 24;

// Set by whichever thread fails, read by all.
class Failure {
 public:
  void unless(bool ok) {
    if (!ok) __atomic_store_n(&happened_, true, __ATOMIC_RELAXED);
  }
  // Whether to go on: where threads meet, only if none has failed, and before one can fail again.
  bool let_go_on(bool ok, bool meet, Team& team) {
    unless(ok);
    if (!meet) return ok;
    team.barrier();
    const bool none = !*this;
    team.barrier();
    return none;
  }
  explicit operator bool() const { return __atomic_load_n(&happened_, __ATOMIC_RELAXED); }

 private:
  bool happened_ = false;
};

// How far the layers of a wavefront have come, each a chunk behind the one below: positions. Null: there is none.
struct Wavefront {
  const std::int64_t* below = nullptr;
  std::int64_t* mine = nullptr;
  bool exists() const { return below || mine; }
  void advance(std::int64_t to) const {
    if (mine) __atomic_store_n(mine, to, __ATOMIC_RELEASE);
  }
};

// Positions start..stop-1, column groups from..to-1. One thread takes the chunks in turn. Another may run ahead of it:
// whoever comes first to a chunk projects it, so that neither depends on the other's being there.
template <class Weights> class InputProjection {
 public:
  using T = typename Weights::Element;
  const Weights& weights;
  const long start, stop, from, to;
  const Wavefront wavefront;

  InputProjection(const StepOrder& order, const Weights& weights, const StepTensor& x, long start, long stop, long from,
      long to, bool ahead, const Wavefront& wavefront = {})
      : weights(weights), start(start), stop(stop), from(from), to(to), wavefront(wavefront), order_(order), x_(x),
        rows_(order.count()), slots_(ahead ? kChunksAhead : 1), steps_(steps_of_a_chunk(ahead || wavefront.exists())),
        slot_size_(weights.room(steps_ * rows_)), z_(slots_ * slot_size_), mine_(steps_ * rows_, weights.I),
        others_(ahead ? steps_ * rows_ : 0, weights.I) {}
  bool ok() const { return all_ok(z_, mine_, others_); }

  long chunks() const { return ceil_div(stop - start, steps_); }
  long begin(long chunk) const { return start + chunk * steps_; }
  long end(long chunk) const { return min(stop, begin(chunk) + steps_); }

  // Chunk after chunk. What take() gave before is given back.
  Wide<T>* take(long chunk) {
    __atomic_store_n(&taken_, chunk, __ATOMIC_RELEASE);
    if (claim(chunk)) project(chunk, mine_);
    else Team::wait(ready_[chunk % slots_], chunk + 1);
    return slot(chunk);
  }
  // Where take() will not be called: the other thread waits for it no longer.
  void abandon() {
    __atomic_store_n(&next_, chunks(), __ATOMIC_RELEASE);
    __atomic_store_n(&taken_, chunks(), __ATOMIC_RELEASE);
  }
  // What the other thread does.
  void run_ahead() {
    for (;;) {
      const std::int64_t chunk = __atomic_load_n(&next_, __ATOMIC_RELAXED);
      if (chunk >= chunks()) return;
      Team::wait(taken_, chunk - slots_ + 1);
      if (!claim(chunk)) continue;
      project(chunk, others_);
      __atomic_store_n(&ready_[chunk % slots_], chunk + 1, __ATOMIC_RELEASE);
    }
  }

 private:
  // Few where somebody follows, and no more than stay in the cache.
  long steps_of_a_chunk(bool followed) const {
    const long row = max(1, weights.stride) * static_cast<long>(sizeof(Wide<T>));
    const long cached = kProjectionBytes / row / slots_ / max(1, rows_);
    return max(1, min(min(stop - start, cached), followed ? max(1, kRowsAhead / max(1, rows_)) : cached));
  }
  bool claim(std::int64_t chunk) {
    return __atomic_compare_exchange_n(&next_, &chunk, chunk + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
  }
  Wide<T>* slot(long chunk) const { return z_ + (chunk % slots_) * slot_size_; }
  void project(long chunk, const Lhs<T>& x) const {
    if (wavefront.below) Team::wait(*wavefront.below, end(chunk));
    const long m = order_.template gather<const T>(x_, begin(chunk), end(chunk), x.rows);
    weights.project(m, x.first(m), from, to, slot(chunk));
  }
  const StepOrder order_;
  const StepTensor x_;
  const long rows_, slots_, steps_, slot_size_;  // sequences; chunks at a time; a chunk's steps, and its numbers
  const Buffer<Wide<T>> z_;
  const Lhs<T> mine_, others_;
  std::int64_t next_ = 0, taken_ = 0;      // the first chunk that nobody has claimed; the one in use
  std::int64_t ready_[kChunksAhead] = {};  // by slot, the chunk that has been projected, plus one
};

}  // namespace elman::ELMAN_TARGET
