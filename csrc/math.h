// tanh, sigmoid and relu on vectors, with their errors stated. NaN in, NaN out; infinities give the limits.
#pragma once

#include "simd.h"

namespace elman::ELMAN_TARGET {

// exp(y) by n, the integer nearest y / ln 2, and r = y - n ln 2: exp(y) = 2^n (1 + expm1(r)), expm1(r) = r + r²·C(r).
template <class T> struct Exponential;

template <> struct Exponential<float> {
  using V = Vec<float>;
  static constexpr float kMagic = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer, in the low bits
  static constexpr float kInverseLn2 = 1.44269504088896341f, kLn2 = 0.693145751953125f,
                         kLn2Rest = 1.428606765330187e-06f;  // 17 bits, so that n times it is exact
  static constexpr int kMantissa = 23, kBias = 127;
  // Of degree 4, fitted to the least relative error (1.4e-8, a quarter of half an ulp). Summed in pairs: a step of a
  // sequence waits for this, so its latency counts more than its operations.
  static ELMAN_INLINE V tail(V r, V s) {
    V c = fma(splat(1.3897864846512675e-03f), s, fma(splat(8.36597103625536e-03f), r, splat(4.166685789823532e-02f)));
    return fma(c, s, fma(splat(0.16666549444198608f), r, splat(0.5f)));
  }
};

template <> struct Exponential<double> {
  using V = Vec<double>;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5·2^52
  static constexpr double kInverseLn2 = 1.4426950408889634, kLn2 = 0.693147180369123816490,
                          kLn2Rest = 1.90821492927058770002e-10;  // the first has 32 bits
  static constexpr int kMantissa = 52, kBias = 1023;
  static ELMAN_INLINE V tail(V r, V) {  // Taylor's series of expm1 to degree 13, which reaches 4e-18
    V c = splat(1.6059043836821613e-10);
    const double inverse_factorial[] = {2.08767569878681e-09, 2.505210838544172e-08, 2.755731922398589e-07,
        2.7557319223985893e-06, 2.48015873015873e-05, 1.984126984126984e-04, 1.388888888888889e-03,
        8.333333333333333e-03, 4.1666666666666664e-02, 0.16666666666666666, 0.5};
    for (double f : inverse_factorial) c = fma(c, r, splat(f));
    return c;
  }
};

// 2^(n + more), n being an integer to which kMagic was added.
template <class T> ELMAN_INLINE Vec<T> power_of_two(Vec<T> shifted, int more) {
  using E = Exponential<T>;
  return (Vec<T>)(((Bits<T>)shifted - (Bits<T>)splat(E::kMagic) + (E::kBias + more)) << E::kMantissa);
}

// 2|x|'s exponential, less 1, is e, and tanh|x| = e / (e + 2): what e is off by matters less the larger it is, no
// result exceeds 1, and once e + 2 rounds to e it is 1 exactly, which makes its derivative 0. expm1(2|x|) =
// 2^n·expm1(r) + (2^n - 1). No branch: n = 0 keeps small x exact. The largest errors in units in the last place, over
// all floats and over many doubles, are in tests/test_activations.py.
ELMAN_INLINE Vec<float> tanh(Vec<float> x) {
  using V = Vec<float>;
  using E = Exponential<float>;
  const V a = least<float>(splat(10.0f), without_sign<float>(x));
  const V magic = splat(E::kMagic), shifted = fma(a, splat(2 * E::kInverseLn2), magic);
  const V r = fma(shifted - magic, splat(-0.69314718055994531f), a + a);  // n is small: one constant is near enough
  const V power = power_of_two<float>(shifted, 0), s = r * r;
  const V e = fma(power * s, E::tail(r, s), fma(power, r, power - splat(1.0f)));
  return with_sign<float>(e / (e + splat(2.0f)), sign_of<float>(x));
}

ELMAN_INLINE Vec<double> tanh(Vec<double> x) {
  using V = Vec<double>;
  using E = Exponential<double>;
  const V a = least<double>(splat(20.0), without_sign<double>(x)), y = a + a;
  const V magic = splat(E::kMagic), shifted = fma(y, splat(E::kInverseLn2), magic), n = shifted - magic;
  const V r = fma(n, splat(-E::kLn2Rest), fma(n, splat(-E::kLn2), y)), s = r * r;
  const V power = power_of_two<double>(shifted, 0);
  const V e = fma(power, fma(s, E::tail(r, s), r), power - splat(1.0));
  return with_sign<double>(e / (e + splat(2.0)), sign_of<double>(x));
}

// exp(-a) of a >= 0. Where it is below the normal numbers its power of two is a normal one times a constant.
template <class T> ELMAN_INLINE Vec<T> exp_of_minus(Vec<T> a) {
  using V = Vec<T>;
  using E = Exponential<T>;
  constexpr int kMore = sizeof(T) == 4 ? 64 : 512;
  constexpr T kLess = sizeof(T) == 4 ? T(0x1p-64) : T(0x1p-512);
  a = least<T>(splat(T(sizeof(T) == 4 ? 105 : 750)), a);  // exp of less rounds to 0
  const V magic = splat(E::kMagic), shifted = fma(a, splat(-E::kInverseLn2), magic), n = shifted - magic;
  const V r = fma(n, splat(-E::kLn2Rest), fma(n, splat(-E::kLn2), -a)), s = r * r;
  const V p = fma(s, E::tail(r, s), r) + splat(T(1));
  return (p * power_of_two<T>(shifted, kMore)) * splat(kLess);
}

// By e = exp(-|x|): 1 / (1 + e) for x >= 0 and e / (1 + e) below, so that small results are as near, in units in the
// last place, as large ones.
template <class T> ELMAN_INLINE Vec<T> sigmoid_of(Vec<T> x) {
  const Vec<T> zero{}, one = splat(T(1)), e = exp_of_minus<T>(without_sign<T>(x));
  return (x < zero ? e : one) / (one + e);
}
ELMAN_INLINE Vec<float> sigmoid(Vec<float> x) { return sigmoid_of<float>(x); }
ELMAN_INLINE Vec<double> sigmoid(Vec<double> x) { return sigmoid_of<double>(x); }

template <class V> ELMAN_INLINE V relu(V x) {
  const V zero{};
  return x < zero ? zero : x;  // NaN stays, as in torch
}

}  // namespace elman::ELMAN_TARGET
