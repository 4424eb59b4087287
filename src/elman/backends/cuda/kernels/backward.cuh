// The gradient of one direction of one layer: from the last step to the first. See docs/cuda-kernels.md.
#pragma once

namespace elman::cuda {

template <class Step> struct BackwardDirection {
  const Storage* grad_output;  // the direction's first column; null: zeros
  const Storage* given;        // (T, B, kGiven, H)
  const Storage* weight_hh;    // (kGates, H, H)
  const Storage* output;       // the direction's first column
  const Storage* kept;         // (T, B, kKept, H)
  const Storage* grad_kept;    // (T, B, kKept, H), what arrives at the numbers kept themselves; null: nothing
  const Storage* own[at_least_one(Step::kOwn)];  // (H,)
  const Storage* initial[Step::kStates];         // (B, H); null: zeros
  const Storage* fresh[Step::kStates];           // (H,); null: zeros
  const Storage* grad_final[Step::kStates];      // (B, H); null: zeros
  Storage* grad_gates;                           // (T, B, kColumns, H)
  float* totals;  // (kOwn + kApart, B, H), of all steps, to be summed over B: gradients of the cell's own parameters,
                  // then of b_hh for the gates apart
  float* grad_initial[Step::kStates];  // (B, H); null: not wanted
  float* grad_fresh[Step::kStates];    // (B, H), to be summed over B; null: not wanted
  int reverse;
};

template <class Step> struct BackwardCall {
  Steps steps;
  Rows grad_output, output;
  int tiles, first_group;
  void* mailbox;  // as ForwardCall's, of each product [2][kTile][its gates][kPadded], or as ReduceScatter has it
  u32* flags;
  BackwardDirection<Step> direction[2];
  float constants[at_least_one(Step::kBackwardConstants)];
};

// A sum over the steps. In float32 with what it has lost (Kahan, 1965): thousands of roundings would show there.
struct Total {
  float sum, lost;

