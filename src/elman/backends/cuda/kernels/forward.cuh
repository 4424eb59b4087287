// One direction of one layer, forward: a group of blocks takes a tile of sequences through all their steps. See docs/cuda.md.
#pragma once

namespace elman::cuda {

struct ForwardDirection {
  const Storage* projected;   // (T, B, G, H): W_ih x + b_ih
  const Storage* weight_hh;   // (G, H, H)
  const Storage* bias_hh;     // (G, H); null: zeros
  const Storage *initial[2];  // (B, H), h and c; null: zeros
  const Storage *fresh[2];    // (H,), what a reset starts from; null: zeros
  Storage* output;            // the direction's first column
  Storage* saved;             // (T, B, kSaved, H); null: not wanted
  Storage* final[2];          // (B, H)
  int reverse;
};

struct ForwardCall {
  Steps steps;
  Rows projected, output;
  int tiles;        // groups of a direction
  int first_group;  // of this launch
  void* mailbox;   // through global memory: [groups][2][kTile][kPadded]
  u32* flags;      // [groups][kBlocks], zeros
  ForwardDirection direction[2];
};

template <class Cell>
__device__ void forward(const ForwardCall& call, char* shared) {
  constexpr int G = Cell::kGates, kSplitGate = Cell::kSplitGate, kSaved = Cell::kSaved, kValues = G > kSaved ? G : kSaved;
  using P = Product<G * kUnits, kPadded>;
  using I = Items<G, P>;
  using X = Exchange<1, P, I>;
  constexpr int kSlotNumbers = kTile * G * kUnits, kCopies = (kSlotNumbers / kPerCopy + kThreads - 1) / kThreads;
  const Steps& steps = call.steps;
  const int local = blockIdx.x / kBlocks, group = call.first_group + local, rank = blockIdx.x % kBlocks, first = group % call.tiles * kTile, unit0 = rank * kUnits;
  const ForwardDirection& d = call.direction[group / call.tiles];
  const bool reverse = kSpans && d.reverse;
  const int count = steps_of_tile(steps, first);
  auto time = [&](int s) { return reverse ? count - 1 - s : s; };

  float* partial = (float*)(shared + X::kBytes);
  Storage* ring = (Storage*)(shared + X::kBytes + P::kSumBytes);
  X exchange;
  exchange.init(shared, rank, call.mailbox, call.flags, local);

  P product;
  if (P::takes_part()) product.load([&](int row, int column) {
    const int gate = I::gate_of(row), unit = unit0 + I::unit_of(row);
    const Storage* from = d.weight_hh + (i64(gate) * kHidden + unit) * kHidden + column;
    Words words{};
    if (kHidden % kPerChunk == 0) {
      if (unit < kHidden && column < kHidden) words = *(const Words*)from;
    }
    Storage numbers[kPerChunk];
#pragma unroll
    for (int i = 0; i < kPerChunk; ++i) {
      numbers[i] = kHidden % kPerChunk == 0 ? ((const Storage*)&words)[i] : unit < kHidden && column + i < kHidden ? from[i] : Storage(0);
      ((Storage*)&words)[i] = Number::operand_of(numbers[i]);
    }
    return words;
  });

  // Asks for the projections of step s; always as many groups of copies, so that they can be counted.
  auto fetch = [&](int s) {
    if (s < count) {
      const int t = time(s);
#pragma unroll
      for (int k = 0; k < kCopies; ++k) {
        const int i = threadIdx.x + k * kThreads;
        if (kSlotNumbers / kPerCopy % kThreads && i >= kSlotNumbers / kPerCopy) continue;
        const int unit = i % (kUnits / kPerCopy) * kPerCopy, gate = i / (kUnits / kPerCopy) % G, n = i / (kUnits / kPerCopy) / G;
        const bool valid = first + n < steps.B && unit0 + unit < kHidden && (!kSpans || t < steps.length(first + n));
        copy_async<kCopy>(ring + (s % kRing) * kSlotNumbers + (n * G + gate) * kUnits + unit,
                          valid ? d.projected + call.projected.at(steps, t, first + n) + gate * kHidden + unit0 + unit : d.projected, valid);
      }
    }
    commit_copies();
  };
  for (int s = 0; s < kAhead; ++s) fetch(s);

  float h[I::kCount], c[I::kCount], bias[I::kCount][G], fresh[2][I::kCount];
  int length[I::kCount];
#pragma unroll
  for (int e = 0; e < I::kCount; ++e) {
    const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
    const bool real = I::has(e) && unit < kHidden && b < steps.B;
    length[e] = real ? steps.length(b) : 0;
    auto at = [&](const Storage* from, i64 i) { return real && from ? Number::read(from[i]) : 0.f; };
    h[e] = at(d.initial[0], i64(b) * kHidden + unit);
    c[e] = at(Cell::kHasCellState ? d.initial[1] : nullptr, i64(b) * kHidden + unit);
    fresh[0][e] = kSpans ? at(d.fresh[0], unit) : 0.f;
    fresh[1][e] = kSpans && Cell::kHasCellState ? at(d.fresh[1], unit) : 0.f;
#pragma unroll
    for (int g = 0; g < G; ++g) bias[e][g] = at(d.bias_hh, g * kHidden + unit);
    if (kSpans && count && steps.is_cut(time(0), b, length[e], reverse)) h[e] = fresh[0][e], c[e] = fresh[1][e];
    const float own[1] = {h[e]};
    if (I::has(e) && count) exchange.send(0, e, own);  // where no sequence has a step nobody waits for it
  }
  if (kInRegisters) wait_for_copies<kAhead - 1>();
  if (count) exchange.publish(0);
  if (kInRegisters && !X::kAlone) __syncthreads();

  for (int s = 0; s < count; ++s) {
    const int t = time(s);
    fetch(s + kAhead);
    bool alive[I::kCount], cut[I::kCount];  // at this step; before the next
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      alive[e] = !kSpans || t < length[e];
      cut[e] = kSpans && s + 1 < count && steps.is_cut(time(s + 1), first + I::sequence(e), length[e], reverse);
    }
    exchange.wait(s);
    float sums[kWarpTiles][kColumnTiles][4];
    if (P::takes_part()) {
      product.run(sums, [&](int n, int column) { return exchange.fetch(s, n, column); });
      if constexpr (!kInRegisters) P::put(partial, sums);
    }
    if constexpr (!kInRegisters) {
      wait_for_copies<kAhead>();
      __syncthreads();
    }
    float kept[I::kCount][kValues], out[I::kCount];
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      if (!I::has(e)) continue;
      const Storage* x = ring + (s % kRing) * kSlotNumbers + I::sequence(e) * G * kUnits + I::unit(e);
      float* a = kept[e];
#pragma unroll
      for (int g = 0; g < G; ++g) {
        a[g] = I::sum(sums, partial, e, g) + bias[e][g];
        if (g != kSplitGate) a[g] += Number::read(x[g * kUnits]);
      }
      float next = c[e];
      const float apart = kSplitGate < 0 ? 0.f : Number::read(x[(kSplitGate < 0 ? 0 : kSplitGate) * kUnits]);
      const float state = Cell::forward(a, apart, h[e], next);
      out[e] = alive[e] ? state : 0.f;
      if (alive[e]) h[e] = state, c[e] = next;
      const float own[1] = {cut[e] ? fresh[0][e] : h[e]};
      if (s + 1 < count) exchange.send(s + 1, e, own);
    }
    if (kInRegisters) wait_for_copies<kAhead - 1>();
    if (s + 1 < count) exchange.publish(s + 1);
    if (kInRegisters && !X::kAlone) __syncthreads();
    // What the next step does not wait for.
#pragma unroll
    for (int e = 0; e < I::kCount; ++e) {
      const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
      if (cut[e] && s + 1 < count) h[e] = fresh[0][e], c[e] = fresh[1][e];
      if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
      if (kSpans && steps.offsets && !alive[e]) continue;
      d.output[call.output.at(steps, t, b) + unit] = Number::write(out[e]);
      if (kSaved && d.saved && alive[e])
#pragma unroll
        for (int k = 0; k < kSaved; ++k) d.saved[(steps.row(t, b) * kSaved + k) * kHidden + unit] = Number::write(kept[e][k]);
    }
  }
#pragma unroll
  for (int e = 0; e < I::kCount; ++e) {
    const int unit = unit0 + I::unit(e), b = first + I::sequence(e);
    if (!I::has(e) || unit >= kHidden || b >= steps.B) continue;
    d.final[0][i64(b) * kHidden + unit] = Number::write(h[e]);
    if (Cell::kHasCellState) d.final[1][i64(b) * kHidden + unit] = Number::write(c[e]);
    if (kSpans && !steps.offsets)
      for (int t = count; t < steps.T; ++t) d.output[call.output.at(steps, t, b) + unit] = Number::write(0.f);
  }
  exchange.finish();
}

}  // namespace elman::cuda
