// A program's run on a team of threads, and what of it needs no instruction set: sequences without a step, and padding.
#pragma once

#include "../ragged.h"
#include "call.h"
#include "program.h"

namespace elman {

// A call's multiply-adds, all else counted in.
double work(const Program& program, const ProgramForward& call);
double work(const Program& program, const ProgramBackward& call);
std::uint64_t kind(const Program& program, const ProgramForward& call);
std::uint64_t kind(const Program& program, const ProgramBackward& call);

// Throw std::bad_alloc where memory ran out.
void run(const Target& target, const Program& program, const ProgramForward& call, const Ragged& ragged, int threads);
void run(const Target& target, const Program& program, const ProgramBackward& call, const Ragged& ragged, int threads);

}  // namespace elman
