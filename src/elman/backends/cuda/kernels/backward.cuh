// The gradient of one direction of one layer: from the last step to the first. See docs/cuda.md.
#pragma once

namespace elman::cuda {

struct BackwardDirection {
  const Storage* grad_output;    // the direction's first column; null: zeros
  const Storage* weight_hh;      // (G, H, H)
  const Storage* output;         // the direction's first column
  const Storage* saved;          // (T, B, kSaved, H)
  const Storage* grad_saved;     // (T, B, kSaved, H), what arrives at the saved numbers themselves; null: nothing
  const Storage *initial[2];     // (B, H); null: zeros
  const Storage *fresh[2];       // (H,); null: zeros
  const Storage* grad_final[2];  // (B, H); null: zeros
  Storage* grad_gates;           // (T, B, kColumns, H): of the gates' input parts in the gates' order; then those recurrent parts that differ
  float* grad_initial[2];        // (B, H); null: not wanted
  float* grad_fresh[2];          // (B, H), to be summed over B; null: not wanted
  int reverse;
};

struct BackwardCall {
  Steps steps;
  Rows grad_output, output;
  int tiles, first_group;
  void* mailbox;  // through global memory: [groups][2][kTile][G][kPadded]
  u32* flags;     // [groups][kBlocks], zeros
  BackwardDirection direction[2];
};

template <class Cell>
__device__ void backward(const BackwardCall& call, char* shared) {
  constexpr int G = Cell::kGates, kSaved = Cell::kSaved, kColumns = Cell::kGateGradients, kValues = kSaved > kColumns ? kSaved : kColumns;
  // What a step reads: the output's gradient, what was saved, and as the cell asks for it the output, the state before.
  constexpr int kOutputAt = 1 + kSaved, kBeforeAt = kOutputAt + Cell::kBackwardReadsH, kOperands = kBeforeAt + Cell::kBackwardReadsPrevious;
  using P = Product<kUnits, G * kPadded>;
  using I = Items<1, P>;
  using X = Exchange<G, P, I>;
  constexpr int kSlotNumbers = kTile * kOperands * kUnits, kCopies = (kSlotNumbers / kPerCopy + kThreads - 1) / kThreads;
  const Steps& steps = call.steps;
  const int local = blockIdx.x / kBlocks, group = call.first_group + local, rank = blockIdx.x % kBlocks, first = group % call.tiles * kTile, unit0 = rank * kUnits;
  const BackwardDirection& d = call.direction[group / call.tiles];
  const bool reverse = kSpans && d.reverse;
  const int count = steps_of_tile(steps, first);
  auto time = [&](int s) { return reverse ? s : count - 1 - s; };

  float* partial = (float*)(shared + X::kBytes);
  Storage* ring = (Storage*)(shared + X::kBytes + P::kSumBytes);
  X exchange;
  exchange.init(shared, rank, call.mailbox, call.flags, local);

  P product;  // the transposed weights: a row a unit, a column for each gate of each unit
  if (P::takes_part()) product.load([&](int row, int column) {
    const int gate = column / kPadded, unit = unit0 + I::unit_of(row);
    Words words{};
#pragma unroll
    for (int i = 0; i < kPerChunk; ++i) {
      const int from = column % kPadded + i;
      if (unit < kHidden && from < kHidden) ((Storage*)&words)[i] = Number::operand_of(d.weight_hh[(i64(gate) * kHidden + from) * kHidden + unit]);
    }
    return words;
  });

  auto fetch = [&](int s) {
    if (s < count) {
      const int t = time(s), t_before = reverse ? t + 1 : t - 1;
#pragma unroll
      for (int k = 0; k < kCopies; ++k) {
        const int i = threadIdx.x + k * kThreads;
        if (kSlotNumbers / kPerCopy % kThreads && i >= kSlotNumbers / kPerCopy) continue;
        const int unit = i % (kUnits / kPerCopy) * kPerCopy, v = i / (kUnits / kPerCopy) % kOperands, n = i / (kUnits / kPerCopy) / kOperands;
        const int b = first + n, length = steps.length(b);
        bool valid = unit0 + unit < kHidden && t < length;
        const Storage* from = d.output;
        if (v == 0) {
          valid = valid && d.grad_output;
          from = d.grad_output + (valid ? call.grad_output.at(steps, t, b) : 0);
        } else if (v < kOutputAt) {
          from = d.saved + (valid ? (steps.row(t, b) * kSaved + v - 1) * kHidden : 0);
        } else if (Cell::kBackwardReadsH && v == kOutputAt) {
          from = d.output + (valid ? call.output.at(steps, t, b) : 0);
        } else {
          valid = valid && t_before >= 0 && t_before < length;
          if (Cell::kHasCellState)
            from = d.saved + (valid ? (steps.row(t_before, b) * kSaved + kSaved - 1) * kHidden : 0);
          else
            from = d.output + (valid ? call.output.at(steps, t_before, b) : 0);
        }
        copy_async<kCopy>(ring + (s % kRing) * kSlotNumbers + (n * kOperands + v) * kUnits + unit, valid ? from + unit0 + unit : d.weight_hh, valid);
      }
    }
    commit_copies();
  };
  for (int s = 0; s < kAhead; ++s) fetch(s);

  // bypass: what reaches the state before a step past the step itself: at first what arrives at the final state.
  // carry: a cell's own: of the second state, or what a GRU adds to h's gradient.
  float bypass[I::kCount], carry[I::kCount], first_before[I::kCount], fresh_before[I::kCount], grad_fresh[2][I::kCount];
  int length[I::kCount];
#pragma unroll
  for (int e = 0; e < I::kCount; ++e) {
    const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
    const bool real = I::has(e) && unit < kHidden && b < steps.B;
    length[e] = real ? steps.length(b) : 0;
    auto at = [&](const Storage* from, i64 i) { return real && from ? Number::read(from[i]) : 0.f; };
    bypass[e] = at(d.grad_final[0], i64(b) * kHidden + unit);
    carry[e] = at(Cell::kHasCellState ? d.grad_final[1] : nullptr, i64(b) * kHidden + unit);
    first_before[e] = at(Cell::kBackwardReadsPrevious ? d.initial[Cell::kHasCellState] : nullptr, i64(b) * kHidden + unit);
    fresh_before[e] = kSpans ? at(Cell::kBackwardReadsPrevious ? d.fresh[Cell::kHasCellState] : nullptr, unit) : 0.f;
    grad_fresh[0][e] = grad_fresh[1][e] = 0.f;
  }
  if (kInRegisters) wait_for_copies<kAhead - 1>(), __syncthreads();

  for (int s = 0; s <= count; ++s) {
    const int t = time(s);  // at s == count there is no such step, only what came of the one before it
    fetch(s + kAhead);
    bool alive[I::kCount], cut[I::kCount], ended[I::kCount];  // at this step; before this step; before the one that was done last
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      alive[e] = s < count && t < length[e];
      cut[e] = s < count && steps.is_cut(t, first + I::sequence(e), length[e], reverse);
      ended[e] = s > 0 && steps.is_cut(time(s - 1), first + I::sequence(e), length[e], reverse);
    }
    float sums[kWarpTiles][kColumnTiles][4] = {};
    if (s > 0) {
      exchange.wait(s - 1);
      if (P::takes_part()) {
        product.run(sums, [&](int n, int column) { return exchange.fetch(s - 1, n, column); });
        if constexpr (!kInRegisters) P::put(partial, sums);
      }
    }
    if constexpr (!kInRegisters) {
      wait_for_copies<kAhead>();
      __syncthreads();
    }
    float values[I::kCount][kValues];
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      if (!I::has(e)) continue;
      const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
      float grad = bypass[e] + (s > 0 ? I::sum(sums, partial, e, 0) : 0.f);
      if (kSpans && ended[e]) {
        grad_fresh[0][e] += grad + (Cell::kHasCellState ? 0.f : carry[e]);
        grad_fresh[1][e] += carry[e];
        grad = carry[e] = 0.f;
      }
      if (s == count) {
        if (unit < kHidden && b < steps.B) {
          if (d.grad_initial[0]) {
            d.grad_initial[0][i64(b) * kHidden + unit] = grad + (Cell::kHasCellState ? 0.f : carry[e]);
            if (Cell::kHasCellState) d.grad_initial[1][i64(b) * kHidden + unit] = carry[e];
          }
          if (kSpans && d.grad_fresh[0]) {
            d.grad_fresh[0][i64(b) * kHidden + unit] = grad_fresh[0][e];
            if (Cell::kHasCellState) d.grad_fresh[1][i64(b) * kHidden + unit] = grad_fresh[1][e];
          }
        }
        continue;
      }
      const Storage* x = ring + (s % kRing) * kSlotNumbers + I::sequence(e) * kOperands * kUnits + I::unit(e);
      float* a = values[e];
#pragma unroll
      for (int k = 0; k < kSaved; ++k) a[k] = Number::read(x[(1 + k) * kUnits]);
      const float output = Cell::kBackwardReadsH ? Number::read(x[kOutputAt * kUnits]) : 0.f;
      float before = Cell::kBackwardReadsPrevious ? Number::read(x[(Cell::kBackwardReadsPrevious ? kBeforeAt : 0) * kUnits]) : 0.f;
      if (Cell::kBackwardReadsPrevious && t == (reverse ? length[e] - 1 : 0)) before = first_before[e];
      if (kSpans && Cell::kBackwardReadsPrevious && cut[e]) before = fresh_before[e];
      float own[G] = {};
      if (alive[e]) {
        const float arriving = grad + Number::read(x[0]);
        float next = carry[e];
#if ELMAN_TRACED
        float arrived[kSaved > 0 ? kSaved : 1] = {};
#pragma unroll
        for (int k = 0; k < kSaved; ++k) arrived[k] = d.grad_saved ? Number::read(d.grad_saved[(steps.row(t, b) * kSaved + k) * kHidden + unit]) : 0.f;
        if constexpr (kSaved > 0)
          Cell::backward_traced(a, arrived, arriving, output, before, next);
        else
          Cell::backward(a, arriving, output, before, next);
#else
        Cell::backward(a, arriving, output, before, next);
#endif
        carry[e] = next;
        bypass[e] = 0.f;
#pragma unroll
        for (int g = 0; g < G; ++g) own[g] = a[kColumns - G + g];
      } else {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) a[k] = 0.f;
        bypass[e] = grad;
      }
      exchange.send(s, e, own);
    }
    if (kInRegisters) wait_for_copies<kAhead - 1>();
    if (s < count) exchange.publish(s);
    if (kInRegisters && !X::kAlone) __syncthreads();
    if (s == count) break;
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
      if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
      if (kSpans && steps.offsets && !alive[e]) continue;
      Storage* to = d.grad_gates + steps.row(t, b) * kColumns * kHidden + unit;
#pragma unroll
      for (int k = 0; k < kColumns; ++k) to[(k < G ? Cell::input_gate(k) : k) * kHidden] = Number::write(values[e][k]);
    }
  }
  if (kSpans && !steps.offsets)
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
      if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
      for (int t = count; t < steps.T; ++t)
#pragma unroll
        for (int k = 0; k < kColumns; ++k) d.grad_gates[(steps.row(t, b) * kColumns + k) * kHidden + unit] = Storage(0);
    }
  exchange.finish();
}

}  // namespace elman::cuda
