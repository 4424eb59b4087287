// Sums over the units of each sequence, or the largest of their numbers, which all blocks of a group make together:
// always in the same order.
#pragma once

namespace elman::cuda {

template <int Rows, class I> struct RowSums {  // of up to `Rows` numbers at once
  static constexpr bool kThere = Rows > 0, kAlone = kBlocks == 1, kGlobal = !kAlone && !kCluster;
  static constexpr int kParts = kUnits / 16, kNumbers = Rows * kTile,
                       kWords = kNumbers / 4;  // a part: of 16 units, the lanes of half a warp
  static constexpr int kSlotBytes = kAlone || kGlobal ? 0 : kBlocks * kNumbers * 4;
  using Barriers = SlotBarriers<kSlotBytes>;
  static constexpr int kBytes =
      kThere ? (kParts + 1) * kNumbers * 4 + 2 * kSlotBytes + Barriers::kBytes : 0;  // of shared memory
  static constexpr int kMailboxBytes = kThere && kGlobal ? 2 * kBlocks * kNumbers * 4 : 0;
  static_assert(!kThere || !kInRegisters, "a warp's half has units of one sequence");

  float *parts, *sums, *slots;  // [kParts][kNumbers]; the block's, [kNumbers]; all blocks', [2][kBlocks][kNumbers]
  Barriers barriers;
  u32* flags;
  int rank, count;

  ELMAN_INLINE void init(char* shared, int rank_, void* mailbox, u32* flags_) {
    if constexpr (kThere) {
      rank = rank_, count = 0, flags = flags_;
      parts = (float*)shared, sums = parts + kParts * kNumbers, slots = kGlobal ? (float*)mailbox : sums + kNumbers;
#if __CUDA_ARCH__ >= 900
      if constexpr (kCluster && !kAlone) {
        barriers.init(shared_address(shared + kBytes - Barriers::kBytes));
        __syncthreads();
        cluster_sync();
      }
#endif
    }
  }

  // numbers: of each of the thread's items, in; the sums of their sequences out, or the largest where `maxima` has the
  // number's bit. All threads call it. is_real(e): whether an item is a unit of the network.
  template <class Real>
  ELMAN_INLINE void reduce(float (&numbers)[I::kCount][Rows > 0 ? Rows : 1], int maxima, Real is_real) {
    auto add = [&](int row, float a, float b) { return maxima >> row & 1 ? maximum(a, b) : a + b; };
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      if (!I::has(e)) continue;
#pragma unroll
      for (int row = 0; row < Rows; ++row) {
        float number = is_real(e) ? numbers[e][row] : maxima >> row & 1 ? __int_as_float(0xff800000) : 0.f;
#pragma unroll
        for (int far = 8; far > 0; far /= 2) number = add(row, number, __shfl_xor_sync(0xffffffffu, number, far));
        if (threadIdx.x % 16 == 0) parts[I::unit(e) / 16 * kNumbers + row * kTile + I::sequence(e)] = number;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kNumbers; i += kThreads) {
      float sum = parts[i];
#pragma unroll
      for (int part = 1; part < kParts; ++part) sum = add(i / kTile, sum, parts[part * kNumbers + i]);
      sums[i] = sum;
    }
    __syncthreads();
    if constexpr (!kAlone) exchange();
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      if (!I::has(e)) continue;
#pragma unroll
      for (int row = 0; row < Rows; ++row) {
        const int at = row * kTile + I::sequence(e);
        float sum = kAlone ? sums[at] : of_block(0, at);
#pragma unroll
        for (int block = 1; block < kBlocks; ++block) sum = add(row, sum, of_block(block, at));
        numbers[e][row] = sum;
      }
    }
    ++count;
  }

 private:
  ELMAN_INLINE float of_block(int block, int at) const {
    const float* from = slots + ((count & 1) * kBlocks + block) * kNumbers + at;
    return kGlobal ? load_float_past_l1(from) : *from;
  }

  // Each block's sums to all. Two slots are enough: nobody sends the next but one before everybody has sent the next,
  // for which all have read this one.
  ELMAN_INLINE void exchange() {
    const int slot = count & 1;
    for (int i = threadIdx.x; i < kWords * (kGlobal ? 1 : kBlocks); i += kThreads) {
      const int word = i % kWords;
      float* to = slots + (slot * kBlocks + rank) * kNumbers + word * 4;
      const Words words = *(const Words*)(sums + word * 4);
      if constexpr (kGlobal) {
        store_past_l1(to, words);
      } else {
#if __CUDA_ARCH__ >= 900
        const u32 block = (i / kWords + rank) % kBlocks;  // each begins with another
        store_async(address_in(shared_address(to), block), words, address_in(barriers.of(slot), block));
#endif
      }
    }
    if constexpr (kGlobal) {
      publish_flag(flags + rank, count + 1);
      wait_for_flags<kBlocks>(flags, count);
    }
    if constexpr (!kGlobal) barriers.wait(count);
  }
};

}  // namespace elman::cuda
