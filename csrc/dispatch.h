// Which instruction set's kernels run, and on how many threads.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace elman {

// The sets this library was built for that this processor has, the best first.
std::vector<const Target*> supported_targets();

// Takes the set named, or the best one for an empty name. Throws std::invalid_argument for an unsupported one.
const Target& choose_target(const std::string& name);

const Target*& target();  // the set in use: at first the best one

// Whether a call takes no longer than it takes to wake a thread: some 50 µs.
bool is_short(const Forward& call);
bool is_short(const Backward& call);

// Throw std::bad_alloc where memory ran out.
void run(const Target& target, const Forward& call, int threads);
void run(const Target& target, const Backward& call, int threads);

// Multiply-adds per second that the register-only loop reaches on so many threads at once, times two.
double peak(const Target& target, int threads);

}  // namespace elman
