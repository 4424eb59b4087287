// The instructions of PTX that the kernels' sources contain, as functions of their operands in the order of the asm
// statement. cuda_emulator.py puts a call in the place of each statement: the name is the instruction's, with _ for all
// that C++ does not allow.
#pragma once

#include "machine.h"
#include "numbers.h"

namespace elman::emulated::ptx {

// --- Numbers

inline void cvt_rn_bf16_f32(unsigned short& y, float x) { y = to_bfloat16(x); }
inline void cvt_f32_bf16(float& y, unsigned short x) { y = of_bfloat16(x); }
inline void cvt_rn_f16_f32(unsigned short& y, float x) { y = to_float16(x); }
inline void cvt_f32_f16(float& y, unsigned short x) { y = of_float16(x); }
inline void cvt_rna_tf32_f32(unsigned& y, float x) { y = to_tf32(x); }
// As inexact as it may be: for some numbers too large, for others too small.
inline void tanh_approx_f32(float& y, float x) { y = tanhf(x) * (1.f + (bits_of(x) & 0x10000 ? 0x1p-11f : -0x1p-11f)); }
inline void ex2_approx_f32(float& y, float x) { y = exp2f(x); }
inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.f, x) : x; }
inline void ex2_approx_ftz_f32(float& y, float x) { y = flushed(exp2f(flushed(x))); }
inline void lg2_approx_f32(float& y, float x) { y = log2f(x); }
inline void rcp_approx_f32(float& y, float x) { y = 1.f / x; }
inline void rcp_approx_ftz_f32(float& y, float x) { y = flushed(1.f / flushed(x)); }

inline void product(Factors factors, float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2,
    unsigned a3, unsigned b0, unsigned b1) {
  multiply(factors, {&d0, &d1, &d2, &d3}, {a0, a1, a2, a3, b0, b1});
}
template <class... Operands> void mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(Operands&&... operands) {
  product(kBFloat16, operands...);
}
template <class... Operands> void mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(Operands&&... operands) {
  product(kFloat16, operands...);
}
template <class... Operands> void mma_sync_aligned_m16n8k8_row_col_f32_tf32_tf32_f32(Operands&&... operands) {
  product(kTf32, operands...);
}

// --- Copies

inline void mov_u32(unsigned& y, unsigned x) { y = x; }

inline void cp_async_cg_shared_global(unsigned to, const void* from, int valid) { copy_late(to, from, valid, 16); }
inline void cp_async_ca_shared_global(unsigned to, const void* from, int valid, int bytes) {
  copy_late(to, from, valid, bytes);
}
inline void cp_async_commit_group() { commit_copies(); }
inline void cp_async_wait_group(int pending) { wait_for_copies(pending); }

// --- A cluster

inline void mbarrier_init_shared_cta_b64(unsigned barrier) { barrier_init(barrier, 1); }
inline void fence_mbarrier_init_release_cluster() {}
inline void mbarrier_arrive_expect_tx_shared_cta_b64(unsigned barrier, unsigned bytes) {
  barrier_expect(barrier, bytes);
}
inline void mbarrier_try_wait_parity_shared_cta_b64(unsigned barrier, unsigned parity) {
  barrier_wait(barrier, parity);
}
inline void mapa_shared_cluster_u32(unsigned& there, unsigned address, unsigned rank) {
  there = address_in(address, rank);
}
inline void st_async_shared_cluster_mbarrier_complete_tx_bytes_v4_b32(
    unsigned to, unsigned a, unsigned b, unsigned c, unsigned d, unsigned barrier) {
  send(to, {a, b, c, d}, barrier);
}
inline void barrier_cluster_arrive_release_aligned_then_barrier_cluster_wait_acquire_aligned() { group_barrier(); }

// --- Global memory

inline void st_release_gpu_global_u32(unsigned* flag, unsigned value) { release(flag, value); }
inline void ld_acquire_gpu_global_u32(unsigned& value, const unsigned* flag) { value = acquire(flag); }
inline void ld_global_cg_f32(float& value, const float* from) { value = *from; }
inline void ld_global_cg_v4_u32(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* from) {
  const unsigned* words = (const unsigned*)from;
  a = words[0], b = words[1], c = words[2], d = words[3];
}
inline void st_global_cg_v4_u32(void* to, unsigned a, unsigned b, unsigned c, unsigned d) {
  store_late(to, {a, b, c, d});
}

}  // namespace elman::emulated::ptx
