// What is done to a program before it runs: what need not be done at every step, and by fewer instructions.
#pragma once

#include "check.h"

namespace elman {

// Brings forward what depends on constants and own parameters alone: those instructions run once a call.
void compute_once(CodeLines& lines);

// Turns the one stage of a code of independent units into its phases. `arrives` and `leaves`: the kinds of what comes
// from the step before and goes on to the next, of those states that are `carried`.
void divide_into_phases(CodeLines& lines, Kind arrives, Kind leaves, const std::vector<bool>& carried);

// After these: finds the values that are one number of each row. `saved`: which of SAVED are, as the code that writes
// them finds and the one that reads them is told.
void find_row_values(CodeLines& lines, const Plan& plan, std::vector<bool>& saved);

// Then, where something of all numbers reads one of each row, spreads that first.
void spread_row_values(CodeLines& lines);

// Then makes one instruction of two where it can (code.h, fusions), so that a value between them need not lie anywhere.
void fuse(CodeLines& lines);

// After these: lets temps share scratch within a stage, and drops the values that nothing uses.
void share_scratch(CodeLines& lines);

}  // namespace elman
