// How a thread follows rows through a sequence's steps, and the operands of steps, which it copies ahead of time.
#pragma once

namespace elman::cuda {

// A row of each step, in the order in which a kernel takes the steps: the address moves on, so that a step costs an
// addition, but for packed sequences, whose steps lie anywhere.
template <class T> struct Walk {
  T* row;      // the next step's; packed, that at place 0
  i64 stride;  // from step to step; packed, from place to place

  // start: the row at place 0. of_place: numbers from place to place. From step t on, which may lie outside, and on to
  // t + 1 or t - 1.
  ELMAN_INLINE void begin(const Steps& steps, T* start, i64 of_place, int t, bool is_forward) {
    const bool packed = kSpans && steps.offsets;
    row = packed ? start : start + t * of_place;
    stride = packed || is_forward ? of_place : -of_place;
  }
  // Of step t, to be called for each step in turn, from the one that begin() was told. Where it is not valid, the row
  // is not to be read: it may lie outside of the tensor.
  ELMAN_INLINE T* next(const Steps& steps, int t, bool valid = true) {
    if (kSpans && steps.offsets) return row + (valid ? steps.place(t) * stride : 0);
    T* here = row;
    row += stride;
    return here;
  }
};

// Where an operand comes from: `start` as Walk has it; the sequence's length, 0 for zeros; of the step itself, or, with
// a shift of 1 or -1, of the one beside it, if there is such a one.
struct Source {
  const Storage* start;
  i64 of_place;
  int length, shift = 0;
};

// Slots of the steps' operands in shared memory, [kRing][kTile][Vectors][kUnits], and the thread's share of the copies.
template <int Vectors, bool HasShifts> struct Ring {
  static constexpr int kSlot = kTile * Vectors * kUnits, kBytes = kRing * kSlot * kSize, kChunks = kSlot / kPerCopy,
                       kCopies = (kChunks + kThreads - 1) / kThreads;
  Storage* to;  // the thread's first chunk of slot 0
  Walk<const Storage> from[at_least_one(kCopies)];
  int length[at_least_one(kCopies)], shift[at_least_one(kCopies)];

  // find(v, n, unit): the Source of vector v of sequence n of the tile, from a unit of the block on. t: the first
  // step's.
  template <class Find> ELMAN_INLINE void begin(Storage* ring, const Steps& steps, int t, bool is_forward, Find find) {
    to = in_register(ring + (threadIdx.x < kChunks ? threadIdx.x * kPerCopy : 0));
#pragma unroll
    for (int k = 0; k < kCopies; ++k) {
      const int i = threadIdx.x + k * kThreads, unit = i % (kUnits / kPerCopy) * kPerCopy,
                v = i / (kUnits / kPerCopy) % at_least_one(Vectors),
                n = i / (kUnits / kPerCopy) / at_least_one(Vectors);
      const Source source = find(v, n, unit);
      from[k].begin(steps, source.start, source.of_place, t + (HasShifts ? source.shift : 0), is_forward);
      length[k] = source.length, shift[k] = HasShifts ? source.shift : 0;
    }
  }

  // Asks for the operands of step t, the s-th, if there is one. Always one group of copies, so that they can be
  // counted.
  ELMAN_INLINE void fetch(const Steps& steps, int s, int t, bool is_there) {
    auto copies = [&](int k) { return kChunks % kThreads == 0 || int(threadIdx.x) + k * kThreads < kChunks; };
    Storage* slot = to + s % kRing * kSlot;
    Storage single[kCopy == 2 ? at_least_one(kCopies) : 1];  // all are asked for before the first is waited for
#pragma unroll
    for (int k = 0; k < kCopies; ++k) {
      const int at = t + shift[k];
      const bool valid = (kSpans ? t < length[k] : length[k] > 0) && (!HasShifts || unsigned(at) < unsigned(length[k]));
      const Storage* row = from[k].next(steps, at, is_there && valid);
      if constexpr (kCopy == 2) single[k] = is_there && valid && copies(k) ? *row : Storage(0);
      else if (is_there && copies(k)) copy_async<kCopy>(slot + k * kThreads * kPerCopy, row, valid);
    }
    if constexpr (kCopy == 2)
#pragma unroll
      for (int k = 0; k < kCopies; ++k)
        if (is_there && copies(k)) slot[k * kThreads] = single[k];
    commit_copies();
  }
};

}  // namespace elman::cuda
