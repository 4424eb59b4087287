// Sums over the sequences of what backward leaves for each: the gradients of numbers that all sequences share. Always
// added in the same order.
#pragma once

namespace elman::cuda {

constexpr int kLanes = 16, kWidth = 32;  // threads of a column, columns of a block

struct TotalsCall {
  const float* parts;             // (ELMAN_TOTALS, B, H)
  Storage* totals[ELMAN_TOTALS];  // (H,), or one number: the sum of all; null: not wanted
  int of_units[ELMAN_TOTALS];     // whether there is one for each unit
  int B, H;
};

// Each row of blocks has one of the totals, each block some units of it, or the first one all of them.
__device__ void sum_totals(const TotalsCall& call, char* shared) {
  const int blocks = (call.H + kWidth - 1) / kWidth, which = blockIdx.x / blocks, block = blockIdx.x % blocks;
  Storage* to = call.totals[which];
  const bool of_units = call.of_units[which];
  if (!to || (block > 0 && !of_units)) return;
  const int column = threadIdx.x % kWidth, lane = threadIdx.x / kWidth, unit = block * kWidth + column;
  const i64 count = i64(call.B) * call.H, pitch = of_units ? call.H : kWidth;
  const float* parts = call.parts + which * count;
  float sum = 0.f;
  if (unit < call.H || !of_units)
#pragma unroll 8
    for (i64 at = lane * pitch + unit; at < count; at += kLanes * pitch) sum += parts[at];
  float* sums = (float*)shared;  // [kLanes][kWidth]
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane > 0) return;
  for (int i = 1; i < kLanes; ++i) sum += sums[i * kWidth + column];
  if (!of_units)
    for (int far = kWidth / 2; far > 0; far /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, far);
  if (of_units ? unit < call.H : column == 0) to[of_units ? unit : 0] = Number::write(sum);
}

}  // namespace elman::cuda
