// bfloat16, float16 and TF32 as the hardware converts them: to the nearest, of two that are as near to the even one;
// TF32 to the larger. And the float32 numbers that are no farther from zero than given ones.
#pragma once

namespace elman::emulated {

inline float as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline unsigned bits_of(float x) { return __builtin_bit_cast(unsigned, x); }

inline float of_bfloat16(unsigned short x) { return as_float(unsigned(x) << 16); }
inline unsigned short to_bfloat16(float x) {
  const unsigned bits = bits_of(x);
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline float of_float16(unsigned short x) {
  const unsigned sign = (x & 0x8000u) << 16, rest = x & 0x7fffu;
  if (rest >= 0x7c00) return as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  return as_float(
      sign | bits_of(as_float(rest << 13) * 0x1p112f));  // another bias of the exponent, and denormals made normal
}
inline unsigned short to_float16(float x) {
  const unsigned sign = bits_of(x) >> 16 & 0x8000, rest = bits_of(x) & 0x7fffffff;
  if (rest > 0x7f800000) return 0x7fff;
  if (rest >= 0x477ff000) return sign | 0x7c00;                                         // 65520 rounds to infinity
  if (rest < 0x38800000) return sign | (bits_of(as_float(rest) + .5f) - bits_of(.5f));  // denormal: the sum rounds
  return sign | ((rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
}

inline unsigned to_tf32(float x) { return x != x ? 0x7fffffff : (bits_of(x) + 0x1000) & 0xffffe000; }
inline float of_tf32(unsigned x) { return as_float(x & 0xffffe000); }  // the tensor cores read no more of it

inline float cut_off(double x) {
  const float nearest = x;
  const bool is_too_far = __builtin_fabs(nearest) > __builtin_fabs(x) && !__builtin_isinf(nearest);
  return is_too_far ? as_float(bits_of(nearest) - 1) : nearest;
}

}  // namespace elman::emulated
