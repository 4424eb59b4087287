// The scans in bfloat16: compiled for each instruction set as target.cpp is, and once more for processors that multiply
// pairs of it.
//
// x, h, the states, all parameters and their gradients are bfloat16 in memory; projections, sums and gates are floats,
// and so is an LSTM's c as long as a call lasts. h is rounded at each step: what the next one reads is what the caller
// gets. Where pairs are multiplied the gradients of gates are rounded, too; else they are floats.
#include "cells/all.h"
#include "scan/backward.h"
#include "scan/forward.h"

namespace elman::ELMAN_TARGET {
namespace {

long of_states(const Network& net) { return net.cell->states > 1 ? net.L * net.D * net.H : 0; }

// What resets start from; null without resets: nothing is read then.
template <class Call> const void* fresh_c(const Call& call) { return call.net.resets.data ? call.fresh[1] : nullptr; }

// c of all directions, or what it starts fresh from, as floats; null of null.
class WideStates {
 public:
  WideStates(const void* from, long n) : n_(n), from_(static_cast<const BFloat16*>(from)), wide_(from ? n : 0) {}
  bool ok() const { return wide_.ok(); }
  const float* get() const {
    if (from_) copy_columns<float>(wide_, from_, 1, n_, 0, panels<float>(n_));
    return wide_;
  }

 private:
  const long n_;
  const BFloat16* const from_;
  const Buffer<float> wide_;
};

}  // namespace

bool forward_bfloat16(const Forward& call, Team& team) {
  Forward f = call;
  const long each = of_states(f.net), n = each * f.net.B;
  const WideStates initial(f.initial[1], n), fresh(fresh_c(f), each);
  const Buffer<float> final(n);
  if (!all_ok(initial, fresh, final)) return false;
  f.initial[1] = initial.get(), f.fresh[1] = fresh.get(), f.final[1] = final;
  const bool ok = with_cell<float>(f.net.cell->number, [&](auto c) { return forward<BFloat16, decltype(c)>(f, team); });
  if (ok && n)
    copy_columns(static_cast<BFloat16*>(call.final[1]), static_cast<float*>(final), 1, n, 0, panels<float>(n));
  return ok;
}

bool backward_bfloat16(const Backward& call, Team& team) {
  Backward b = call;
  const long each = of_states(b.net);
  const WideStates initial(b.initial[1], each * b.net.B), fresh(fresh_c(b), each);
  if (!all_ok(initial, fresh)) return false;
  b.initial[1] = initial.get(), b.fresh[1] = fresh.get();
  return with_cell<float>(b.net.cell->number, [&](auto c) { return backward<BFloat16, decltype(c)>(b, team); });
}

}  // namespace elman::ELMAN_TARGET
