// A program's run on a team of threads, and what of it needs no instruction set: sequences without a step, and padding.
#pragma once

#include "call.h"
#include "program.h"

namespace elman {

struct Target;

// A call's multiply-adds, all else counted in.
double work(const Program& program, const ProgramForward& call);
double work(const Program& program, const ProgramBackward& call);
std::uint64_t kind(const Program& program, const ProgramForward& call);
std::uint64_t kind(const Program& program, const ProgramBackward& call);

// Throw std::bad_alloc where memory ran out. `lengths`: of the caller's sequences; null: all have T steps. T: the
// caller's.
void run(const Target& target, const Program& program, const ProgramForward& call, const std::int64_t* lengths,
    std::int64_t T, int threads);
void run(const Target& target, const Program& program, const ProgramBackward& call, const std::int64_t* lengths,
    std::int64_t T, int threads);

}  // namespace elman
