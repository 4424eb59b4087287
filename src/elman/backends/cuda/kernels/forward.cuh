// One direction of one layer, forward: a group of blocks takes a tile of sequences through all their steps. See
// docs/cuda-kernels.md.
#pragma once

namespace elman::cuda {

template <class Step> struct ForwardDirection {
  Storage* projected;                            // (T, B, kInputs, H): W_ih x + b_ih; if there is x, written here
  const Storage* given;                          // (T, B, kGiven, H)
  const Storage* weight_hh;                      // (kGates, H, H)
  const Storage* bias_hh;                        // (kGates, H); null: zeros
  const Storage* own[at_least_one(Step::kOwn)];  // (H,)
  const Storage* initial[Step::kStates];         // (B, H); null: zeros
  const Storage* fresh[Step::kStates];           // (H,), what a reset starts from; null: zeros
  Storage* output;                               // the direction's first column
  Storage* kept;                                 // (T, B, kKept, H); null: not wanted
  Storage* final[Step::kStates];                 // (B, H)
  const Storage* x;                              // (T, B, I); null: the projections are there already
  const Storage* weight_ih;                      // (kInputs, H, I)
  const Storage* bias_ih;                        // (kInputs, H); null: zeros
  int reverse;
};

template <class Step> struct ForwardCall {
  Steps steps;
  Rows projected, output, x;
  i64 inputs;       // I
  int tiles;        // groups of a direction
  int first_group;  // of this launch
  void*
      mailbox;  // through global memory: of each group, for each product, [2][kTile][kPadded], and for sums over units
  u32* flags;   // of each group, for each product and for sums over units, [kBlocks]; zeros
  ForwardDirection<Step> direction[2];
  float constants[at_least_one(Step::kForwardConstants)];
};

// The projections of the block's units for its tile, in a call so small that a launch for them alone might take longer.
template <class Step> ELMAN_INLINE void project(
    const ForwardCall<Step>& call, const ForwardDirection<Step>& d, int count, int first, int unit0) {
  constexpr int kWidth = Step::kInputs * kUnits;
  const int inputs = int(call.inputs), sequences = min(kTile, call.steps.B - first);
  for (int i = threadIdx.x; i < count * sequences * kWidth; i += kThreads) {
    const int unit = unit0 + i % kUnits, t = i / kWidth / sequences, b = first + i / kWidth % sequences;
    if (unit >= kHidden || t >= call.steps.length(b)) continue;
    const i64 gate_unit = i64(i / kUnits % Step::kInputs) * kHidden + unit;
    const Storage *x = d.x + call.x.at(call.steps, t, b), *weights = d.weight_ih + gate_unit * inputs;
    float sum = d.bias_ih ? Number::read(d.bias_ih[gate_unit]) : 0.f;
#pragma unroll 8
    for (int k = 0; k < inputs; ++k)
      sum = __fmaf_rn(Number::read(Number::operand_of(x[k])), Number::read(Number::operand_of(weights[k])), sum);
    d.projected[call.projected.at(call.steps, t, b) + gate_unit] = Number::write(sum);
  }
  __syncthreads();
}

template <class Step> __device__ void forward(const ForwardCall<Step>& call, char* shared) {
  constexpr int G = Step::kGates, kInputs = Step::kInputs, kVectors = kInputs + Step::kGiven, kStates = Step::kStates,
                kOwn = Step::kOwn, kKept = Step::kKept;
  using All = Products<Step, ForwardProduct>;
  using I = typename All::I;  // where a product's sums stay in registers, it is the only one
  constexpr bool kHasFirst = All::kThere;
  const Steps& steps = call.steps;
  const int local = blockIdx.x / kBlocks, group = call.first_group + local, rank = blockIdx.x % kBlocks,
            side = group >= call.tiles, first = (group - side * call.tiles) * kTile, unit0 = rank * kUnits;
  const ForwardDirection<Step>& d = call.direction[side];
  const bool reverse = kSpans && d.reverse;
  const int count = steps_of_tile(steps, first);
  auto time = [&](int s) { return reverse ? count - 1 - s : s; };

  Storage* slots = (Storage*)(shared + All::kBytes + All::kSumBytes);
  Ring<kVectors, false> ring;
  float* own = (float*)((char*)slots + ring.kBytes);
  All products;
  RowSums<Step::kForwardRows, I> row_sums;
  static_assert(
      All::kBytes + All::kSumBytes + ring.kBytes + kOwn * kUnits * 4 + decltype(row_sums)::kBytes == ELMAN_SHARED_BYTES,
      "as plan.py counts it");
  init_exchanges(products, row_sums, shared, (char*)(own + kOwn * kUnits), rank, local, call.mailbox, call.flags);

  each<Step::kProducts>([&](auto index) {
    constexpr int j = decltype(index)::kValue;
    using Own = Products<Step, ForwardProduct, j>;
    if (Own::kThere && Own::P::takes_part())
      static_cast<Own&>(products).product.load([&](int row, int column) {
        const int gate = Step::gate(j, Own::I::gate_of(row)), unit = unit0 + Own::I::unit_of(row);
        const Storage* from = d.weight_hh + (i64(gate) * kHidden + unit) * kHidden + column;
        Words words{};
        if (kHidden % kPerChunk == 0) {
          if (unit < kHidden && column < kHidden) words = *(const Words*)from;
        }
        Storage numbers[kPerChunk];
#pragma unroll
        for (int i = 0; i < kPerChunk; ++i) {
          numbers[i] = kHidden % kPerChunk == 0        ? ((const Storage*)&words)[i]
              : unit < kHidden && column + i < kHidden ? from[i]
                                                       : Storage(0);
          ((Storage*)&words)[i] = Number::operand_of(numbers[i]);
        }
        return words;
      });
  });
  load_own<Step>(own, d.own, unit0);
  if (d.x) project(call, d, count, first, unit0);

  const i64 given_of_place = steps.rows_of_place() * Step::kGiven * kHidden;
  ring.begin(slots, steps, time(0), !reverse, [&](int v, int n, int unit) {
    const int b = first + n;
    const bool real = b < steps.B && unit0 + unit < kHidden, is_input = v < kInputs;
    const i64 column = unit0 + unit +
        (is_input ? b * call.projected.stride_b + v * kHidden : (i64(b) * Step::kGiven + v - kInputs) * kHidden);
    return Source{is_input || !real ? d.projected + (real ? column : 0) : d.given + column,
        is_input ? call.projected.of_place(steps) : given_of_place, real ? steps.length(b) : 0};
  });
  const Storage* operands = in_register(slots + I::first(kVectors * kUnits));
  auto fetch = [&](int s) { ring.fetch(steps, s, time(s), s < count); };
  for (int s = 0; s < kAhead; ++s) fetch(s);

  float states[I::kCount][kStates], fresh[I::kCount][kStates], bias[I::kCount][at_least_one(G)];
  int length[I::kCount];
#pragma unroll
  for (int e = 0; e < I::kCount; ++e) {
    const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
    const bool real = I::has(e) && unit < kHidden && b < steps.B;
    length[e] = real ? steps.length(b) : 0;
    auto at = [&](const Storage* from, i64 i) { return real && from ? Number::read(from[i]) : 0.f; };
    const bool is_cut = kSpans && count && steps.is_cut(time(0), b, length[e], reverse);
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      fresh[e][k] = kSpans ? at(d.fresh[k], unit) : 0.f;
      states[e][k] = at(d.initial[k], i64(b) * kHidden + unit);
      if (is_cut) states[e][k] = fresh[e][k];
    }
#pragma unroll
    for (int g = 0; g < G; ++g) bias[e][g] = at(d.bias_hh, g * kHidden + unit);
    if (kHasFirst && I::has(e) && count)
      products.exchange.send(0, e, {states[e][0]});  // where no sequence has a step nobody waits for it
  }
  if (kInRegisters) wait_for_copies<kAhead - 1>();
  if (kHasFirst && count) products.exchange.publish(0);
  if (kInRegisters && kBlocks > 1) __syncthreads();