  ELMAN_INLINE void add(float x) {
    if constexpr (Number::kProducts > 1) {
      const float more = x - lost, next = sum + more;
      lost = (next - sum) - more, sum = next;
    } else sum += x;
  }
};

template <class Step> __device__ void backward(const BackwardCall<Step>& call, char* shared) {
  constexpr int kStates = Step::kStates, kOwn = Step::kOwn, kApart = Step::kApart, kKept = Step::kKept,
                kBefore = Step::kBefore, kColumns = Step::kColumns;
  // What a step reads: the output's gradient, what was kept, the output and the states before as the cell asks for
  // them, and what else is given.
  constexpr int kOutputAt = 1 + Step::kRead, kBeforeAt = kOutputAt + Step::kReadsOutput, kGivenAt = kBeforeAt + kBefore,
                kOperands = kGivenAt + Step::kGiven;
  constexpr int kProducts = Step::kProducts;
  using All = Products<Step, BackwardProduct>;
  using I = typename All::I;  // where a product's sums stay in registers, it is the only one
  constexpr bool kHasFirst = All::kThere;
  const Steps& steps = call.steps;
  const int local = blockIdx.x / kBlocks, group = call.first_group + local, rank = blockIdx.x % kBlocks,
            side = group >= call.tiles, first = (group - side * call.tiles) * kTile, unit0 = rank * kUnits;
  const BackwardDirection<Step>& d = call.direction[side];
  const bool reverse = kSpans && d.reverse;
  const int count = steps_of_tile(steps, first);
  auto time = [&](int s) { return reverse ? s : count - 1 - s; };

  Storage* slots = (Storage*)(shared + All::kBytes + All::kSumBytes);
  Ring<kOperands, (kBefore > 0)> ring;
  float* own = (float*)((char*)slots + ring.kBytes);
  All products;
  RowSums<Step::kBackwardRows, I> row_sums;
  static_assert(
      All::kBytes + All::kSumBytes + ring.kBytes + kOwn * kUnits * 4 + decltype(row_sums)::kBytes == ELMAN_SHARED_BYTES,
      "as plan.py counts it");
  init_exchanges(products, row_sums, shared, (char*)(own + kOwn * kUnits), rank, local, call.mailbox, call.flags);

  each<kProducts>([&](auto index) {  // the transposed weights: a row a unit, a column for each gate of each unit
    constexpr int j = decltype(index)::kValue;
    using Own = Products<Step, BackwardProduct, j>;
    if (Own::kThere && Own::P::takes_part())
      static_cast<Own&>(products).product.load([&](int row, int column) {
        const int gate = Step::gate(j, column / kGateColumns), unit = (unit0 + row) % kPadded;
        Words words{};
#pragma unroll
        for (int i = 0; i < kPerChunk; ++i) {
          const int from = (kReduceScatter ? unit0 : 0) + column % kGateColumns + i;
          if (unit < kHidden && from < kHidden)
            ((Storage*)&words)[i] = Number::operand_of(d.weight_hh[(i64(gate) * kHidden + from) * kHidden + unit]);
        }
        return words;
      });
  });

  load_own<Step>(own, d.own, unit0);

  const i64 rows_of_place = steps.rows_of_place();
  ring.begin(slots, steps, time(0), reverse, [&](int v, int n, int unit) {
    const int b = first + n, at = unit0 + unit;
    // Of these rows of `numbers` for each sequence: the numbers of this one's that begin with the unit.
    auto ours = [&](const Storage* from, int numbers, int index) {
      return Source{
          from + (i64(b) * numbers + index) * kHidden + at, rows_of_place * numbers * kHidden, steps.length(b)};
    };
    auto theirs = [&](const Storage* from, const Rows& place) {
      return Source{from + b * place.stride_b + at, place.of_place(steps), steps.length(b)};
    };
    Source source{};
    if (b >= steps.B || at >= kHidden) source = {d.output, 0, 0};
    else if (v == 0) source = d.grad_output ? theirs(d.grad_output, call.grad_output) : Source{d.output, 0, 0};
    else if (v < kOutputAt) source = ours(d.kept, kKept, v - 1);
    else if (v < kBeforeAt) source = theirs(d.output, call.output);
    else if (v < kGivenAt) {
      const int state = Step::before(v - kBeforeAt);
      source = state ? ours(d.kept, kKept, Step::kept_at(state)) : theirs(d.output, call.output);
      source.shift = reverse ? 1 : -1;
    } else source = ours(d.given, Step::kGiven, v - kGivenAt);
    return source;
  });
  const Storage* operands = in_register(slots + I::first(kOperands * kUnits));
  auto fetch = [&](int s) { ring.fetch(steps, s, time(s), s < count); };
  for (int s = 0; s < kAhead; ++s) fetch(s);

  // direct: what reaches the states before a step past its product: at first what arrives at the final states.
  constexpr int kBefores = at_least_one(kBefore), kOwns = at_least_one(kOwn);
  float direct[I::kCount][kStates], first_before[I::kCount][kBefores], fresh_before[I::kCount][kBefores],
      grad_fresh[I::kCount][kStates];
  float grad_own[I::kCount][kOwns];
  Total grad_bias[I::kCount][at_least_one(kApart)];
  int length[I::kCount];
#pragma unroll
  for (int e = 0; e < I::kCount; ++e) {
    const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
    const bool real = I::has(e) && unit < kHidden && b < steps.B;
    length[e] = real ? steps.length(b) : 0;
    auto at = [&](const Storage* from, i64 i) { return real && from ? Number::read(from[i]) : 0.f; };
#pragma unroll
    for (int k = 0; k < kStates; ++k)
      direct[e][k] = at(d.grad_final[k], i64(b) * kHidden + unit), grad_fresh[e][k] = 0.f;
#pragma unroll
    for (int i = 0; i < kBefore; ++i) {
      first_before[e][i] = at(d.initial[Step::before(i)], i64(b) * kHidden + unit);
      fresh_before[e][i] = kSpans ? at(d.fresh[Step::before(i)], unit) : 0.f;
    }
#pragma unroll
    for (int k = 0; k < kOwn; ++k) grad_own[e][k] = 0.f;
#pragma unroll
    for (int k = 0; k < kApart; ++k) grad_bias[e][k] = {};
  }
  // Whether the next step's operands are waited for at the end of a step, with its barrier.
  constexpr bool kWaitsEarly = kInRegisters || kReduceScatter;
  // They can then be read before what other blocks send is waited for, if there are registers for them.
  constexpr bool kReadsEarly = kWaitsEarly && I::kCount * kOperands <= 8;
  if (kWaitsEarly) wait_for_copies<kAhead - 1>(), __syncthreads();

  Walk<Storage> grad_gates;  // of the thread's item 0
  grad_gates.begin(steps, d.grad_gates + i64(first + I::sequence(0)) * kColumns * kHidden + unit0 + I::unit(0),
      rows_of_place * kColumns * kHidden, time(0), reverse);

  // After s steps: what arrives at the states from the last of them, by the product and past it.
  auto arrive = [&](int s) {
    float sums[kWarpTiles][kColumnTiles][4] = {};
    if constexpr (kHasFirst)
      if (s > 0) products.multiply(s - 1, sums);
    if constexpr (!kWaitsEarly) {
      wait_for_copies<kAhead>();
      __syncthreads();
    }
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      if (!I::has(e)) continue;
      float grad = direct[e][0] + (kHasFirst && s > 0 ? products.sum(s - 1, sums, e, 0) : 0.f);
      if (kSpans && s > 0 && steps.is_cut(time(s - 1), first + I::sequence(e), length[e], reverse)) {
        grad_fresh[e][0] += grad, grad = 0.f;
#pragma unroll
        for (int k = 1; k < kStates; ++k) grad_fresh[e][k] += direct[e][k], direct[e][k] = 0.f;
      }
      direct[e][0] = grad;
    }
  };

