// The product of a block's rows of the recurrent weights with the vectors of a tile's sequences. The weights stay in
// registers, and if these have no room for all of them, in shared memory, too. A warp holds kWarpTiles tiles of 16 rows
// and 1/kSplit of the columns; the warps' sums meet in shared memory, or, where nothing is split, stay where they are.
#pragma once

namespace elman::cuda {

template <int Rows, int Columns> struct Product {
  static constexpr int kTiles = Rows / 16, kWarpRows = kTiles / kWarpTiles, kGroup = 4 * kPerChunk,
                       kGroups = Columns / kGroup / kSplit;
  static constexpr int kChains = kWarpTiles * kColumnTiles >= 4 || Number::kProducts > 1
      ? 1
      : 2;  // independent sums of one result: the latency of an instruction is long
  static constexpr int kRowPitch = (Rows + 31) / 32 * 32 + 4;
  static constexpr int kSumBytes = kInRegisters || kReduceScatter ? 0 : kSplit * kTile * kRowPitch * 4;
  // A sequence's vector in shared memory: rows of 16-byte chunks, read four lanes side by side; the pitch keeps eight
  // lanes in different banks.
  static constexpr int kPitch = Columns * kSize % 128 == 64 ? Columns
      : Columns * kSize % 128 == 0                          ? Columns + 64 / kSize
                                                            : Columns + 32 / kSize;
  static_assert(kTiles % kWarpTiles == 0 && kWarpRows * kSplit <= kWarps && kGroups * kGroup * kSplit == Columns,
      "the plan's numbers fit");
  static_assert(!kInRegisters || (kSplit == 1 && kWarpRows == kWarps), "every warp has whole sums");

  // Groups of columns whose weights lie in shared memory: evenly between the others, which are multiplied while these
  // are read. A thread reads what it has written itself, 32 lanes side by side.
  static constexpr int kSharedGroups = kGroups * kSharedEighths / 8, kProductThreads = kWarpRows * kSplit * 32;
  static constexpr int kWeightBytes = kWarpTiles * kSharedGroups * 2 * kProductThreads * 16;

  Words weights[kWarpTiles][at_least_one(kGroups - kSharedGroups)][2];
  Words* shared_weights;  // the thread's first, kProductThreads apart

  static ELMAN_INLINE int shared_before(int k) { return k * kSharedGroups / kGroups; }
  static ELMAN_INLINE bool is_shared(int k) { return shared_before(k + 1) > shared_before(k); }
  ELMAN_INLINE Words& shared_weight(int m, int k, int half) const {
    return shared_weights[((shared_before(k) * kWarpTiles + m) * 2 + half) * kProductThreads];
  }

  ELMAN_INLINE void init(char* shared) { shared_weights = (Words*)shared + threadIdx.x; }

  static ELMAN_INLINE int warp_row() { return (threadIdx.x >> 5) % kWarpRows; }
  static ELMAN_INLINE int warp_split() { return (threadIdx.x >> 5) / kWarpRows; }

  static ELMAN_INLINE bool takes_part() {
    return kWarpRows * kSplit == kWarps || (threadIdx.x >> 5) < kWarpRows * kSplit;
  }  // the warp in the product

  // load(row, column): four words of kPerChunk consecutive columns.
  template <class Load> ELMAN_INLINE void load(Load load) {
    const int lane = threadIdx.x & 31;
    auto weight = [&](int m, int k, int half) {
      return load((warp_row() * kWarpTiles + m) * 16 + half * 8 + lane / 4,
          (warp_split() * kGroups + k) * kGroup + lane % 4 * kPerChunk);
    };
#pragma unroll 1
    for (int k = 0; k < kGroups; ++k) {
      if (!is_shared(k)) continue;
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) shared_weight(m, k, half) = weight(m, k, half);
    }
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m)
#pragma unroll
      for (int k = 0; k < kGroups; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          if (!is_shared(k)) weights[m][k - shared_before(k)][half] = weight(m, k, half);
  }

  // Where the lane's first chunk lies, in numbers from the first of the vectors' rows, which lie `pitch` apart.
  static ELMAN_INLINE int first_fetched(int pitch) {
    const int lane = threadIdx.x & 31;
    if (!takes_part()) return 0;
    return lane / 4 * pitch + warp_split() * kGroups * kGroup + lane % 4 * kPerChunk;
  }

