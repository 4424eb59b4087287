// The forward pass of a program: layers, their directions, and who of a team computes what.
#pragma once

#include "../scan/division.h"
#include "block_scan.h"
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

// How the scans of some directions are divided: by sequences; and where these are fewer than the threads and units are
// independent, by columns. Columns run in blocks of steps, and so do few numbers: of many, choosing the next
// instruction costs less than copying a block's values.
struct ScanParts {
  long sequences, columns;
  bool in_blocks;
  long count() const { return sequences * columns; }
  StepOrder order(const StepOrder& all, long part) const { return batch_part(all, part / columns, sequences); }
};
constexpr long kFewBytes = 64;
template <class T> ScanParts scan_parts(const ProgramCall& call, long directions, bool whole_rows, const Team& team) {
  const long sequences = min(team.threads(), call.net.B);
  const bool splits = call.plan->independent && !call.plan->needs_rows && !whole_rows;
  const long columns = splits ? min(panels<T>(call.net.H), ceil_div(team.threads(), directions * sequences)) : 1;
  const long bytes = ceil_div(call.net.B, sequences) * call.net.H * static_cast<long>(sizeof(T));
  const Code& code = call.plan->phased_infer;
  const bool few = call.plan->independent && bytes <= kFewBytes && code.stages[each_step] > code.stages[before_steps];
  return {sequences, columns, columns > 1 || few};
}

template <class T>
bool layer_forward(const ProgramForward& call, long layer, const StepTensor& x, const StepTensor& output, Team& team) {
  const Network& net = call.net;
  const long I = layer == 0 ? net.I : net.D * net.H;
  const Plan& plan = *call.plan;
  const bool trains = call.kept && !call.recompute;
  const ScanParts parts = scan_parts<T>(call, net.D, false, team);
  const ProgramWeights<T> first(plan, net.H, I, parts.columns);
  const ProgramWeights<T> second(plan, net.D == 2 ? net.H : 0, I, parts.columns);
  if (!all_ok(first, second)) return false;
  const ProgramWeights<T>* weights[] = {&first, &second};
  team.each(net.D * first.tasks(), [&](std::int64_t i) {
    const long d = i / first.tasks();
    weights[d]->pack(call.parameters[layer * net.D + d], i % first.tasks());
  });
  Failure failure;
  team.each(net.D * parts.count(), [&](std::int64_t i) {
    const long d = i / parts.count(), part = i % parts.count();
    const DirectionOf<T> direction{call, layer * net.D + d, I, x, from_column<T>(output, d * net.H)};
    const StepOrder order = parts.order({net, d == 1, 0, net.B}, part);
    const auto run = [&](auto&& scan) {
      failure.unless(scan.ok());
      if (scan.ok()) scan.run(call);
    };
    if (order.count() == 0) return;
    if (parts.in_blocks)
      run(BlockForwardScan<T>(order, direction, *weights[d], trains ? plan.phased_train : plan.phased_infer,
          part % parts.columns, 0, net.T));
    else run(ProgramForwardScan<T>(order, direction, *weights[d], trains ? plan.train : plan.infer, 0, net.T));
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