  for (int s = 0; s < count; ++s) {
    const int t = time(s);
    fetch(s + kAhead);
    bool alive[I::kCount], cut[I::kCount];  // at this step; before it
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      alive[e] = t < length[e];
      cut[e] = steps.is_cut(t, first + I::sequence(e), length[e], reverse);
    }
    auto read = [&](int e, float (&x)[kOperands]) {
      const Storage* from = operands + s % kRing * ring.kSlot + I::beyond(e, kOperands * kUnits);
#pragma unroll
      for (int v = 0; v < kOperands; ++v) x[v] = Number::read(from[v * kUnits]);
    };
    float early[kReadsEarly ? I::kCount : 1][kOperands];
    if constexpr (kReadsEarly)
#pragma unroll
      for (int e = 0; e < I::kCount; ++e)
        if (I::has(e)) read(e, early[e]);
    arrive(s);
    float sums[kWarpTiles][kColumnTiles][4];
    float columns[I::kCount][kColumns], grads[I::kCount][kStates], grads_before[I::kCount][kStates],
        grad_factors[I::kCount][kProducts];
    float of_own[I::kCount][kOwns], held[I::kCount][at_least_one(Step::kBackwardHeld)],
        rows[I::kCount][at_least_one(Step::kBackwardRows)];
#pragma unroll
    for (int e = 0; e < I::kCount; ++e)
#pragma unroll
      for (int k = 0; k < kStates; ++k) grads[e][k] = direct[e][k];
    each<kProducts>([&](auto index) {
      constexpr int i = decltype(index)::kValue,
                    j = kProducts - 1 - i;  // the stage of product j, whose gates' gradients it makes
      using Own = Products<Step, BackwardProduct, j>;
      using Last = Products<Step, BackwardProduct, i == 0 ? 0 : j + 1>;  // the product after the stage
      auto& own_product = static_cast<Own&>(products);
      auto& last_product = static_cast<Last&>(products);
      if constexpr (i > 0) {
        last_product.multiply(s, sums);
        if constexpr (!kReduceScatter) __syncthreads();
      }
      each<Step::backward_phases(i)>([&](auto phase) {
        constexpr bool kIsLastPhase = decltype(phase)::kValue == Step::backward_phases(i) - 1;
#pragma unroll
        for (int e = 0; e < I::kCount; ++e) {
          if (!I::has(e)) continue;
          if constexpr (decltype(phase)::kValue == 0 && i > 0) grad_factors[e][j] = last_product.sum(s, sums, e, 0);
          if constexpr (decltype(phase)::kValue == 0 && i == 0) {
#pragma unroll
            for (int k = 0; k < kStates; ++k) grads_before[e][k] = 0.f;
#pragma unroll
            for (int k = 0; k < kColumns; ++k) columns[e][k] = 0.f;
#pragma unroll
            for (int k = 0; k < kOwn; ++k) of_own[e][k] = 0.f;
          }
          if (alive[e] || Step::kBackwardRows) {  // where sums are made all take part, whatever comes of it
            float x[kOperands], of_cell[kOwns], before[kBefores];
            if constexpr (kReadsEarly)
#pragma unroll
              for (int v = 0; v < kOperands; ++v) x[v] = early[e][v];
            else read(e, x);
#pragma unroll
            for (int k = 0; k < kOwn; ++k) of_cell[k] = own[k * kUnits + I::unit(e)];
#pragma unroll
            for (int m = 0; m < kBefore; ++m) {
              before[m] = t == (reverse ? length[e] - 1 : 0) ? first_before[e][m] : x[kBeforeAt + m];
              if (kSpans && cut[e]) before[m] = fresh_before[e][m];
            }
            if (i == 0 && decltype(phase)::kValue == 0) grads[e][0] += x[0];
            const float output = Step::kReadsOutput ? x[Step::kReadsOutput ? kOutputAt : 0] : 0.f,
                        *given = x + kGivenAt;
#if ELMAN_TRACED
            const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
            float arrived[at_least_one(kKept)] = {};
#pragma unroll
            for (int k = 0; k < kKept; ++k)
              arrived[k] =
                  d.grad_kept ? Number::read(d.grad_kept[(steps.row(t, b) * kKept + k) * kHidden + unit]) : 0.f;
            Step::backward_traced(x + 1, arrived, output, before, grads[e], grads_before[e], columns[e]);
#else
            Step::backward(index, phase, call.constants, x + 1, output, before, of_cell, given, grad_factors[e],
                grads[e], grads_before[e], columns[e], of_own[e], held[e], rows[e]);
#endif
          }
          if constexpr (kIsLastPhase && j == 0) {
            if (alive[e]) {
#pragma unroll
              for (int k = 0; k < kStates; ++k) direct[e][k] = grads_before[e][k];
#pragma unroll
              for (int k = 0; k < kOwn; ++k) grad_own[e][k] += of_own[e][k];
#pragma unroll
              for (int k = 0; k < kApart; ++k) grad_bias[e][k].add(columns[e][Step::recurrent(Step::apart(k))]);
            }
          }
          if constexpr (kIsLastPhase) {
            float sent[at_least_one(Step::gates(j))] = {};
#pragma unroll
            for (int g = 0; g < Step::gates(j); ++g)
              sent[g] = alive[e] || !Step::kBackwardRows ? columns[e][Step::recurrent(Step::gate(j, g))] : 0.f;
            if (Own::kThere) own_product.exchange.send(s, e, sent);
          }
        }
        if constexpr (!kIsLastPhase)
          row_sums.reduce(rows, Step::backward_maxima(i, decltype(phase)::kValue),
              [&](int e) { return unit0 + I::unit(e) < kHidden; });
      });
      if (kWaitsEarly) wait_for_copies<kAhead - 1>();
      if (Own::kThere) own_product.publish(s);
      if (kInRegisters && kBlocks > 1) __syncthreads();
    });
    Storage* grad_row = grad_gates.next(steps, t);
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
      if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
      if (kSpans && steps.offsets && !alive[e]) continue;
      Storage* to = grad_row + I::beyond(e, kColumns * kHidden);
#pragma unroll
      for (int k = 0; k < kColumns; ++k)
        to[Step::column(k) * kHidden] = Number::write(alive[e] || !Step::kBackwardRows ? columns[e][k] : 0.f);
    }
  }
  arrive(count);
#pragma unroll
  for (int e = 0; e < I::kCount; ++e) {
    const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
    if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
    const i64 at = i64(b) * kHidden + unit;
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      if (d.grad_initial[k]) d.grad_initial[k][at] = direct[e][k];
      if (kSpans && d.grad_fresh[k]) d.grad_fresh[k][at] = grad_fresh[e][k];
    }
    auto put = [&](int k, float total) { d.totals[i64(k) * steps.B * kHidden + at] = total; };
#pragma unroll
    for (int k = 0; k < kOwn; ++k) put(k, grad_own[e][k]);
#pragma unroll
    for (int k = 0; k < kApart; ++k) put(kOwn + k, grad_bias[e][k].sum);
    if (kSpans && !steps.offsets)
      for (int t = count; t < steps.T; ++t)
#pragma unroll
        for (int k = 0; k < kColumns; ++k) d.grad_gates[(steps.row(t, b) * kColumns + k) * kHidden + unit] = Storage(0);
  }
  finish_exchanges();
}

}  // namespace elman::cuda
