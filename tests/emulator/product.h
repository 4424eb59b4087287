// The tensor cores' product of a warp: d (16, 8) += a (16, K) b (K, 8), each lane holding the parts that the PTX manual
// gives it ("Matrix fragments"). What of a sum float32 has no room for is cut off, not rounded (Fasi, Higham, Mikaitis
// and Pranesh, 2021): here once an instruction, of a sum in float64.
#pragma once

#include "machine.h"
#include "numbers.h"

namespace elman::emulated {

struct Operands {
  unsigned words[6];  // a0..a3, b0, b1
  float* d[4];
};

// The numbers of a lane's words: where each lies, and what it is. 16 bits: two of neighbouring k in a word.
template <Factors factors> void product(Operands (&lanes)[32]) {
  constexpr int each = factors == kTf32 ? 1 : 2, K = 8 * each;
  double a[16][K], b[K][8], d[16][8];
  auto number = [](unsigned word, int part) {
    const unsigned short half = word >> 16 * part;
    return factors == kTf32 ? of_tf32(word) : factors == kBFloat16 ? of_bfloat16(half) : of_float16(half);
  };
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, member = lane % 4;
    for (int word = 0; word < 4; ++word)
      for (int part = 0; part < each; ++part)
        a[group + word % 2 * 8][word / 2 * 4 * each + member * each + part] = number(lanes[lane].words[word], part);
    for (int word = 0; word < 2; ++word)
      for (int part = 0; part < each; ++part)
        b[word * 4 * each + member * each + part][group] = number(lanes[lane].words[4 + word], part);
    for (int i = 0; i < 4; ++i) d[group + i / 2 * 8][member * 2 + i % 2] = *lanes[lane].d[i];
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < K; ++k)
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) *lanes[lane].d[i] = cut_off(d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
}

inline void product(Factors factors, Operands (&lanes)[32]) {
  if (factors == kBFloat16) product<kBFloat16>(lanes);
  else if (factors == kFloat16) product<kFloat16>(lanes);
  else product<kTf32>(lanes);
}

}  // namespace elman::emulated
