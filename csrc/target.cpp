// All kernels of one instruction set. Compiled once for each, which ELMAN_TARGET names and the compiler is told to use.
#include "cells/all.h"
#include "scan/backward.h"
#include "scan/forward.h"
#include "stream.h"

#define ELMAN_STRING_(x) #x
#define ELMAN_STRING(x) ELMAN_STRING_(x)

namespace elman {
#if defined(ELMAN_DOTS)  // the same set with products of pairs of bfloat16
namespace ELMAN_DOTS {
bool forward_bfloat16(const Forward&, Team&);
bool backward_bfloat16(const Backward&, Team&);
}  // namespace ELMAN_DOTS
#endif
namespace ELMAN_TARGET {
bool forward_bfloat16(const Forward&, Team&);  // bfloat16.cpp
bool backward_bfloat16(const Backward&, Team&);
bool run_program_forward(const ProgramForward&, Team&);  // program/target.cpp
bool run_program_backward(const ProgramBackward&, Team&);
namespace {

// Calls f with the number type and cell asked for.
template <class F> bool with_types(const Network& net, F f) {
  if (net.number == Number::f32) return with_cell<float>(net.cell->number, [&](auto cell) { return f(cell, 0.0f); });
  return with_cell<double>(net.cell->number, [&](auto cell) { return f(cell, 0.0); });
}

constexpr auto kInfos = infos(std::make_integer_sequence<int, kCells>{});

bool supported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

#if defined(ELMAN_DOTS)
// Intel's take four times as long for its instruction as for float32's. Not measured here: the bits follow from it.
bool multiplies_pairs() { return __builtin_cpu_supports("avx512bf16") && allows_pairs(!__builtin_cpu_is("intel")); }
#endif

bool run_forward(const Forward& f, Team& team) {
  if (f.net.number == Number::bf16) {
#if defined(ELMAN_DOTS)
    if (multiplies_pairs()) return ELMAN_DOTS::forward_bfloat16(f, team);
#endif
    return forward_bfloat16(f, team);
  }
  return with_types(f.net, [&](auto cell, auto number) { return forward<decltype(number), decltype(cell)>(f, team); });
}

bool run_backward(const Backward& b, Team& team) {
  if (b.net.number == Number::bf16) {
#if defined(ELMAN_DOTS)
    if (multiplies_pairs()) return ELMAN_DOTS::backward_bfloat16(b, team);
#endif
    return backward_bfloat16(b, team);
  }
  return with_types(b.net, [&](auto cell, auto number) { return backward<decltype(number), decltype(cell)>(b, team); });
}

Stream* open_stream(const Network& net, void* const* states) {
  Stream* made = nullptr;
  with_types(net, [&](auto cell, auto number) {
    return (made = StepByStep<decltype(number), decltype(cell)>::open(net, states)) != nullptr;
  });
  return made;
}

template <class T> void activate(Activation which, const void* from, void* to, std::int64_t n) {
  for (long i = 0; i < n; i += kLanes<T>) {
    const Vec<T> x = load_within(static_cast<const T*>(from), i, n);
    const Vec<T> y = which == Activation::tanh ? tanh(x) : which == Activation::relu ? relu(x) : sigmoid(x);
    store_within(static_cast<T*>(to), i, n, y);
  }
}

void run_activation(Activation which, Number number, const void* from, void* to, std::int64_t n) {
  number == Number::f32 ? activate<float>(which, from, to, n) : activate<double>(which, from, to, n);
}

double peak(std::int64_t iterations) {
  using T = float;
  constexpr int kChains = kRegisters == 32 ? 24 : 12;
  Vec<T> acc[kChains];
  ELMAN_UNROLLED (i, kChains) acc[i] = splat(T(i));
  Vec<T> a = splat(T(0.999)), b = splat(T(1e-3));
  for (std::int64_t n = 0; n < iterations; ++n) {
    asm volatile("" : "+m"(a), "+m"(b));  // keeps the loop from being reasoned away
    ELMAN_UNROLLED (i, kChains) acc[i] = fma(acc[i], a, b);
  }
  T sum = 0;
  ELMAN_UNROLLED (i, kChains) sum += acc[i][0];
  const double operations = 2.0 * kChains * kLanes<T> * static_cast<double>(iterations);
  return sum == sum ? operations : 0;  // uses the sum, so that it has to be computed
}

}  // namespace

extern const Target target{ELMAN_STRING(ELMAN_TARGET), kInfos, supported, run_forward, run_backward, run_activation,
    open_stream, peak, run_program_forward, run_program_backward};

}  // namespace ELMAN_TARGET
}  // namespace elman
