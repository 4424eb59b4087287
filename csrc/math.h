// tanh and relu on vectors, with their errors stated. NaN in, NaN out; infinities give the limits.
#pragma once

#include "simd.h"

namespace elman::ELMAN_TARGET {

// Both by e = expm1(2|x|) and tanh|x| = e / (e + 2): what e is off by matters less the larger it is, no result exceeds 1, and once e + 2 rounds to e it
// is 1 exactly, which makes its derivative 0. With 2|x| = n·ln 2 + r, |r| <= ln(2)/2, expm1(2|x|) = 2^n·expm1(r) + (2^n - 1). No branch: n = 0 keeps
// small x exact. The largest errors in units in the last place, over all floats and over many doubles, are in tests/test_activations.py.

// float: expm1(r) = r + r²·C(r), C of degree 4 and fitted to the least relative error (1.4e-8, a quarter of half an ulp). Summed in pairs: a step of a
// sequence waits for this, so its latency counts more than its operations.
ELMAN_INLINE Vec<float> tanh(Vec<float> x) {
  using V = Vec<float>;
  using B = Bits<float>;
  const B sign = (B)x & (B)splat(-0.0f);
  V a = (V)((B)x ^ sign);
  const V top = splat(10.0f);
  a = top < a ? top : a;  // a comparison with NaN is false, so NaN stays
  const V magic = splat(12582912.0f);  // 1.5·2^23: adding it rounds to an integer, which then lies in the low bits
  const V shifted = fma(a, splat(2.8853900817779268f), magic);
  const V r = fma(shifted - magic, splat(-0.69314718055994531f), a + a);
  const V power = (V)(((B)shifted - (B)magic + 127) << 23);
  const V s = r * r;
  V c = fma(splat(1.3897864846512675e-03f), s, fma(splat(8.36597103625536e-03f), r, splat(4.166685789823532e-02f)));
  c = fma(c, s, fma(splat(0.16666549444198608f), r, splat(0.5f)));
  const V e = fma(power * s, c, fma(power, r, power - splat(1.0f)));
  return (V)((B)(e / (e + splat(2.0f))) | sign);
}

// double: expm1(r) by Taylor's series to degree 13, which reaches 4e-18.
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
