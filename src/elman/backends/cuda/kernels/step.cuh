// What the kernels ask of a cell: a step of one unit and its gradient, in numbers that a thread holds. BuiltIn makes it
// of a struct of csrc/cells, source.py writes it for a cell of one's own. Products divide a step into stages: product
// 0, of h, comes before stage 0, product j before stage j.
// clang-format off
//   kInputs, kGates        parts of x and of h: vectors of H numbers, rows of W_ih and W_hh
//   kStates, kOwn, kGiven  states; parameters of the cell's own; numbers of a step beside x (step inputs, draws)
//   kApart, apart(i)       how many gates' recurrent parts have gradients of their own, and so has b_hh there; which is
//                          the i-th
//   kProducts              of h, and of what a stage makes: factors
//   gates(j), gate(j, i)   how many gates product j is for, which may be none of the first; which is the i-th
//   forward_phases(j), backward_phases(i)
//                          phases of a stage: between two of them numbers are summed over the units of each sequence
//   forward_maxima(j, phase), backward_maxima(i, phase)
//                          of which numbers after a phase not the sum, but the largest is sought: a bit for each
//   kForwardRows, kBackwardRows
//                          how many there are at most after a phase; 0: nothing is summed
//   kForwardHeld, kBackwardHeld
//                          numbers that hold from phase to phase
//   kForwardConstants, kBackwardConstants
//                          numbers that come with a launch
//   kKept, kRead           numbers that forward() keeps of a step; its gradient reads the first kRead of them
//   kReadsOutput           whether the gradient reads the first state after the step
//   kBefore, before(i)     how many states before the step it reads; which is the i-th
//   kept_at(state)         where among those kept a state but the first is
//   factor_at(j)           where what product j multiplies is, j > 0
//   kColumns               gradients that backward() gives: of the parts of x and of h, and of what else is given
//   column(i)              where in memory the i-th of them lies
//   recurrent(gate)        which one is that of a gate's part of h
//   forward(Index<j>, Index<phase>, constants, x, r, own, given, states, next, kept, held, rows)
//                          a phase of stage j. r: the products with their biases. states, next: before and after the
//                          step
//   backward(Index<i>, Index<phase>, constants, kept, output, before, own, given, grad_factors, grads, grads_before,
//            columns, grad_own, held, rows)
//                          likewise, of the i-th stage from the last one. grads, grads_before: of the states after the
//                          step; of those before it, but for what comes through the product with h. What it does not
//                          write of grads_before, columns and grad_own is zero.
//   backward_traced(kept, arrived, output, before, grads, grads_before, columns)
//                          likewise of a built-in cell, where gradients arrive at the numbers kept, too
// clang-format on
#pragma once

namespace elman::cuda {

template <int Value> struct Index {
  static constexpr int kValue = Value;
};

// f(Index<0>), f(Index<1>), ...
template <int Count, class F> ELMAN_INLINE void each(F&& f) {
  if constexpr (Count > 0) {
    each<Count - 1>(f);
    f(Index<Count - 1>{});
  }
}

template <class Cell> struct BuiltIn {
  static constexpr int kInputs = Cell::kGates, kGates = Cell::kGates, kStates = 1 + Cell::kHasCellState, kOwn = 0,
                       kApart = Cell::kSplitGate >= 0, kGiven = 0;
  static constexpr int kProducts = 1, kForwardRows = 0, kBackwardRows = 0, kForwardHeld = 0, kBackwardHeld = 0;
  static constexpr int kForwardConstants = 0, kBackwardConstants = 0;
  static constexpr int kKept = Cell::kSaved, kRead = Cell::kSaved, kBefore = Cell::kBackwardReadsPrevious,
                       kColumns = Cell::kGateGradients;
  static constexpr bool kReadsOutput = Cell::kBackwardReadsH;
  static constexpr ELMAN_INLINE int forward_phases(int) { return 1; }
  static constexpr ELMAN_INLINE int backward_phases(int) { return 1; }
  static constexpr ELMAN_INLINE int forward_maxima(int, int) { return 0; }
  static constexpr ELMAN_INLINE int backward_maxima(int, int) { return 0; }
  static constexpr ELMAN_INLINE int gates(int) { return kGates; }
  static constexpr ELMAN_INLINE int gate(int, int i) { return i; }
  static constexpr ELMAN_INLINE int apart(int) { return Cell::kSplitGate; }
  static constexpr ELMAN_INLINE int factor_at(int) { return 0; }
  static constexpr ELMAN_INLINE int before(int) { return Cell::kHasCellState; }
  static constexpr ELMAN_INLINE int kept_at(int) { return kKept - 1; }
  static constexpr ELMAN_INLINE int column(int i) { return i < kGates ? Cell::input_gate(i) : i; }
  static constexpr ELMAN_INLINE int recurrent(int gate) { return kColumns - kGates + gate; }

  static ELMAN_INLINE void forward(Index<0>, Index<0>, const float*, const float* x, const float* r, const float*,
      const float*, const float* states, float* next, float* kept, float*, float*) {
    constexpr int kSplit = Cell::kSplitGate, kValues = kGates > kKept ? kGates : kKept;
    float a[kValues], cell = states[kStates - 1];
#pragma unroll
    for (int g = 0; g < kGates; ++g) a[g] = g == kSplit ? r[g] : r[g] + x[g];
    next[0] = Cell::forward(a, kSplit < 0 ? 0.f : x[kSplit < 0 ? 0 : kSplit], states[0], cell);
    if (Cell::kHasCellState) next[kStates - 1] = cell;
#pragma unroll
    for (int k = 0; k < kKept; ++k) kept[k] = a[k];
  }

  static ELMAN_INLINE void backward(Index<0>, Index<0>, const float*, const float* kept, float output,
      const float* before, const float*, const float*, const float*, const float* grads, float* grads_before,
      float* columns, float*, float*, float*) {
    run(kept, before, grads, grads_before, columns,
        [&](float* a, float previous, float& carry) { Cell::backward(a, grads[0], output, previous, carry); });
  }
  static ELMAN_INLINE void backward_traced(const float* kept, const float* arrived, float output, const float* before,
      const float* grads, float* grads_before, float* columns) {
    run(kept, before, grads, grads_before, columns, [&](float* a, float previous, float& carry) {
      if constexpr (kKept > 0) Cell::backward_traced(a, arrived, grads[0], output, previous, carry);
      else Cell::backward(a, grads[0], output, previous, carry);
    });
  }

 private:
  template <class Gradient> static ELMAN_INLINE void run(const float* kept, const float* before, const float* grads,
      float* grads_before, float* columns, Gradient gradient) {
    constexpr int kValues = kKept > kColumns ? kKept : kColumns;
    float a[kValues], carry = Cell::kHasCellState ? grads[kStates - 1] : 0.f;
#pragma unroll
    for (int k = 0; k < kKept; ++k) a[k] = kept[k];
    gradient(a, kBefore ? before[0] : 0.f, carry);
    grads_before[kStates - 1] = carry;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) columns[k] = a[k];
  }
};

// The block's part of the cell's own parameters, [kOwn][kUnits].
template <class Step>
ELMAN_INLINE void load_own(float* own, const Storage* const (&from)[at_least_one(Step::kOwn)], int unit0) {
  if constexpr (Step::kOwn > 0) {
#pragma unroll
    for (int k = 0; k < Step::kOwn; ++k)
      for (int unit = threadIdx.x; unit < kUnits; unit += kThreads)
        own[k * kUnits + unit] = unit0 + unit < kHidden ? Number::read(from[k][unit0 + unit]) : 0.f;
    __syncthreads();
  }
}

}  // namespace elman::cuda
