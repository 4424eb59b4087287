// Padded sequences of different lengths. The kernels take them in falling order of length, each with a step at least:
// here they are brought into that order, the states with them, and what the kernels do not touch is filled in.
#pragma once

#include <vector>

#include "dispatch.h"

namespace elman {

class Ragged {
 public:
  Ragged() = default;
  Ragged(const Long* lengths, Long T, Long B);  // B numbers from 0 to T
  bool exists() const { return B_ > 0; }
  bool is_empty(Long b) const { return exists() && lengths_[b] == 0; }

  // The network as the kernels are to see it, given the caller's T and B. `pad_saved`: what is saved is to be padded.
  void describe(Network& net, bool pad_saved) const;

  // Zeros where a sequence has no step, in `count` tensors, each so many numbers after the one before.
  void clear_padding(Number number, const StepTensor& x, Long width, Long count = 1, Long apart = 0) const;

  // Run a call: its network described, its states in the caller's order.
  void run(const Target& target, const Forward& call, int threads) const;
  void run(const Target& target, const Backward& call, int threads) const;  // of no steps: weights' gradients stay

 private:
  class States;
  void clear_saved(const Network& net, Number number, void* all, Long count, Long width) const;
  Long T_ = 0, B_ = 0;
  std::vector<Long> lengths_, alive_, offset_;
  std::vector<Long> order_;  // the sequences that have a step; then the others
};

}  // namespace elman
