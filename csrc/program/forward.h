// The forward pass of a program: layers, their directions, and who of a team computes what.
#pragma once

#include "../scan/division.h"
#include "forward_scan.h"

namespace elman::ELMAN_TARGET {

// A layer's outputs, (T, B, D·H): the last one's are the caller's; of the others, in `hidden`, what is kept may be
// padded.
template <class T> StepTensor layer_output(const ProgramCall& call, void* hidden, long layer) {
  const Network& net = call.net;
  const long width = net.D * net.H;
  if (layer == net.L - 1) return call.output;
  return call.hidden ? dense_saved(net, slice<T>(hidden, layer, net.saved_rows() * width), width)
                     : dense(net, slice<T>(hidden, layer, net.rows * width), width);
}

template <class T>
bool layer_forward(const ProgramForward& call, long layer, const StepTensor& x, const StepTensor& output, Team& team) {
  const Network& net = call.net;
  const long I = layer == 0 ? net.I : net.D * net.H;
  const Code& code = call.kept && !call.recompute ? call.plan->train : call.plan->infer;
  const ProgramWeights<T> first(*call.plan, net.H, I), second(*call.plan, net.D == 2 ? net.H : 0, I);
  if (!all_ok(first, second)) return false;
  const ProgramWeights<T>* weights[] = {&first, &second};
  team.each(net.D * first.tasks(), [&](std::int64_t i) {
    const long d = i / first.tasks();
    weights[d]->pack(call.parameters[layer * net.D + d], i % first.tasks());
  });
  const long parts = min(team.threads(), net.B);
  Failure failure;
  team.each(net.D * parts, [&](std::int64_t i) {
    const long d = i / parts;
    const DirectionOf<T> direction{call, layer * net.D + d, I, x, from_column<T>(output, d * net.H)};
    const StepOrder order = batch_part({net, d == 1, 0, net.B}, i % parts, parts);
    if (order.count() == 0) return;
    ProgramForwardScan<T> scan(order, direction, *weights[d], code, 0, net.T);
    if (!scan.ok()) return failure.unless(false);
    scan.run(call);
  });
  return !failure;
}

template <class T> bool program_forward(const ProgramForward& call, Team& team) {
  const Network& net = call.net;
  const Buffer<T> scratch(call.hidden ? 0 : (net.L - 1) * net.rows * net.D * net.H);
  if (!scratch.ok()) return false;
  void* hidden = call.hidden ? call.hidden : static_cast<void*>(scratch);
  for (long l = 0; l < net.L; ++l) {
    const StepTensor x = l == 0 ? call.x : layer_output<T>(call, hidden, l - 1);
    if (!layer_forward<T>(call, l, x, layer_output<T>(call, hidden, l), team)) return false;
  }
  return true;
}

}  // namespace elman::ELMAN_TARGET
