// The forward scan in bfloat16: compiled for each instruction set as target.cpp is, and once more for processors that
// multiply pairs of it.
//
// x, h, the states and all parameters are bfloat16 in memory; projections, sums and gates are floats, and so is an
// LSTM's c as long as a call lasts. h is rounded at each step: what the next one reads is what the caller gets.
#include "cells/all.h"
#include "scan/forward.h"

namespace elman::ELMAN_TARGET {

bool forward_bfloat16(const Forward& call, Team& team) {
  Forward f = call;
  const long n = f.net.cell->states > 1 ? f.net.L * f.net.D * f.net.B * f.net.H : 0;
  const Buffer<float> before(f.initial[1] ? n : 0), after(n);
  if (!before.ok() || !after.ok()) return false;
  for (long i = 0; f.initial[1] && i < n; i += kLanes<float>)
    store_within<float>(before, i, n, load_within(static_cast<const BFloat16*>(f.initial[1]), i, n));
  f.initial[1] = before, f.final[1] = after;
  const bool ok = with_cell<float>(f.net.cell->number, [&](auto c) { return forward<BFloat16, decltype(c)>(f, team); });
  for (long i = 0; ok && i < n; i += kLanes<float>)
    store_within(static_cast<BFloat16*>(call.final[1]), i, n, load_within<float>(after, i, n));
  return ok;
}

}  // namespace elman::ELMAN_TARGET
