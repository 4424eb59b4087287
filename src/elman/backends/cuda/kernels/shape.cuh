// What one kernel is compiled for. The plan chooses the macros (plan.py); here they get names and what follows from
// them.
#pragma once

namespace elman::cuda {

constexpr int kHidden = ELMAN_HIDDEN;  // H, units of the network
constexpr int kBlocks = ELMAN_BLOCKS;  // C, blocks of a group, which share the units between them
constexpr int kUnits =
    ELMAN_UNITS;  // U, units of a block: a multiple of 16, C·U >= H; units beyond H have weights of zero
constexpr int kPadded = kBlocks * kUnits;  // H, padded
constexpr int kTile =
    ELMAN_TILE;  // sequences of a group: a multiple of 8; those beyond the batch are run and thrown away
constexpr int kWarpTiles = ELMAN_WARP_TILES;       // tiles of 16 rows of the weights that a warp holds
constexpr int kSplit = ELMAN_SPLIT;                // warps that share the columns of the same rows
constexpr bool kInRegisters = ELMAN_IN_REGISTERS;  // the sums of a product stay with the threads that have them, and so
                                                   // do the units; else they go through shared memory
constexpr int kSharedEighths = ELMAN_SHARED_EIGHTHS;  // how much of the weights, in eighths, lies in shared memory
constexpr bool kCluster =
    ELMAN_CLUSTER;  // how the blocks of a group exchange: through a cluster's shared memory, or through global memory
constexpr bool kReduceScatter = ELMAN_REDUCE_SCATTER;  // backward: blocks exchange parts of the state's gradient; else
                                                       // all gates' gradients
constexpr bool kSpans = ELMAN_SPANS;                   // whether there are lengths, resets or packed steps
constexpr int kRing = ELMAN_RING;  // steps whose operands are on their way from global memory, or there: a power of 2
constexpr int kAhead =
    kRing - 2;  // how many steps ahead they are asked for: the slot's last readers are past a barrier by then

constexpr int kWarps = ELMAN_WARPS,
              kThreads = 32 * kWarps;  // all; of a small network the product doesn't need all of them
constexpr int kColumnTiles = kTile / 8;

constexpr ELMAN_INLINE int at_least_one(int count) { return count > 0 ? count : 1; }  // of an array that may be empty

// The widest copy that the rows' alignment allows: rows are H numbers long.
constexpr int kCopy = kHidden * kSize % 16 == 0 ? 16 : kHidden * kSize % 8 == 0 ? 8 : kHidden * kSize % 4 == 0 ? 4 : 2;
constexpr int kPerCopy = kCopy / kSize;

// Which steps a batch's sequences have, and where they lie. Null: all of them, no resets.
struct Steps {
  int T, B;
  const int* lengths;          // (B,)
  const int* offsets;          // (T,): packed, the row at which step t begins
  const unsigned char* reset;  // any strides
  i64 reset_t, reset_b;

  ELMAN_INLINE int length(int b) const { return b >= B ? 0 : kSpans && lengths ? lengths[b] : T; }
  // Rows of what is ours: [T][B], or packed. A place is a step, or, packed, a row.
  ELMAN_INLINE i64 place(int t) const { return kSpans && offsets ? offsets[t] : t; }
  ELMAN_INLINE i64 rows_of_place() const { return kSpans && offsets ? 1 : B; }
  ELMAN_INLINE i64 row(int t, int b) const { return place(t) * rows_of_place() + b; }
  // Whether the state before step t, on the way from the first step or from the last, is a fresh one.
  ELMAN_INLINE bool is_cut(int t, int b, int length, bool reverse) const {
    const int at = t + reverse;
    return kSpans && reset && at < length && reset[at * reset_t + b * reset_b];
  }
};

// Rows of somebody's tensor, in numbers: (T, B, ...) with any strides; packed, (N, ...) of which stride_b is the
// stride.
struct Rows {
  i64 stride_t, stride_b;
  ELMAN_INLINE i64 of_place(const Steps& steps) const { return kSpans && steps.offsets ? stride_b : stride_t; }
  ELMAN_INLINE i64 at(const Steps& steps, int t, int b) const {
    return steps.place(t) * of_place(steps) + b * stride_b;
  }
};

// The longest sequence of a tile: how many steps it takes.
ELMAN_INLINE int steps_of_tile(const Steps& steps, int first) {
  if (!kSpans || !steps.lengths) return steps.T;
  int most = 0;
  for (int n = 0; n < kTile; ++n) most = max(most, steps.length(first + n));
  return most;
}

}  // namespace elman::cuda
