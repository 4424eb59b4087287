// How the blocks of a group make the gradient of what a product multiplied: each block multiplies the gradients of its
// own units' gates, which gives a part of the gradient of every unit, and sends each block the parts of that block's
// units, which adds them up (a reduce-scatter). The other way is that every block gets all gates' gradients
// (exchange.cuh): of several gates these are more bytes.
// Two slots are enough: nobody sends parts of step s + 2 before it has those of step s + 1 from everybody, who by then
// have read step s's.
#pragma once

namespace elman::cuda {

static_assert(
    !kReduceScatter || (kBlocks > 1 && !kInRegisters && kSplit == 1), "a warp has whole parts, and sends them");

template <int Gates, class P, class I> struct ReduceScatter {
  static constexpr bool kGlobal = !kCluster;
  static constexpr int kPart = kTile * kUnits;                  // numbers of a part
  static constexpr int kPartPitch = kPart + (kGlobal ? 0 : 8);  // of four parts next to each other, in other banks
  static constexpr int kVector = kTile * P::kPitch;             // numbers that a block multiplies
  static constexpr int kSlot = kBlocks * kPartPitch;            // numbers that a block adds up
  static constexpr int kSlotBytes = kGlobal ? 0 : kSlot * 4;
  using Barriers = SlotBarriers<kBlocks * kPart * 4>;
  static constexpr int kBytes = 2 * kVector * kSize + 2 * kSlotBytes + Barriers::kBytes;  // of shared memory
  static constexpr int kMailboxNumbers = 2 * kBlocks * kSlot * (4 / kSize);

  // In shared memory, [2][kTile][P::kPitch]: of step s, the gradients of the block's gates.
  const Storage* fetched;  // the lane's first chunk of them
  Storage* written;        // the thread's item 0
  const float* summed;     // in slot 0, the lane's first numbers of its first part
  float* slots;            // shared, [2][kBlocks][kPartPitch]; through global memory, [2] of each block
  Barriers barriers;
  u32* flags;  // of the group, [kBlocks]
  int rank;
#if __CUDA_ARCH__ >= 900
  u32 there[kCluster ? kWarpTiles : 1];  // the slots of the block that the warp's tile is for
#endif

  // The first row of a warp's tile, in the order of the units from the block's own on: so that no block is sent to by
  // all at once.
  static ELMAN_INLINE int row(int tile) { return (P::warp_row() * kWarpTiles + tile) * 16; }
  ELMAN_INLINE int receiver(int tile) const { return (row(tile) / kUnits + rank) % kBlocks; }

  ELMAN_INLINE void init(char* shared, int rank_, Storage* mailbox, u32* flags_) {
    rank = rank_;
    Storage* vectors = (Storage*)shared;
    fetched = in_register(vectors + P::first_fetched(P::kPitch));
    written = in_register(vectors + I::first(P::kPitch));
    slots = (float*)(shared + 2 * kVector * kSize);
    if (kGlobal) slots = (float*)mailbox, flags = flags_;
    summed = slots + (kGlobal ? rank * kSlot : 0) + threadIdx.x % 4 * kPartPitch + I::first(kUnits) / 4 * 4;
    if constexpr (!kGlobal) summed = in_register(summed);
#if __CUDA_ARCH__ >= 900
    if constexpr (kCluster) {
      barriers.init(shared_address(shared + kBytes - Barriers::kBytes));
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m) there[m] = address_in(shared_address(slots), receiver(m));
      __syncthreads();
      cluster_sync();
    }
#endif
  }

  // The gradients of the gates of the thread's item e.
  ELMAN_INLINE void send(int step, int e, const float (&values)[Gates]) {
#pragma unroll
    for (int v = 0; v < Gates; ++v)
      written[(step & 1) * kVector + I::beyond(e, P::kPitch) + v * kUnits] = Number::operand(values[v]);
  }

  // After the last send of a step, by all threads: the product, whose sums are the parts.
  ELMAN_INLINE void publish(int step, const P& product) {
    __syncthreads();
    if (P::takes_part()) {
      float sums[kWarpTiles][kColumnTiles][4];
      product.run(sums,
          [&](int n, int column) { return *(const Words*)(fetched + (step & 1) * kVector + n * P::kPitch + column); });
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m)
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) send_part(step & 1, m, n, transposed(sums[m][n]));
    }
    if constexpr (kGlobal) publish_flag(flags + rank, step + 1);
  }

  // Until all parts of a step are there.
  ELMAN_INLINE void wait(int step) {
    if constexpr (kCluster) barriers.wait(step);
    if constexpr (kGlobal) wait_for_flags<kBlocks>(flags, step);
  }

  // The sum of the parts of the thread's item e, always in the same order. Four lanes that have four units next to each
  // other take each a quarter of the blocks, of all four units. All lanes of the warp take part.
  ELMAN_INLINE float sum(int step, int e) const {
    const int lane = threadIdx.x % 4;
    const float* of_step = summed + (step & 1) * (kGlobal ? kBlocks : 1) * kSlot + I::beyond(e, kUnits);
    float sums[4];
#pragma unroll
    for (int block = 0; block < kBlocks; block += 4) {
      Words words{};
      if (kBlocks % 4 == 0 || block + lane < kBlocks)
        words = kGlobal ? load_past_l1(of_step + block * kPartPitch) : *(const Words*)(of_step + block * kPartPitch);
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] = block ? sums[i] + __uint_as_float(words.w[i]) : __uint_as_float(words.w[i]);
    }
    // Each lane gives away what it does not keep: first the unit whose number differs in the last bit, then the other.
    const bool odd = lane & 1, upper = lane & 2;
    const float low = (odd ? sums[1] : sums[0]) + __shfl_xor_sync(0xffffffffu, odd ? sums[0] : sums[1], 1);
    const float high = (odd ? sums[3] : sums[2]) + __shfl_xor_sync(0xffffffffu, odd ? sums[2] : sums[3], 1);
    return (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, 2);
  }

 private:
  // From a warp's sums of a tile (product.cuh), four units of a sequence: of four lanes that have the same sequences
  // and rows next to each other, the i-th gets what each of them has i-th.
  static ELMAN_INLINE Words transposed(float (&sums)[4]) {
    const bool odd = threadIdx.x & 4, upper = threadIdx.x & 8;
#pragma unroll
    for (int q = 0; q < 4; q += 2) {
      const float got = __shfl_xor_sync(0xffffffffu, odd ? sums[q] : sums[q + 1], 4);
      if (odd) sums[q] = got;
      else sums[q + 1] = got;
    }
    Words words;
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      const float got = __shfl_xor_sync(0xffffffffu, upper ? sums[q] : sums[q + 2], 8);
      words.w[q] = __float_as_uint(upper ? got : sums[q]);
      words.w[q + 2] = __float_as_uint(upper ? sums[q + 2] : got);
    }
    return words;
  }

  ELMAN_INLINE void send_part(int slot, int m, int n, Words words) const {
    const int lane = threadIdx.x & 31, q = lane / 4 % 4;
    const int unit = row(m) % kUnits + lane / 16 * 4 + q / 2 * 8, sequence = n * 8 + lane % 4 * 2 + q % 2;
    const int at = rank * kPartPitch + sequence * kUnits + unit;
    if constexpr (kGlobal) {
      store_past_l1(slots + (slot * kBlocks + receiver(m)) * kSlot + at, words);
    } else {
#if __CUDA_ARCH__ >= 900
      store_async(there[m] + (slot * kSlot + at) * 4, words, there[m] + 2 * kSlotBytes + slot * 8);
#endif
    }
  }
};

}  // namespace elman::cuda
