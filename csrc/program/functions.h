// More functions on vectors, beside math.h's. NaN in, NaN out; infinities give the limits. Their largest errors in
// units in the last place are in tests/test_program_functions.py. What is rarely used asks the C library, number by
// number.
#pragma once

#include "../math.h"

namespace elman::ELMAN_TARGET {

template <class T> constexpr T kInfinity = T(__builtin_inff());

// exp(x), by way of two powers of two, since one does not reach the ends.
template <class T> ELMAN_INLINE Vec<T> exp(Vec<T> x) {
  using V = Vec<T>;
  using E = Exponential<T>;
  constexpr T kHigh = sizeof(T) == 4 ? T(89) : T(710), kLow = sizeof(T) == 4 ? T(-104) : T(-746);
  const V magic = splat(E::kMagic), high = splat(kHigh), low = splat(kLow);
  const V y = x > high ? high : x < low ? low : x;
  const V shifted = fma(y, splat(E::kInverseLn2), magic), n = shifted - magic;
  const V r = fma(n, splat(-E::kLn2Rest), fma(n, splat(-E::kLn2), y)), s = r * r;
  const V p = fma(s, E::tail(r, s), r) + splat(T(1));
  const Bits<T> whole = (Bits<T>)shifted - (Bits<T>)magic, half = whole >> 1;
  const V first = (V)((half + E::kBias) << E::kMantissa), second = (V)((whole - half + E::kBias) << E::kMantissa);
  return x == x ? p * first * second : x;
}

// exp(x) - 1 = 2^n·expm1(r) + (2^n - 1), as tanh has it. From where it is exp(x), that.
template <class T> ELMAN_INLINE Vec<T> expm1(Vec<T> x) {
  using V = Vec<T>;
  using E = Exponential<T>;
  constexpr T kHigh = T(60), kLow = T(-60);
  const V magic = splat(E::kMagic), high = splat(kHigh), low = splat(kLow), one = splat(T(1));
  const V y = x > high ? high : x < low ? low : x;
  const V shifted = fma(y, splat(E::kInverseLn2), magic), n = shifted - magic;
  const V r = fma(n, splat(-E::kLn2Rest), fma(n, splat(-E::kLn2), y)), s = r * r;
  const V power = power_of_two<T>(shifted, 0);
  const V near = fma(power * s, E::tail(r, s), fma(power, r, power - one));
  return x != x ? x : x > high ? exp<T>(x) : near;
}

// z/3 + z²/5 + ... to the power kTerms, twice and divided by z: what log(1 + f) = 2·artanh(s), s = f / (2 + f), z = s²,
// is beyond 2s, divided by s·z.
template <class T, int kTerms> ELMAN_INLINE Vec<T> artanh_tail(Vec<T> z) {
  Vec<T> tail = splat(T(2) / T(2 * kTerms + 1));
#pragma GCC unroll 16
  for (int i = kTerms - 1; i > 0; --i) tail = fma(tail, z, splat(T(2) / T(2 * i + 1)));
  return tail;
}

// log(x), x = 2^k·m with m from sqrt(1/2) to sqrt(2): with f = m - 1, s = f / (2 + f) and z = s²,
// log m = 2s + 2s·(z/3 + z²/5 + ...) = f - (f²/2 - s·(f²/2 + 2·(z/3 + ...))): what is rounded is small beside f.
template <class T> struct Logarithm;
template <> struct Logarithm<float> {
  static constexpr float kLn2 = 0.693145751953125f, kLn2Rest = 1.428606765330187e-06f, kNormal = 0x1p-126f;
  static constexpr float kScale = 0x1p25f;
  static constexpr int kScaled = 25, kTerms = 5;
  static constexpr std::int32_t kHalfRoot = 0x3f3504f3;  // of sqrt(1/2)
};
template <> struct Logarithm<double> {
  static constexpr double kLn2 = 0.693147180369123816490, kLn2Rest = 1.90821492927058770002e-10, kNormal = 0x1p-1022;
  static constexpr double kScale = 0x1p54;
  static constexpr int kScaled = 54, kTerms = 11;
  static constexpr std::int64_t kHalfRoot = 0x3fe6a09e667f3bcd;
};
template <class T> ELMAN_INLINE Vec<T> log(Vec<T> x) {
  using V = Vec<T>;
  using B = Bits<T>;
  using L = Logarithm<T>;
  using Lane = typename Types<T>::Lane;
  constexpr int kMantissa = Exponential<T>::kMantissa;
  const V zero{}, infinity = splat(kInfinity<T>);
  const B tiny = x < splat(L::kNormal);
  const B bits = (B)(tiny ? x * splat(L::kScale) : x);
  const B root = B{} + L::kHalfRoot, up = bits - root;
  const B k = up >> kMantissa;
  const V m = (V)((up & ((Lane{1} << kMantissa) - 1)) + root);
  const V power = __builtin_convertvector(k - (tiny & L::kScaled), V);
  const V f = m - splat(T(1)), s = f / (f + splat(T(2))), z = s * s, half = f * f * splat(T(0.5));
  const V tail = artanh_tail<T, L::kTerms>(z);
  const V rest = fma(power, splat(L::kLn2Rest), s * fma(z, tail, half));
  const V found = fma(power, splat(L::kLn2), f - (half - rest));
  const V below = x == zero ? -infinity : splat(T(__builtin_nanf("")));
  return x > zero ? (x < infinity ? found : x) : x != x ? x : below;
}

// log(1 + x): the logarithm of u = 1 + x as it is rounded, times x / (u - 1), which makes up for the rounding.
template <class T> ELMAN_INLINE Vec<T> log1p(Vec<T> x) {
  using V = Vec<T>;
  const V one = splat(T(1)), u = x + one, d = u - one;
  const V found = log<T>(u) * (x / d);
  return d == V{} ? x : u < splat(kInfinity<T>) ? (u == V{} ? splat(-kInfinity<T>) : found) : u;
}

// log(1 + exp(x)), which is x from 20 on, as torch has it: max(x, 0) + log(1 + u), u = exp(-|x|). Since u is at most 1,
// log's series does without a power of two.
template <class T> ELMAN_INLINE Vec<T> softplus(Vec<T> x) {
  using V = Vec<T>;
  const V zero{}, u = exp_of_minus<T>(without_sign<T>(x));
  const V s = u / (u + splat(T(2))), z = s * s, half = u * u * splat(T(0.5));
  const V found = u - (half - s * fma(z, artanh_tail<T, sizeof(T) == 4 ? 7 : 16>(z), half));
  return x > splat(T(20)) ? x : (x > zero ? x : zero) + found;
}

template <class T> ELMAN_INLINE Vec<T> square_root(Vec<T> x) {
  T lanes[kLanes<T>];
  store(lanes, x);
  for (int i = 0; i < kLanes<T>; ++i)
    if constexpr (sizeof(T) == 4) lanes[i] = __builtin_sqrtf(lanes[i]);
    else lanes[i] = __builtin_sqrt(lanes[i]);
  return load(lanes);
}

// NaN where either is.
template <class T> ELMAN_INLINE Vec<T> minimum(Vec<T> a, Vec<T> b) { return a != a ? a : a < b ? a : b; }
template <class T> ELMAN_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) { return a != a ? a : a > b ? a : b; }

inline float library_sin(float x) { return __builtin_sinf(x); }
inline double library_sin(double x) { return __builtin_sin(x); }
inline float library_cos(float x) { return __builtin_cosf(x); }
inline double library_cos(double x) { return __builtin_cos(x); }
inline float library_erf(float x) { return __builtin_erff(x); }
inline double library_erf(double x) { return __builtin_erf(x); }
// A root is what the processor has, as in torch: of -0 and of minus infinity the library's power is another.
inline float library_pow(float x, float y) {
  return y == 0.5f ? __builtin_sqrtf(x) : y == -0.5f ? 1 / __builtin_sqrtf(x) : __builtin_powf(x, y);
}
inline double library_pow(double x, double y) {
  return y == 0.5 ? __builtin_sqrt(x) : y == -0.5 ? 1 / __builtin_sqrt(x) : __builtin_pow(x, y);
}

// f of each lane.
template <class T, class F, class... V> ELMAN_INLINE Vec<T> by_lane(F f, V... x) {
  T lanes[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) lanes[i] = f(x[i]...);
  return load(lanes);
}

}  // namespace elman::ELMAN_TARGET