  // Rows of what the thread writes of each step, from its item 0 on.
  Walk<Storage> output, kept_of_step;
  const int b0 = first + I::sequence(0);
  const bool keeps = d.kept;
  output.begin(
      steps, d.output + b0 * call.output.stride_b + unit0 + I::unit(0), call.output.of_place(steps), time(0), !reverse);
  kept_of_step.begin(steps, d.kept + i64(b0) * kKept * kHidden + unit0 + I::unit(0),
      steps.rows_of_place() * kKept * kHidden, time(0), !reverse);

  for (int s = 0; s < count; ++s) {
    const int t = time(s);
    fetch(s + kAhead);
    bool alive[I::kCount], cut[I::kCount];  // at this step; before the next
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      alive[e] = !kSpans || t < length[e];
      cut[e] = kSpans && s + 1 < count && steps.is_cut(time(s + 1), first + I::sequence(e), length[e], reverse);
    }
    float kept[I::kCount][at_least_one(kKept)], r[I::kCount][at_least_one(G)], next[I::kCount][kStates], out[I::kCount];
    float held[I::kCount][at_least_one(Step::kForwardHeld)], rows[I::kCount][at_least_one(Step::kForwardRows)];
    each<Step::kProducts>([&](auto index) {
      constexpr int j = decltype(index)::kValue;
      constexpr bool kIsLast = j == Step::kProducts - 1;
      using Own = Products<Step, ForwardProduct, j>;
      using Next = Products<Step, ForwardProduct,
          kIsLast ? 0 : j + 1>;  // whose exchange takes what the stage makes: a factor, or the next step's h
      const int next_step = kIsLast ? s + 1 : s;
      const bool is_sent = Next::kThere && (!kIsLast || s + 1 < count);
      auto& next_product = static_cast<Next&>(products);
      float sums[kWarpTiles][kColumnTiles][4];
      auto& own_product = static_cast<Own&>(products);
      if constexpr (Own::kThere) own_product.multiply(s, sums);
      if constexpr (!kInRegisters) {
        if (j == 0) wait_for_copies<kAhead>();
        if (j == 0 || Own::kThere) __syncthreads();
      }
      each<Step::forward_phases(j)>([&](auto phase) {
        constexpr bool kIsLastPhase = decltype(phase)::kValue == Step::forward_phases(j) - 1;
#pragma unroll
        for (int e = 0; e < I::kCount; ++e) {
          if (!I::has(e)) continue;
          const Storage* from = operands + s % kRing * ring.kSlot + I::beyond(e, kVectors * kUnits);
          float x[kVectors], of_cell[at_least_one(kOwn)];
          if constexpr (decltype(phase)::kValue == 0)
#pragma unroll
            for (int i = 0; i < Step::gates(j); ++i)
              r[e][Step::gate(j, i)] = own_product.sum(s, sums, e, i) + bias[e][Step::gate(j, i)];
#pragma unroll
          for (int v = 0; v < kVectors; ++v) x[v] = Number::read(from[v * kUnits]);
#pragma unroll
          for (int k = 0; k < kOwn; ++k) of_cell[k] = own[k * kUnits + I::unit(e)];
          Step::forward(index, phase, call.constants, x, r[e], of_cell, x + kInputs, states[e], next[e], kept[e],
              held[e], rows[e]);
          if constexpr (kIsLastPhase) {
            // A unit that is padding may be infinite or NaN, which a weight of zero does not take away.
            const bool real = kPadded == kHidden || unit0 + I::unit(e) < kHidden;
            float sent;
            if constexpr (kIsLast) {
              out[e] = alive[e] ? next[e][0] : 0.f;
#pragma unroll
              for (int k = 0; k < kStates; ++k)
                if (alive[e]) states[e][k] = next[e][k];
              sent = cut[e] ? fresh[e][0] : states[e][0];
            } else {
              sent = kept[e][Step::factor_at(j + 1)];
            }
            if (is_sent) next_product.exchange.send(next_step, e, {real ? sent : 0.f});
          }
        }
        if constexpr (!kIsLastPhase)
          row_sums.reduce(rows, Step::forward_maxima(j, decltype(phase)::kValue),
              [&](int e) { return unit0 + I::unit(e) < kHidden; });
      });
      if (kInRegisters) wait_for_copies<kAhead - 1>();
      if (is_sent) next_product.publish(next_step);
      if (kInRegisters && kBlocks > 1) __syncthreads();
    });
    // What the next step does not wait for.
    Storage *output_row = output.next(steps, t), *kept_row = kept_of_step.next(steps, t);
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
#pragma unroll
      for (int k = 0; k < kStates; ++k)
        if (cut[e] && s + 1 < count) states[e][k] = fresh[e][k];
      if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
      if (kSpans && steps.offsets && !alive[e]) continue;
      output_row[I::beyond(e, call.output.stride_b)] = Number::write(out[e]);
      if (kKept && keeps && alive[e])
#pragma unroll
        for (int k = 0; k < kKept; ++k)
          kept_row[I::beyond(e, kKept * kHidden) + k * kHidden] = Number::write(kept[e][k]);
    }
  }
#pragma unroll
  for (int e = 0; e < I::kCount; ++e) {
    const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
    if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
#pragma unroll
    for (int k = 0; k < kStates; ++k) d.final[k][i64(b) * kHidden + unit] = Number::write(states[e][k]);
    if (kSpans && !steps.offsets)
      for (int t = count; t < steps.T; ++t) d.output[call.output.at(steps, t, b) + unit] = Number::write(0.f);
  }
  finish_exchanges();
}

}  // namespace elman::cuda
