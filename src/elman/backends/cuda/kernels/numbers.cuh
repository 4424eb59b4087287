// The types of numbers: how one is stored, read and written, and the tensor cores' product of two tiles.
// A tile's operands come in 16 bytes a thread, four words of 32 bits, of consecutive k: two words each for two
// instructions. Which k the instruction takes a word for doesn't matter, as long as both operands agree.
#pragma once

namespace elman::cuda {

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

struct alignas(16) Words {
  u32 w[4];
};

struct BFloat16 {
  using Storage = u16;
  static constexpr int kProducts = 1;
  static ELMAN_INLINE float read(u16 x) { return __uint_as_float(u32(x) << 16); }
  static ELMAN_INLINE u16 write(float x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }
  static ELMAN_INLINE u16 operand(float x) { return write(x); }
  static ELMAN_INLINE u16 operand_of(u16 x) { return x; }
  static ELMAN_INLINE void multiply(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
};

struct Float16 {
  using Storage = u16;
  static constexpr int kProducts = 1;
  static ELMAN_INLINE float read(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
  }
  static ELMAN_INLINE u16 write(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }
  static ELMAN_INLINE u16 operand(float x) { return write(x); }
  static ELMAN_INLINE u16 operand_of(u16 x) { return x; }
  static ELMAN_INLINE void multiply(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
};

ELMAN_INLINE float to_tf32(float x) {
  u32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
}

ELMAN_INLINE void multiply_tf32(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// float32 whose products round both factors to 11 bits, as torch has it where torch.backends.cudnn.allow_tf32.
struct Tf32 {
  using Storage = float;
  static constexpr int kProducts = 1;
  static ELMAN_INLINE float read(float x) { return x; }
  static ELMAN_INLINE float write(float x) { return x; }
  static ELMAN_INLINE float operand(float x) { return to_tf32(x); }
  static ELMAN_INLINE float operand_of(float x) { return to_tf32(x); }
  static ELMAN_INLINE void multiply(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    multiply_tf32(d, a0, a1, a2, a3, b0, b1);
  }
};

// float32 by three products: each factor is the sum of two of 11 bits, and the product of the two small parts is below
// what float32 holds. Only a few products are added up by the tensor cores, which do not round sums but cut them off:
// over many steps of a sum that would become a bias (Ootomo and Yokota, 2022).
struct Float32 {
  using Storage = float;
  static constexpr int kProducts = 3;
  static ELMAN_INLINE float read(float x) { return x; }
  static ELMAN_INLINE float write(float x) { return x; }
  static ELMAN_INLINE float operand(float x) { return x; }
  static ELMAN_INLINE float operand_of(float x) { return x; }
  static ELMAN_INLINE void split(u32 x, u32& high, u32& low) {
    // Volatile: else the compiler splits the weights once for all steps, for which there are no registers.
    asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(high) : "f"(__uint_as_float(x)));
    low = __float_as_uint(to_tf32(__uint_as_float(x) - __uint_as_float(high)));
  }
  static ELMAN_INLINE void multiply(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    u32 ah[4], al[4], bh[2], bl[2];
    split(a0, ah[0], al[0]), split(a1, ah[1], al[1]), split(a2, ah[2], al[2]), split(a3, ah[3], al[3]);
    split(b0, bh[0], bl[0]), split(b1, bh[1], bl[1]);
    float sums[4] = {};
    multiply_tf32(sums, al[0], al[1], al[2], al[3], bh[0], bh[1]);
    multiply_tf32(sums, ah[0], ah[1], ah[2], ah[3], bl[0], bl[1]);
    multiply_tf32(sums, ah[0], ah[1], ah[2], ah[3], bh[0], bh[1]);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] += sums[i];
  }
};

#if ELMAN_NUMBER == 2
using Number = BFloat16;
#elif ELMAN_NUMBER == 1
using Number = Float16;
#elif ELMAN_NUMBER == 3
using Number = Tf32;
#else
using Number = Float32;
#endif

using Storage = Number::Storage;
constexpr int kSize = sizeof(Storage);
constexpr int kPerChunk = 16 / kSize;  // numbers in 16 bytes

}  // namespace elman::cuda
