// How the scan of a layer is divided among threads.
#pragma once

#include "../simd.h"
#include "../threads.h"
#include "step_order.h"

namespace elman::ELMAN_TARGET {

// Splitting a step's columns repays a barrier where a thread has so many multiply-adds, and so many for a second of it.
constexpr long kLeastPart = 6'000;
constexpr double kPerBarrierSecond = 100e9;

// By sequences (no barrier) as far as there are any, else by columns of each step.
struct Division {
  long batch_parts, column_parts;
};
inline Division divide(const Network& net, long units, long groups, Team& team) {
  const int threads = team.threads();
  if (threads == 1) return {1, 1};
  const long batch_parts = min(threads, net.B);
  if (net.D * batch_parts >= threads) return {batch_parts, 1};
  const long part = net.B * units * net.H / threads;
  const bool columns = groups >= threads && part >= kLeastPart &&
      static_cast<double>(part) >= kPerBarrierSecond * team.barrier_seconds();
  return columns ? Division{1, threads} : Division{batch_parts, 1};
}

// The first sequence of the i-th of `parts` parts with about as many steps each.
inline long first_sequence(const Network& net, long i, long parts) {
  if (!net.alive || i == 0 || i == parts) return net.B * i / parts;
  long b = 0, steps = 0;
  for (long t = net.T; t-- > 0;)  // the longest come first
    for (; b < net.alive[t]; ++b, steps += t + 1)
      if (steps * parts >= net.rows * i) return b;
  return b;
}
inline StepOrder batch_part(const StepOrder& all, long i, long parts) {
  return {all.net, all.reverse, first_sequence(all.net, i, parts), first_sequence(all.net, i + 1, parts)};
}

// Set by whichever thread fails, read by all.
class Failure {
 public:
  void unless(bool ok) {
    if (!ok) __atomic_store_n(&happened_, true, __ATOMIC_RELAXED);
  }
  explicit operator bool() const { return __atomic_load_n(&happened_, __ATOMIC_RELAXED); }

 private:
  bool happened_ = false;
};

}  // namespace elman::ELMAN_TARGET
