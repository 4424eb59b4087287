// Which instruction set's kernels run, and on how many threads.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"
#include "threads.h"
#include "tuner.h"

namespace elman {

// The sets this library was built for that this processor has, the best first.
std::vector<const Target*> supported_targets();

// Takes the set named, or the best one for an empty name. Throws std::invalid_argument for an unsupported one.
const Target& choose_target(const std::string& name);

const Target*& target();        // the set in use: at first the best one
void allow_pairs(int allowed);  // of bfloat16; below 0: where they are fast

// A call's multiply-adds; whether waking a thread (50 µs until it runs, 15 µs of the caller's) does not pay for so
// many.
double work(const Forward& call);
double work(const Backward& call);
constexpr bool is_short(double multiply_adds) { return multiply_adds < 2e6; }
// Calls of one kind (tuner.h) have one number.
std::uint64_t kind(const Forward& call);
std::uint64_t kind(const Backward& call);
// Twice a size's binary logarithm, rounded down: sizes within a factor of 1.4 are alike.
std::uint64_t octaves(std::int64_t size);

// f(team), with so many multiply-adds: alone, or on as many threads as were fastest for those of the kind, kind().
template <class Kind, class F> void on_a_team(double multiply_adds, Kind kind, int threads, F&& f) {
  if (is_short(multiply_adds)) return with_team(1, std::forward<F>(f));
  const Effort effort{kind(), multiply_adds};
  with_team(threads, std::forward<F>(f), &effort);
}

// Throw std::bad_alloc where memory ran out.
void run(const Target& target, const Forward& call, int threads);
void run(const Target& target, const Backward& call, int threads);

// Multiply-adds per second that the register-only loop reaches on so many threads at once, times two.
double peak(const Target& target, int threads);

}  // namespace elman
