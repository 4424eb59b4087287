// How the blocks of a group hand each other their parts of the vectors that the next product reads: `Vectors` numbers
// of each unit, [kTile][Vectors·kPadded]. Slot s % 2 holds what step s reads. Two are enough: nobody can send to step s
// + 2 before everybody has sent to step s + 1, for which all have read step s's.
#pragma once

namespace elman::cuda {

template <int Vectors, class P, class I> struct Exchange {
  static constexpr int kColumns = Vectors * kPadded, kPitch = P::kPitch;
  static constexpr bool kAlone = kBlocks == 1, kGlobal = !kAlone && !kCluster;
  static constexpr int kPieces = 32 / kPerChunk;  // chunks in a warp's items
  static constexpr int kSends = kPieces * Vectors * (kCluster && !kAlone ? kBlocks : 1),
                       kLaneSends = (kSends + 31) / 32;
  // Pieces that a lane sends: always the same one, or each time another.
  static constexpr int kLanePieces = 32 % (kPieces * Vectors) == 0 ? 1 : kLaneSends;
  static constexpr int kSlotBytes = kGlobal ? 0 : kTile * kPitch * kSize;
  static constexpr int kStageBytes = kAlone ? 0 : kWarps * Vectors * 32 * kSize;
  using Barriers = SlotBarriers<kTile * kColumns * kSize>;
  static constexpr int kBytes = 2 * kSlotBytes + kStageBytes + Barriers::kBytes;  // of shared memory
  static constexpr int kMailboxNumbers = 2 * kTile * kColumns;

  Storage* slots;          // shared, [2][kTile][kPitch]; through global memory: [2][kTile][kColumns]
  const Storage* fetched;  // in slot 0, the lane's first chunk
  Storage* written;        // in slot 0 or on the warp's stage, [Vectors][32], the thread's item 0
  const Words* staged[kLanePieces];
  u32 sent[kLanePieces];  // where they go, in bytes from slot 0
  Barriers barriers;
  u32* flags;  // of the group, [kBlocks]
  int rank;
#if __CUDA_ARCH__ >= 900
  u32 there[kCluster && !kAlone ? kLaneSends : 1];  // the slots of the block that the lane sends to
#endif

  ELMAN_INLINE void init(char* shared, int rank_, Storage* mailbox, u32* flags_) {
    rank = rank_;
    slots = (Storage*)shared;
    Storage* stage = (Storage*)(shared + 2 * kSlotBytes) + (threadIdx.x >> 5) * Vectors * 32;
    if (kGlobal) slots = mailbox, flags = flags_;
    fetched = slots + P::first_fetched(kGlobal ? kColumns : kPitch);
    if constexpr (!kGlobal) fetched = in_register(fetched);
    if constexpr (kAlone) {
      written = in_register(slots + I::first(kPitch));
    } else {
      written = in_register(stage + I::place());
#pragma unroll
      for (int j = 0; j < kLanePieces; ++j) {
        const int i = j * 32 + (threadIdx.x & 31);
        staged[j] = in_register((const Words*)stage + i % (kPieces * Vectors));
        sent[j] = in_register(u32(place_of(0, i) * kSize));
      }
    }
#if __CUDA_ARCH__ >= 900
    if constexpr (kCluster && !kAlone) {
      barriers.init(shared_address(shared + 2 * kSlotBytes + kStageBytes));
#pragma unroll
      for (int j = 0; j < kLaneSends;
          ++j)  // each block begins with another, so that no block is sent to by all at once
        there[j] =
            address_in(shared_address(slots), ((j * 32 + (threadIdx.x & 31)) / (kPieces * Vectors) + rank) % kBlocks);
      __syncthreads();
      cluster_sync();
    }
#endif
  }

  // Sends the warp's items e; all lanes of the warp take part.
  ELMAN_INLINE void send(int step, int e, const float (&values)[Vectors]) {
    const int lane = threadIdx.x & 31, slot = step & 1;
    if constexpr (kAlone) {
#pragma unroll
      for (int v = 0; v < Vectors; ++v)
        written[slot * (kTile * kPitch) + I::beyond(e, kPitch) + v * kPadded] = Number::operand(values[v]);
      return;
    }
    __syncwarp();
#pragma unroll
    for (int v = 0; v < Vectors; ++v) written[v * 32] = Number::operand(values[v]);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kLaneSends; ++j) {
      const int i = j * 32 + lane;
      if (kSends % 32 && i >= kSends) continue;
      const Words words = *staged[j % kLanePieces];
      const u32 place = sent[j % kLanePieces] + (place_of(e, i) - place_of(0, i)) * kSize;
      if constexpr (kGlobal) {
        store_past_l1((char*)slots + slot * (kTile * kColumns * kSize) + place, words);
      } else {
#if __CUDA_ARCH__ >= 900
        store_async(there[j] + slot * kSlotBytes + place, words, there[j] + 2 * kSlotBytes + kStageBytes + slot * 8);
#endif
      }
    }
  }

  // Where the i-th piece of the warp's items e goes, in numbers from its slot's first.
  ELMAN_INLINE int place_of(int e, int i) const {
    const int first = i % kPieces * kPerChunk, v = i / kPieces % Vectors;
    return I::sequence_at(e, first) * (kGlobal ? kColumns : kPitch) + v * kPadded + rank * kUnits +
        I::unit_at(e, first);
  }

  // After the last send of a step, by all threads.
  ELMAN_INLINE void publish(int step) {
    if constexpr (kAlone) __syncthreads();
    if constexpr (kGlobal) publish_flag(flags + rank, step + 1);
  }

  // Until all that the warp reads of this step is there.
  ELMAN_INLINE void wait(int step) {
    if constexpr (kCluster && !kAlone) barriers.wait(step);
    if constexpr (kGlobal) wait_for_flags<kBlocks>(flags, step);
  }

  // As the product's run() asks for it.
  ELMAN_INLINE Words fetch(int step, int n, int column) const {
    if constexpr (kGlobal) return load_past_l1(fetched + ((step & 1) * kTile + n) * kColumns + column);
    return *(const Words*)(fetched + ((step & 1) * kTile + n) * kPitch + column);
  }
};

// Nobody's shared memory goes away while somebody may write to it.
ELMAN_INLINE void finish_exchanges() {
#if __CUDA_ARCH__ >= 900
  if constexpr (kCluster && kBlocks > 1) cluster_sync();
#endif
}

}  // namespace elman::cuda