  // fetch(n, column): the chunk that lies n rows and so many columns beyond the lane's first. sums[m][n][q]: rows
  // lane/4 + 8·(q/2) of tile m, sequences 8·n + lane%4·2 + q%2.
  template <class Fetch> ELMAN_INLINE void run(float (&sums)[kWarpTiles][kColumnTiles][4], Fetch fetch) const {
    float chains[kChains][kWarpTiles][kColumnTiles][4];
#pragma unroll
    for (int c = 0; c < kChains; ++c)
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m)
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
          for (int q = 0; q < 4; ++q) chains[c][m][n][q] = 0.f;
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      auto multiply = [&](int m, int n, int half, const Words& a, const Words& a8, const Words& b) {
        Number::multiply(chains[kChains == 2 ? half : 0][m][n], a.w[2 * half], a8.w[2 * half], a.w[2 * half + 1],
            a8.w[2 * half + 1], b.w[2 * half], b.w[2 * half + 1]);
      };
      if (is_shared(k)) {  // weights are read once, for all sequences
        Words b[kColumnTiles];
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) b[n] = fetch(n * 8, k * kGroup);
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
          const Words a = shared_weight(m, k, 0), a8 = shared_weight(m, k, 1);
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n) multiply(m, n, half, a, a8, b[n]);
        }
        continue;
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const Words b = fetch(n * 8, k * kGroup);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int m = 0; m < kWarpTiles; ++m)
            multiply(m, n, half, weights[m][k - shared_before(k)][0], weights[m][k - shared_before(k)][1], b);
      }
    }
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m)
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int q = 0; q < 4; ++q)
          sums[m][n][q] = kChains == 2 ? chains[0][m][n][q] + chains[kChains - 1][m][n][q] : chains[0][m][n][q];
  }

  // The sums in shared memory, [kSplit][kTile][kRowPitch]: where the lane's first lies.
  static ELMAN_INLINE int first_put() {
    const int lane = threadIdx.x & 31;
    if (!takes_part()) return 0;
    return (warp_split() * kTile + lane % 4 * 2) * kRowPitch + warp_row() * kWarpTiles * 16 + lane / 4;
  }
  static ELMAN_INLINE void put(float* first, const float (&sums)[kWarpTiles][kColumnTiles][4]) {
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m)
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int q = 0; q < 4; ++q) first[(n * 8 + q % 2) * kRowPitch + m * 16 + q / 2 * 8] = sums[m][n][q];
  }
  static ELMAN_INLINE float get(const float* first) {  // of one row and sequence
    float sum = *first;
#pragma unroll
    for (int s = 1; s < kSplit; ++s) sum += first[s * kTile * kRowPitch];
    return sum;
  }
};

// Which unit of the block and which sequence of the tile a thread works on, one item after the other. A thread of a
// product that keeps its sums in registers takes those whose sums it has: all gates of a unit, if the tiles of a warp
// are the gates of the same units.
template <int Gates, class P> struct Items {
  static constexpr int kUnitTiles = kInRegisters ? kWarpTiles / Gates : 1;
  static constexpr int kCount =
      kInRegisters ? kUnitTiles * kColumnTiles * 4 : (kUnits * kTile + kThreads - 1) / kThreads;
  static_assert(!kInRegisters || kWarpTiles % Gates == 0, "all gates of a unit in one warp");

  // Whether the whole warp has an item e.
  static ELMAN_INLINE bool has(int e) { return kInRegisters || (threadIdx.x & ~31) + e * kThreads < kUnits * kTile; }
  static ELMAN_INLINE int unit(int e) {
    const int lane = threadIdx.x & 31;
    if (kInRegisters) return (P::warp_row() * kUnitTiles + e / (4 * kColumnTiles)) * 16 + lane / 4 + e % 4 / 2 * 8;
    return (threadIdx.x + e * kThreads) % kUnits;
  }
  static ELMAN_INLINE int sequence(int e) {
    const int lane = threadIdx.x & 31;
    if (kInRegisters) return e / 4 % kColumnTiles * 8 + lane % 4 * 2 + e % 2;
    return (threadIdx.x + e * kThreads) / kUnits;
  }
  // Where item e lies in an array [kTile][pitch] of units; item 0, of whichever thread; and how far behind that item e
  // lies: a constant, but where a row of units does not divide the threads.
  template <class Pitch> static ELMAN_INLINE Pitch at(int e, Pitch pitch) { return sequence(e) * pitch + unit(e); }
  static ELMAN_INLINE int first(int pitch) { return has(0) ? at(0, pitch) : 0; }
  template <class Pitch> static ELMAN_INLINE Pitch beyond(int e, Pitch pitch) {
    if (kInRegisters) return (e / 4 % kColumnTiles * 8 + e % 2) * pitch + e / (4 * kColumnTiles) * 16 + e % 4 / 2 * 8;
    return kThreads % kUnits ? at(e, pitch) - at(0, pitch) : e * (kThreads / kUnits) * pitch;
  }
  // The row of the weights, counted within the block, that tile m of a warp's begins with is m's gate of these units:
  // (unit tile, gate) in registers, else (gate, unit). The block's row r in the order of the tiles is gate gate_of(r)
  // of unit unit_of(r).
  static ELMAN_INLINE int gate_of(int r) { return kInRegisters ? r / 16 % Gates : r / kUnits; }
  static ELMAN_INLINE int unit_of(int r) { return kInRegisters ? r / 16 / Gates * 16 + r % 16 : r % kUnits; }
  // first: item 0's in shared memory.
  static ELMAN_INLINE float sum(const float (&sums)[kWarpTiles][kColumnTiles][4], const float* first, int e, int gate) {
    if constexpr (kInRegisters) return sums[e / (4 * kColumnTiles) * Gates + gate][e / 4 % kColumnTiles][e % 4];
    else return P::get(first + beyond(e, P::kRowPitch) + gate * kUnits);
  }
  // Where in its warp's 32 items a thread's lies if each eight (float32: four) of consecutive units of a sequence lie
  // side by side.
  static ELMAN_INLINE int place() {
    const int lane = threadIdx.x & 31;
    return kInRegisters ? lane % 4 * 8 + lane / 4 : lane;
  }
  // The first unit and the sequence of those that lie from `place` on.
  static ELMAN_INLINE int unit_at(int e, int place) {
    if (kInRegisters) return (P::warp_row() * kUnitTiles + e / (4 * kColumnTiles)) * 16 + place % 8 + e % 4 / 2 * 8;
    return ((threadIdx.x & ~31) + place + e * kThreads) % kUnits;
  }
  static ELMAN_INLINE int sequence_at(int e, int place) {
    if (kInRegisters) return e / 4 % kColumnTiles * 8 + place / 8 * 2 + e % 2;
    return ((threadIdx.x & ~31) + place + e * kThreads) / kUnits;
  }
};

}  // namespace elman::cuda
