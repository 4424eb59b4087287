// The instructions by which blocks and threads hand numbers to each other.
#pragma once

namespace elman::cuda {

ELMAN_INLINE u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// The same number, or address in shared memory, in a register. The compiler would make such addresses anew at each use,
// from the thread's number and the block's rank in its cluster, which take long to read, in the midst of what a step
// waits for.
ELMAN_INLINE u32 in_register(u32 x) {
  u32 y;
  asm volatile("mov.u32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
template <class T> ELMAN_INLINE T* in_register(T* shared) {
  return (T*)__cvta_shared_to_generic(in_register(shared_address(shared)));
}

// --- Copies from global to shared memory that run while the thread goes on

// Bytes: 4, 8 or 16. Where it is not valid, zeros: nothing is read then, wherever `from` points to.
template <int Bytes> ELMAN_INLINE void copy_async(void* to, const void* from, bool valid) {
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
        : "memory");
  else
    asm volatile(
        "cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "n"(Bytes)
        : "memory");
}
ELMAN_INLINE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending> ELMAN_INLINE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// --- Barriers that count bytes

ELMAN_INLINE void barrier_init(u32 barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
ELMAN_INLINE void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

#if __CUDA_ARCH__ >= 900
// The bytes come from other blocks, but lie in this block's shared memory once they are counted: nothing is to be
// fetched anew, as it would be if the thread acquired from the whole cluster, which empties the first-level cache.
ELMAN_INLINE void barrier_wait(u32 barrier, u32 parity) {
  asm volatile("{\n"
               ".reg .pred done;\n"
               "again:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@!done bra again;\n"
               "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// To the whole cluster.
ELMAN_INLINE void barriers_are_there() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// The same place in the shared memory of another block of the cluster.
ELMAN_INLINE u32 address_in(u32 address, u32 rank) {
  u32 there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
ELMAN_INLINE void store_async(u32 to, Words v, u32 barrier) {  // 16 bytes, counted on the barrier beside them
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(to),
      "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3]), "r"(barrier)
      : "memory");
}
ELMAN_INLINE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#endif

// The two barriers of two slots that take turns, each of which counts the bytes that its slot gets of a step.
template <u32 SlotBytes> struct SlotBarriers {
  static constexpr int kBytes = 16;
  u32 first;

  // By all threads, before the cluster meets.
  ELMAN_INLINE void init(u32 at) {
    first = at;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      barrier_init(first), barrier_init(first + 8);
      barriers_are_there();
      barrier_expect(first, SlotBytes), barrier_expect(first + 8, SlotBytes);
    }
#endif
  }

  ELMAN_INLINE u32 of(int step) const { return first + (step & 1) * 8; }

  // By all threads, until the slot has all bytes of the step.
  ELMAN_INLINE void wait(int step) const {
#if __CUDA_ARCH__ >= 900
    barrier_wait(of(step), step >> 1 & 1);
    if (threadIdx.x == 0) barrier_expect(of(step), SlotBytes);
#endif
  }
};

// --- Through the second-level cache

ELMAN_INLINE void store_release(u32* to, u32 value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
ELMAN_INLINE u32 load_acquire(const u32* from) {
  u32 value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
ELMAN_INLINE Words load_past_l1(const void* from) {
  Words v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
      : "l"(from)
      : "memory");
  return v;
}
ELMAN_INLINE float load_float_past_l1(const float* from) {
  float value;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
  return value;
}
ELMAN_INLINE void store_past_l1(void* to, Words v) {
  asm volatile("st.global.cg.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3])
      : "memory");
}

// Tells the other blocks that what all threads of this one have written is there. By all threads.
ELMAN_INLINE void publish_flag(u32* flag, u32 value) {
  __syncthreads();
  if (threadIdx.x == 0) store_release(flag, value);  // releases what the barrier has ordered before it, too
}
// Until all blocks of the group are past `value`. By all threads, of which one warp asks: many that ask at once hold
// each other up.
template <int Blocks> ELMAN_INLINE void wait_for_flags(const u32* flags, int value) {
  for (int block = threadIdx.x; threadIdx.x < 32 && block < Blocks; block += 32)
    while (int(load_acquire(flags + block)) <= value) {
    }
  __syncthreads();
}

}  // namespace elman::cuda
