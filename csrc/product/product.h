// Matrix products out of register tiles. C = init + A·B, by row tiles; what happens to a finished one is the caller's.
//
// B is packed in panels: panel j holds columns j·W .. j·W+W-1 (W lanes) as [K][W], zeros past the last column. Any
// number of neighbouring panels makes a tile, so the same packing serves one row and a hundred. A is read where it
// lies, through a pointer per row. Each output has one accumulator and adds its products in the order of k: every tile
// shape gives the same bits. Where the processor multiplies pairs of bfloat16, B is packed in pairs of neighbouring k,
// one in each lane, with a zero where K is odd; else as floats.
#pragma once

#include "../simd.h"

namespace elman::ELMAN_TARGET {

// Where the rows of A lie: row i, element k is rows[i][k].
template <class T> struct Rows {
  const T* const* rows;
  template <int kRows> struct Cursor {
    const T* row[kRows];
    ELMAN_INLINE T at(int i, long k) const { return row[i][k]; }
    ELMAN_INLINE std::uint32_t pair(int i, long k) const {  // of bfloat16, k and k + 1
      std::uint32_t pair;
      __builtin_memcpy(&pair, row[i] + k, sizeof pair);
      return pair;
    }
  };
  template <int kRows> ELMAN_INLINE Cursor<kRows> from(long first) const {
    Cursor<kRows> c;
    for (int i = 0; i < kRows; ++i) c.row[i] = rows[first + i];
    return c;
  }
};

// Vectors that hold so many columns.
template <class T> constexpr long panels(long columns) { return ceil_div(columns, kLanes<T>); }

// The tallest tile, and how many panels fit beside kRows rows: accumulators, a row of B and one number of A in
// registers, or where there are fewer rows, all their numbers and one vector of B. Without AVX2 a product needs a
// register, too.
constexpr bool kIsAvx2 = kRegisters == 16 && kBytes == 32;
constexpr int kTallest = kRegisters == 32 ? 8 : 6, kWidest = 8;
constexpr int widest(int rows) {
  constexpr int few[] = {0, 8, 5, 3, 3, 2, 2}, avx2[] = {0, 8, 6, 4, 3, 2, 2}, many[] = {0, 8, 8, 6, 6, 4, 4, 3, 3};
  return kRegisters == 32 ? many[rows] : kIsAvx2 ? avx2[rows] : few[rows];
}

// Places in a panel's column that holds K numbers: where pairs are multiplied, a place for two.
template <class T> constexpr bool kPairs = kHalved<T> && kDots;
template <class T> constexpr long depth(long K) { return kPairs<T> ? ceil_div(K, 2) : K; }

// The transpose of a dense matrix as A: row i, element k is base[k·stride + i]; where pairs are multiplied, pair k / 2.
template <class T> struct Columns {
  const Wide<T>* base;
  long stride;
  ELMAN_INLINE auto pair(int i, long k) const { return __builtin_bit_cast(std::uint32_t, base[k / 2 * stride + i]); }
  ELMAN_INLINE T at(int i, long k) const {
    if constexpr (kPairs<T>) return {static_cast<std::uint16_t>(pair(i, k))};
    else return base[k * stride + i];
  }
  template <int kRows> ELMAN_INLINE Columns from(long first) const { return {base + first, stride}; }
};

// The products of one pair of k for a tile's accumulators. a: a pair of each row; B's panels are `panel` apart.
template <class T, int kRows, int kVectors> ELMAN_INLINE void multiply_pair(
    const std::uint32_t (&a)[kRows], const float* b, long panel, Vec<T> (&c)[kRows][kVectors]) {
  Vec<T> bk[kVectors];
  ELMAN_UNROLLED (j, kVectors) bk[j] = load(b + j * panel);
  ELMAN_UNROLLED (i, kRows)
    ELMAN_UNROLLED (j, kVectors) c[i][j] = dot(a[i], bk[j], c[i][j]);
}

// Where a tile's sums begin and end, a vector for each row and panel: by themselves, row by row; or where they belong,
// those of a panel equally far apart. There they begin with what lies there or elsewhere, and may be added in the end.
template <class T> struct SumsApart {
  using Passed = SumsApart;  // in a register: in memory, any store might have changed it
  static constexpr bool adds = false;
  Vec<T>* first;
  template <int kVectors> ELMAN_INLINE T* to(long row, long panel) const {
    return reinterpret_cast<T*>(first + row * kVectors + panel);
  }
  template <int kVectors> ELMAN_INLINE const T* from(long row, long panel) const { return to<kVectors>(row, panel); }
};
template <class T> struct SumsInPlace {
  using Passed = const SumsInPlace&;
  const T* starts[kWidest];  // by panel, of the first row; and from one row to the next
  long starts_apart[kWidest];
  T* ends[kWidest];
  long apart;
  bool adds;
  ELMAN_INLINE void place(long panel, const T* start, long start_apart, T* end) {
    starts[panel] = start, starts_apart[panel] = start_apart, ends[panel] = end;
  }
  template <int> ELMAN_INLINE T* to(long row, long panel) const { return ends[panel] + row * apart; }
  template <int> ELMAN_INLINE const T* from(long row, long panel) const {
    return starts[panel] + row * starts_apart[panel];
  }
};

// One tile: kRows rows of A by kVectors panels of B, K at least 1, added to what the sums begin with. The loop that
// takes the time. Its loops over rows and vectors are unrolled by hand: only then does GCC keep the accumulators in
// registers all the way. It is left at its end alone, and not unrolled itself: else they are spilled around it. Where a
// function happens to begin makes up to 3% of an LSTM's training time: these begin a cache line.
template <class T, class A, class Sums, int kRows, int kVectors>
__attribute__((aligned(64))) void tile(const A& a, long row, long K, const Wide<T>* b, typename Sums::Passed sums) {
  constexpr int W = kLanes<T>;
  Vec<T> c[kRows][kVectors];
  ELMAN_UNROLLED (j, kVectors)
    ELMAN_UNROLLED (i, kRows) c[i][j] = load(sums.template from<kVectors>(i, j));
  const auto rows = a.template from<kRows>(row);
  if constexpr (kIsAvx2 && kRows < kVectors) {
    long k = 0;
    do {
      Vec<T> ak[kRows];
      ELMAN_UNROLLED (i, kRows) ak[i] = splat(rows.at(i, k));
      ELMAN_UNROLLED (j, kVectors) {
        const Vec<T> bj = load(b + (j * K + k) * W);
        ELMAN_UNROLLED (i, kRows) c[i][j] = fma(ak[i], bj, c[i][j]);
      }
    } while (++k < K);
  } else if constexpr (!kPairs<T>) {
    long k = 0;
    do {
      Vec<T> bk[kVectors];
      ELMAN_UNROLLED (j, kVectors) bk[j] = load(b + (j * K + k) * W);
      ELMAN_UNROLLED (i, kRows) {
        const Vec<T> ai = splat(rows.at(i, k));
        ELMAN_UNROLLED (j, kVectors) c[i][j] = fma(ai, bk[j], c[i][j]);
      }
    } while (++k < K);
  } else {
    const long panel = depth<T>(K) * W, whole = K / 2;
    std::uint32_t pairs[kRows];
#pragma GCC unroll 2
    for (long k = 0; k < whole; ++k, b += W) {
      ELMAN_UNROLLED (i, kRows) pairs[i] = rows.pair(i, 2 * k);
      multiply_pair<T>(pairs, b, panel, c);
    }
    if (K % 2) {  // past a row's last number there may be nothing to read
      ELMAN_UNROLLED (i, kRows) pairs[i] = rows.at(i, K - 1).bits;
      multiply_pair<T>(pairs, b, panel, c);
    }
  }
  if (sums.adds)
    ELMAN_UNROLLED (j, kVectors)
      ELMAN_UNROLLED (i, kRows) c[i][j] = load(sums.template to<kVectors>(i, j)) + c[i][j];
  ELMAN_UNROLLED (j, kVectors)
    ELMAN_UNROLLED (i, kRows) store(sums.template to<kVectors>(i, j), c[i][j]);
}

template <class T, class A, class Sums> struct Tiles {
  using Function = void (*)(const A&, long, long, const Wide<T>*, typename Sums::Passed);
  Function of[kTallest + 1][kWidest + 1] = {};  // [rows][vectors]

  template <int kRows, int kVectors> constexpr void fill() {
    of[kRows][kVectors] = tile<T, A, Sums, kRows, kVectors>;
    if constexpr (kVectors > 1) fill<kRows, kVectors - 1>();
    else if constexpr (kRows > 1) fill<kRows - 1, widest(kRows - 1)>();
  }
  constexpr Tiles() { fill<kTallest, widest(kTallest)>(); }
};

// One row reads each weight once, and waits for it where the first-level cache cannot hold them all. Its tiles are then
// no wider than keeps the units busy, so that a product that comes back the other way (below) finds more of it.
constexpr long kLastsInCache = 16 * 1024;
constexpr long columns_for(long rows, long K) {
  const int most = widest(static_cast<int>(rows));
  return rows == 1 && K * most * kBytes > kLastsInCache ? most / 2 : most;
}

// The tallest tile in which a group of panels still fits.
constexpr int tallest(int panels) {
  int rows = kTallest;
  while (rows > 1 && widest(rows) < panels) --rows;
  return rows;
}

// For rows 0..M-1 and column groups first..last-1, a group being kPanels panels (a cell with G gates keeps a unit's G
// pre-activations together):
//   epilogue.init(row, group, panel)   the vector an accumulator starts from
//   epilogue.finish(row, group, unit)  takes the kPanels finished vectors of a group
//   epilogue.prefetch(row, group)      where there is one: this row of a tile comes next
// An epilogue that only puts sums where they belong may let the tiles do it:
//   epilogue.place(row, rows, group, groups, sums)  says where, of a tile; false: it cannot, as of a part of a vector
// b is the first packed panel of group `first`. Tiles of columns come in falling order where `falls`: a product that
// takes turns with itself finds in the cache what it used last.
template <class T, int kPanels, class A, class Epilogue> void product(
    long M, const A& a, long K, const Wide<T>* b, long first, long last, const Epilogue& epilogue, bool falls = false) {
  static constexpr Tiles<T, A, SumsApart<Wide<T>>> tiles;
  constexpr int most = tallest(kPanels);
  constexpr bool places = requires(SumsInPlace<Wide<T>> sums) { epilogue.place(0, 0, 0, 0, sums); };
  if (M <= 0 || first >= last) return;
  const long row_tiles = ceil_div(M, most);
  const long rows = ceil_div(M, row_tiles);      // tiles of nearly the same height: a short last one would starve
  const long tall = M - (rows - 1) * row_tiles;  // so many have `rows` rows, the others one fewer
  const long column_tiles = ceil_div(last - first, max(1, columns_for(rows, depth<T>(K)) / kPanels));
  const long narrow = (last - first) / column_tiles, wide = (last - first) % column_tiles;  // so many have one more
  Vec<T> acc[kTallest * kWidest];
  for (long i = 0; i < column_tiles; ++i) {
    const long c = falls ? column_tiles - 1 - i : i, group = first + c * narrow + min(c, wide);
    const long groups = narrow + (c < wide), vectors = groups * kPanels;
    const Wide<T>* const panel = b + (group - first) * kPanels * depth<T>(K) * kLanes<T>;
    for (long r = 0, row = 0, height; r < row_tiles; ++r, row += height) {
      height = rows - (r >= tall);
      if constexpr (places) {
        static constexpr Tiles<T, A, SumsInPlace<Wide<T>>> in_place;
        SumsInPlace<Wide<T>> sums;
        if (K > 0 && epilogue.place(row, height, group, groups, sums)) {
          in_place.of[height][vectors](a, row, K, panel, sums);
          continue;
        }
      }
      for (long i = 0; i < height; ++i)
        for (long g = 0; g < groups; ++g)
          for (int p = 0; p < kPanels; ++p) acc[i * vectors + g * kPanels + p] = epilogue.init(row + i, group + g, p);
      if constexpr (requires { epilogue.prefetch(row, group); })
        for (long i = 0; r + 1 < row_tiles && i < height; ++i) epilogue.prefetch(min(M - 1, row + height + i), group);
      if (K > 0) tiles.of[height][vectors](a, row, K, panel, {acc});
      for (long i = 0; i < height; ++i)
        for (long g = 0; g < groups; ++g) epilogue.finish(row + i, group + g, acc + i * vectors + g * kPanels);
    }
  }
}

// For rows begin..end-1 that have no product, only what they start from: one panel a group.
template <class T, class Epilogue>
void without_product(long begin, long end, long first, long last, const Epilogue& epilogue) {
  for (long row = begin; row < end; ++row)
    for (long group = first; group < last; ++group) {
      const Vec<T> start = epilogue.init(row, group, 0);
      epilogue.finish(row, group, &start);
    }
}

// What sums begin with that are not added to anything.
template <class T> alignas(64) inline constexpr T kZeros[kLanes<T>] = {};

// The product itself, into rows to[0], to[1] ... of `width` numbers, all of them different.
template <class T, class To> struct StoreEpilogue {
  To to;
  long width;
  bool add;  // to what is there
  ELMAN_INLINE Vec<T> init(long, long, int) const { return Vec<T>{}; }
  ELMAN_INLINE void finish(long row, long group, const Vec<T>* sum) const {
    const long column = group * kLanes<T>;
    T* p = to[row];
    store_within(p, column, width, add ? load_within(p, column, width) + sum[0] : sum[0]);
  }
  ELMAN_INLINE bool place(long row, long rows, long group, long groups, SumsInPlace<T>& sums) const
    requires(!kHalved<T>)
  {
    constexpr long W = kLanes<T>;
    const auto address = [&](long i) { return reinterpret_cast<std::intptr_t>(to[row + i]); };
    const std::intptr_t first = address(0), apart = rows > 1 ? address(1) - first : 0;
    const long bytes = width * static_cast<long>(sizeof(T));
    bool placed = (group + groups) * W <= width && (rows == 1 || max(apart, -apart) >= bytes);
    for (long i = 2; i < rows; ++i) placed &= address(i) - first == i * apart;
    if (!placed) return false;
    sums.apart = apart / static_cast<std::intptr_t>(sizeof(T)), sums.adds = add;
    for (long g = 0; g < groups; ++g) sums.place(g, kZeros<T>, 0, to[row] + (group + g) * W);
    return true;
  }
};

}  // namespace elman::ELMAN_TARGET
