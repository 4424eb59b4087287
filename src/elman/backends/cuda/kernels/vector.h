// What csrc/cells ask of a vector, for one float: a thread of the GPU takes the place that a lane has on the CPU.
// Stands in for cell.h and what that includes. ELMAN_NUMBER says how exact tanh and sigmoid are to be.
#pragma once

#define ELMAN_TARGET cuda
#define ELMAN_INLINE __device__ __forceinline__
#define ELMAN_CELL(Cell)  // each kernel names its own

namespace elman::ELMAN_TARGET {

template <class T> using Vec = T;

ELMAN_INLINE float splat(float value) { return value; }
ELMAN_INLINE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ELMAN_INLINE float fnma(float a, float b, float c) { return __fmaf_rn(-a, b, c); }
ELMAN_INLINE float relu(float x) { return x <= 0.f ? 0.f : x; }  // NaN stays

// 2^x and 1/x, as the hardware has them, with relative errors of 2^-22 and 2^-23. What is below 2^-126 becomes zero,
// without the instructions that would keep it.
ELMAN_INLINE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ELMAN_INLINE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
constexpr float kLog2OfE = 1.44269504f;

#if ELMAN_NUMBER == 2  // bfloat16: the hardware's, whose error of 2^-11 is a quarter of the rounding that follows
ELMAN_INLINE float tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#elif ELMAN_NUMBER == 1  // float16: absolute error below 2^-20
ELMAN_INLINE float tanh(float x) {
  const float e = exp2_approx(-2.f * kLog2OfE * fabsf(x));
  return copysignf((1.f - e) * reciprocal_approx(1.f + e), x);
}
#else                    // relatively exact for small numbers, too
ELMAN_INLINE float tanh(float x) { return tanhf(x); }
#endif

#if ELMAN_NUMBER == 0  // float32
ELMAN_INLINE float sigmoid(float x) { return __frcp_rn(1.f + expf(-x)); }
#else  // absolute error below 2^-21
// bfloat16's tanh would make an error of up to 2^-12 of it: much for a gate that forgets a thousandth at each step.
ELMAN_INLINE float sigmoid(float x) { return reciprocal_approx(1.f + exp2_approx(-kLog2OfE * x)); }
#endif

}  // namespace elman::ELMAN_TARGET
