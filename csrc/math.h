// tanh and relu on vectors, with their errors stated. NaN in, NaN out; infinities give the limits.
#pragma once

#include "simd.h"

namespace elman::ELMAN_TARGET {

// float: x·P(x²)/Q(x²), P and Q of degree 4, fitted to the least relative error on |x| <= 9.01 (2.1e-8, a sixth of an ulp), where tanh has reached 1.
// Measured over every float, with and without fused multiply-add: see tests/test_activations.py for the bound in ulp.
// A division and two short chains: a step of a sequence waits for this, so its latency counts as much as its throughput.
ELMAN_INLINE Vec<float> tanh(Vec<float> x) {
  using V = Vec<float>;
  const V top = splat(9.01f);
  x = x > top ? top : x;  // a comparison with NaN is false, so NaN stays
  x = x < -top ? -top : x;
  const V s = x * x;
  V p = fma(splat(1.3336751599051706e-08f), s, splat(2.0596202191296397e-05f));
  V q = fma(splat(7.769242810699957e-07f), s, splat(3.284356054820937e-04f));
  p = fma(p, s, splat(3.4948066559025003e-03f));
  q = fma(q, s, splat(2.5874010037453814e-02f));
  p = fma(p, s, splat(0.13380367900471604f));
  q = fma(q, s, splat(0.46713683320961447f));
  p = fma(p, s, splat(0.9999999792477218f));
  q = fma(q, s, splat(1.0f));
  return x * p / q;
}

// double: with e = expm1(2|x|), tanh|x| = e / (e + 2). expm1(n·ln 2 + r) = 2^n·expm1(r) + (2^n - 1), and |r| <= ln(2)/2 lets Taylor's series to
// degree 13 reach 4e-18. No branch: n = 0 keeps small x exact, and beyond 20 tanh is 1.
ELMAN_INLINE Vec<double> tanh(Vec<double> x) {
  using V = Vec<double>;
  const V zero{}, top = splat(20.0);
  V a = x < zero ? -x : x;
  a = a > top ? top : a;
  const V y = a + a;
  const V magic = splat(6755399441055744.0);  // 1.5·2^52: adding it rounds to an integer, which then lies in the low bits
  const V shifted = fma(y, splat(1.4426950408889634), magic);
  const V n = shifted - magic;
  V r = fma(n, splat(-0.693147180369123816490), y);   // the high part of ln 2 has 32 bits, so that n times it is exact
  r = fma(n, splat(-1.90821492927058770002e-10), r);
  V c = splat(1.6059043836821613e-10);
  const double inverse_factorial[] = {2.08767569878681e-09,   2.505210838544172e-08,  2.755731922398589e-07, 2.7557319223985893e-06, 2.48015873015873e-05, 1.984126984126984e-04,
                                      1.388888888888889e-03,  8.333333333333333e-03,  4.1666666666666664e-02, 0.16666666666666666, 0.5};
  for (double f : inverse_factorial) c = fma(c, r, splat(f));
  const V small = fma(r * r, c, r);
  const Bits<double> exponent = ((Bits<double>)shifted - (Bits<double>)magic + 1023) << 52;
  const V power = (V)exponent;
  const V e = fma(power, small, power - splat(1.0));
  const V t = e / (e + splat(2.0));
  return x < zero ? -t : (x == zero ? x : t);  // keeps -0
}

template <class V>
ELMAN_INLINE V relu(V x) {
  const V zero{};
  return x < zero ? zero : x;  // NaN stays, as in torch
}

}  // namespace elman::ELMAN_TARGET
