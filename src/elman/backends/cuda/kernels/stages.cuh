// The products of a step, each with the exchange of what it multiplies, in both kernels.
#pragma once

namespace elman::cuda {

// Forward: product j's rows are its gates of the block's units; it multiplies a vector, h or a factor.
template <class Step, int j>
struct ForwardProduct {
  static constexpr int kGates = Step::gates(j);
  using P = Product<at_least_one(kGates) * kUnits, kPadded>;
  using I = Items<at_least_one(kGates), P>;
  using X = Exchange<1, P, I>;
};

// Backward: its rows are the block's units, transposed; it multiplies the gradients of its gates.
template <class Step, int j>
struct BackwardProduct {
  static constexpr int kGates = Step::gates(j);
  using P = Product<kUnits, at_least_one(kGates) * kPadded>;
  using I = Items<1, P>;
  using X = Exchange<at_least_one(kGates), P, I>;
};

// Those from product j on.
template <class Step, template <class, int> class Kind, int j = 0, bool = (j < Step::kProducts)>
struct Products {
  static constexpr int kConnected = 0, kExchangeBytes = 0, kSumBytes = 0, kMailboxNumbers = 0;
  ELMAN_INLINE void init(char*, int, Storage*, u32*) {}
};
template <class Step, template <class, int> class Kind, int j>
struct Products<Step, Kind, j, true> : Products<Step, Kind, j + 1> {
  using Rest = Products<Step, Kind, j + 1>;
  using P = typename Kind<Step, j>::P;
  using I = typename Kind<Step, j>::I;
  using X = typename Kind<Step, j>::X;
  static constexpr bool kThere = Kind<Step, j>::kGates > 0;
  static constexpr int kConnected = Rest::kConnected + kThere;  // products that there are
  static constexpr int kExchangeBytes = Rest::kExchangeBytes + (kThere ? X::kBytes : 0);
  static constexpr int kSumBytes = kThere && P::kSumBytes > Rest::kSumBytes ? P::kSumBytes : Rest::kSumBytes;
  static constexpr int kMailboxNumbers = Rest::kMailboxNumbers + (kThere ? X::kMailboxNumbers : 0);

  P product;
  X exchange;

  // mailbox, flags: the group's.
  ELMAN_INLINE void init(char* shared, int rank, Storage* mailbox, u32* flags) {
    if constexpr (kThere) exchange.init(shared + Rest::kExchangeBytes, rank, mailbox + Rest::kMailboxNumbers, flags + Rest::kConnected * kBlocks);
    Rest::init(shared, rank, mailbox, flags);
  }
};

// All exchanges of a block: where they lie in shared memory, that of sums over units last of all, and in the group's part of global memory.
template <class All, class Sums>
ELMAN_INLINE void init_exchanges(All& products, Sums& sums, char* shared, char* behind, int rank, int group, void* mailbox, u32* flags) {
  constexpr int kBytes = All::kMailboxNumbers * kSize + Sums::kMailboxBytes, kFlags = All::kConnected + Sums::kThere;
  static_assert(kBlocks == 1 || kCluster || kBytes == ELMAN_MAILBOX_NUMBERS * kSize, "as plan.py counts it");
  char* of_group = (char*)mailbox + i64(group) * kBytes;
  u32* flags_of_group = flags + group * kFlags * kBlocks;
  products.init(shared, rank, (Storage*)of_group, flags_of_group);
  sums.init(behind, rank, of_group + All::kMailboxNumbers * kSize, flags_of_group + All::kConnected * kBlocks);
}

}  // namespace elman::cuda
