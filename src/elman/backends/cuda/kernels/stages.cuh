// The products of a step, each with the exchange of what it multiplies, in both kernels.
#pragma once

namespace elman::cuda {

// What stands for a product that there is not: of h, for no gate.
struct Nothing {
  static constexpr int kBytes = 0, kWeightBytes = 0, kSumBytes = 0, kMailboxNumbers = 0, kRowPitch = 0;
  static ELMAN_INLINE bool takes_part() { return false; }
  static ELMAN_INLINE int warp_row() { return 0; }
  static ELMAN_INLINE float get(const float*) { return 0.f; }
  static ELMAN_INLINE int first_put() { return 0; }
  static ELMAN_INLINE void put(float*, const float (&)[kWarpTiles][kColumnTiles][4]) {}
  template <class Load> ELMAN_INLINE void load(Load) {}
  template <class Fetch> ELMAN_INLINE void run(float (&)[kWarpTiles][kColumnTiles][4], Fetch) const {}
  ELMAN_INLINE void init(char*) {}
  ELMAN_INLINE void init(char*, int, Storage*, u32*) {}
  template <int Vectors> ELMAN_INLINE void send(int, int, const float (&)[Vectors]) {}
  ELMAN_INLINE void publish(int, const Nothing&) {}
  ELMAN_INLINE void publish(int) {}
  ELMAN_INLINE void wait(int) {}
  ELMAN_INLINE float sum(int, int) const { return 0.f; }
  ELMAN_INLINE Words fetch(int, int, int) const { return {}; }
};

// Forward: product j's rows are its gates of the block's units; it multiplies a vector, h or a factor.
template <class Step, int j, int Gates = Step::gates(j)> struct ForwardProduct {
  using P = Product<Gates * kUnits, kPadded>;
  using I = Items<Gates, P>;
  using X = Exchange<1, P, I>;
};

// Backward: its rows are units, transposed; it multiplies the gradients of its gates. The units are the block's and the
// gates those of all units, or, where the products' sums are what blocks exchange, the other way round.
constexpr int kUnitRows = kReduceScatter ? kPadded : kUnits, kGateColumns = kReduceScatter ? kUnits : kPadded;

template <bool Condition, class Then, class Else> struct Choice {
  using Type = Then;
};
template <class Then, class Else> struct Choice<false, Then, Else> {
  using Type = Else;
};

template <class Step, int j, int Gates = Step::gates(j)> struct BackwardProduct {
  using P = Product<kUnitRows, Gates * kGateColumns>;
  using I = Items<1, P>;
  using X = typename Choice<kReduceScatter, ReduceScatter<Gates, P, I>, Exchange<Gates, P, I>>::Type;
};

struct NoProduct {
  using P = Nothing;
  using I = Items<1,
      Nothing>;  // a thread's units are the same, whatever the product, but for sums in registers, of an only one
  using X = Nothing;
};
template <class Step, int j> struct ForwardProduct<Step, j, 0> : NoProduct {};
template <class Step, int j> struct BackwardProduct<Step, j, 0> : NoProduct {};

// Those from product j on.
template <class Step, template <class, int, int> class Kind, int j = 0, bool = (j < Step::kProducts)> struct Products {
  using I = typename NoProduct::I;
  static constexpr int kConnected = 0, kBytes = 0, kSumBytes = 0, kMailboxNumbers = 0;
  ELMAN_INLINE void init(char*, float*, int, Storage*, u32*) {}
};
template <class Step, template <class, int, int> class Kind, int j> struct Products<Step, Kind, j, true>
    : Products<Step, Kind, j + 1> {
  using Rest = Products<Step, Kind, j + 1>;
  using Own = Kind<Step, j, Step::gates(j)>;
  using P = typename Own::P;
  using I = typename Own::I;
  using X = typename Own::X;
  static constexpr bool kThere = Step::gates(j) > 0;
  static constexpr int kConnected = Rest::kConnected + kThere;               // products that there are
  static constexpr int kBytes = Rest::kBytes + X::kBytes + P::kWeightBytes;  // of shared memory, but for the sums
  static constexpr int kSumBytes = P::kSumBytes > Rest::kSumBytes ? P::kSumBytes : Rest::kSumBytes;
  static constexpr int kMailboxNumbers = Rest::kMailboxNumbers + X::kMailboxNumbers;

  P product;
  X exchange;
  float *put_at, *got_at;  // the lane's first sum in shared memory, and the first that the thread wants

  // What the product gives of what was sent of a step: in registers, or in shared memory.
  ELMAN_INLINE void multiply(int step, float (&sums)[kWarpTiles][kColumnTiles][4]) {
    exchange.wait(step);
    if constexpr (!kReduceScatter)
      if (P::takes_part()) {
        product.run(sums, [&](int n, int column) { return exchange.fetch(step, n, column); });
        if constexpr (!kInRegisters) P::put(put_at, sums);
      }
  }
  // Of the thread's item e.
  ELMAN_INLINE float sum(int step, const float (&sums)[kWarpTiles][kColumnTiles][4], int e, int gate) const {
    if constexpr (kReduceScatter) return exchange.sum(step, e);
    else return I::sum(sums, got_at, e, gate);
  }
  // After the last send of a step, by all threads.
  ELMAN_INLINE void publish(int step) {
    if constexpr (kReduceScatter) exchange.publish(step, product);
    else exchange.publish(step);
  }

  // partial: where all products have their sums, one after the other. mailbox, flags: the group's.
  ELMAN_INLINE void init(char* shared, float* partial, int rank, Storage* mailbox, u32* flags) {
    if constexpr (P::kSumBytes) {
      put_at = in_register(partial + P::first_put());
      got_at = in_register(partial + I::first(P::kRowPitch));
    }
    exchange.init(shared + Rest::kBytes, rank, mailbox + Rest::kMailboxNumbers, flags + Rest::kConnected * kBlocks);
    product.init(shared + Rest::kBytes + X::kBytes);
    Rest::init(shared, partial, rank, mailbox, flags);
  }
};

// All exchanges of a block: where they lie in shared memory, that of sums over units last of all, and in the group's
// part of global memory.
template <class All, class Sums> ELMAN_INLINE void init_exchanges(
    All& products, Sums& sums, char* shared, char* behind, int rank, int group, void* mailbox, u32* flags) {
  constexpr int kBytes = All::kMailboxNumbers * kSize + Sums::kMailboxBytes, kFlags = All::kConnected + Sums::kThere;
  static_assert(kBlocks == 1 || kCluster || kBytes == ELMAN_MAILBOX_NUMBERS * kSize, "as plan.py counts it");
  char* of_group = (char*)mailbox + i64(group) * kBytes;
  u32* flags_of_group = flags + group * kFlags * kBlocks;
  products.init(shared, (float*)(shared + All::kBytes), rank, (Storage*)of_group, flags_of_group);
  sums.init(behind, rank, of_group + All::kMailboxNumbers * kSize, flags_of_group + All::kConnected * kBlocks);
}

}  // namespace elman::cuda
