// All kernels of one instruction set. Compiled once for each, with ELMAN_TARGET naming it and the compiler told to use it.
#include "backward.h"
#include "forward.h"

#define ELMAN_STRING_(x) #x
#define ELMAN_STRING(x) ELMAN_STRING_(x)
#define ELMAN_JOIN_(a, b) a##b
#define ELMAN_JOIN(a, b) ELMAN_JOIN_(a, b)

namespace elman {
namespace ELMAN_TARGET {
namespace {

// Calls f with the number type and cell asked for.
template <class F>
auto with_cell(CellKind cell, Number number, F f) {
  const bool tanh = cell == CellKind::rnn_tanh;
  if (number == Number::f32) return tanh ? f(ElmanTanh<float>{}, 0.0f) : f(ElmanRelu<float>{}, 0.0f);
  return tanh ? f(ElmanTanh<double>{}, 0.0) : f(ElmanRelu<double>{}, 0.0);
}

bool supported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

bool run_forward(const Forward& f, Team& team) {
  return with_cell(f.net.cell, f.net.number, [&](auto cell, auto number) { return forward<decltype(number), decltype(cell)>(f, team); });
}

bool run_backward(const Backward& b, Team& team) {
  return with_cell(b.net.cell, b.net.number, [&](auto cell, auto number) { return backward<decltype(number), decltype(cell)>(b, team); });
}

void run_activation(CellKind cell, Number number, const void* from, void* to, std::int64_t n) {
  with_cell(cell, number, [&](auto c, auto number) {
    using T = decltype(number);
    for (long i = 0; i < n; i += kLanes<T>) {
      const Vec<T> a[] = {Row<T>::get(static_cast<const T*>(from), i, n)};
      Row<T>::put(static_cast<T*>(to), i, n, decltype(c)::forward(a));
    }
    return 0;
  });
}

template <class T>
double peak(std::int64_t iterations) {
  constexpr int kChains = kRegisters == 32 ? 24 : 12;
  Vec<T> acc[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) acc[i] = splat(T(i));
  Vec<T> a = splat(T(0.999)), b = splat(T(1e-3));
  for (std::int64_t n = 0; n < iterations; ++n) {
#if defined(ELMAN_VECTOR_BYTES)
    asm volatile("" : "+m"(a), "+m"(b));
#elif defined(__x86_64__)
    asm volatile("" : "+x"(a), "+x"(b));  // keeps the loop from being reasoned away
#elif defined(__aarch64__)
    asm volatile("" : "+w"(a), "+w"(b));
#endif
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], a, b);
  }
  T sum = 0;
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum += acc[i][0];
  const double operations = 2.0 * kChains * kLanes<T> * static_cast<double>(iterations);
  return sum == sum ? operations : 0;  // uses the sum, so that it has to be computed
}

double run_peak(Number number, std::int64_t iterations) { return number == Number::f32 ? peak<float>(iterations) : peak<double>(iterations); }

}  // namespace
}  // namespace ELMAN_TARGET

extern const Target ELMAN_JOIN(target_, ELMAN_TARGET);
const Target ELMAN_JOIN(target_, ELMAN_TARGET) = {ELMAN_STRING(ELMAN_TARGET),     ELMAN_TARGET::supported,      ELMAN_TARGET::run_forward,
                                                  ELMAN_TARGET::run_backward,     ELMAN_TARGET::run_activation, ELMAN_TARGET::run_peak};

}  // namespace elman
