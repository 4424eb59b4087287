// A run of a program, as the kernels take it: plain structs, in the words of kernels.h.
#pragma once

#include "../kernels.h"
#include "code.h"

namespace elman {

// One direction of one layer: w_ih (inputs·H, columns), w_hh (recurrents·H, H), biases (rows,) of either, and the own
// parameters, (H,) or one number. Null where there is no such thing.
struct ProgramParameters {
  const void *w_ih, *w_hh, *b_ih, *b_hh;
  const void* const* own;
};
struct ProgramGradients {  // of the same shapes; any may be null: not needed
  void *w_ih, *w_hh, *b_ih, *b_hh;
  void* const* own;
};

// Tensors that each direction of each layer has one of, (L·D, T, B, columns): the first one's, and where the next
// begins.
struct DirectionTensor {
  StepTensor first{nullptr, 0, 0};
  std::int64_t direction = 0;
};

// What both passes have in common.
struct ProgramCall {
  const Plan* plan;
  Network net;                          // without a cell, and without its parameters; P is H
  std::int64_t batch;                   // the caller's sequences, some of which may have no step
  const ProgramParameters* parameters;  // L·D
  StepTensor x, output;                 // (T, B, I) and (T, B, D·H), which forward writes
  // By state (L·D, batch, H); and what resets start from, (L·D, H). Null: zeros.
  const void *const *initial, *const *fresh;
  const DirectionTensor *step_inputs, *draws;  // (T, B, H), or for a single number (T, B, 1)
  // What is kept for the backward pass: (L-1, rows, D·H), the lower layers' outputs, and what kept_size counts. Null:
  // not kept.
  void *hidden, *kept;
  bool recompute;  // only states are kept
};

struct ProgramForward : ProgramCall {
  void* const* final;  // as `initial`, written
  // Written where the data is not null: the states but the first after each step, then the gates, (T, B, H).
  const DirectionTensor* traced;
};

struct ProgramBackward : ProgramCall {
  std::int64_t parts;                  // in which `kept` lies, as forward told
  StepTensor grad_output;              // (T, B, D·H); data may be null: zeros
  const void* grad_hidden;             // as `hidden`: what arrives there; null: zeros
  const void* const* grad_final;       // null: zeros
  const DirectionTensor* grad_traced;  // as `traced`; data null: zeros
  StepTensor grad_x;                   // written; data null: not needed
  void *const *grad_initial, *const *grad_fresh;
  const DirectionTensor* grad_step_inputs;  // of each direction, written
  const ProgramGradients* gradients;        // L·D, written
};

// Numbers from one array of `count` to the next: an odd number of cache lines, since arrays a power of two apart would
// share a few sets of the cache.
constexpr std::int64_t spread(std::int64_t count, std::int64_t element) {
  const std::int64_t line = 64 / element;
  return ((count + line - 1) / line | 1) * line;
}

// Arrays of (rows, H) that are kept of each direction: first those of the states that are needed, then SAVED, then the
// factors. In each the rows lie step by step; or, unless the network is ragged, part by part of the sequences, so that
// threads do not write near one another. Then comes, in a cache line of its own, how many parts there are.
inline bool keeps_state(const Plan& plan, bool recompute, int state) {
  return state > 0 && (recompute || plan.reads_state[state] || plan.reads_new_state[state]);
}
inline int kept_states(const Plan& plan, bool recompute) {
  int count = 0;
  for (int s = 1; s < plan.states; ++s) count += keeps_state(plan, recompute, s);
  return count;
}
// Numbers of a direction, and of all of them.
inline std::int64_t kept_each(const Plan& plan, bool recompute, const Network& net) {
  const int arrays = kept_states(plan, recompute) + (recompute ? 0 : plan.saved + plan.products - 1);
  return arrays * spread(net.rows * net.H, element_size(net.number));
}
inline std::int64_t kept_size(const Plan& plan, bool recompute, const Network& net) {
  const std::int64_t each = kept_each(plan, recompute, net);
  return each > 0 ? net.L * net.D * each + spread(1, element_size(net.number)) : 0;
}
// Where the number of parts is told; null: nothing is kept.
inline void* told_parts(const ProgramCall& call) {
  const std::int64_t element = element_size(call.net.number), size = kept_size(*call.plan, call.recompute, call.net);
  return call.kept && size > 0 ? static_cast<char*>(call.kept) + (size - spread(1, element)) * element : nullptr;
}

}  // namespace elman
