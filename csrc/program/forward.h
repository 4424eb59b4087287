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

// How the scans of some directions are divided. Where units are independent, parts of the columns do not meet: there
// are as many as threads need, beside those of the sequences. Columns then run in blocks of steps, and so do few
// numbers: of many, choosing the next instruction costs less than copying a block's values.
struct ScanParts {
  Division by;
  bool in_blocks;
};
constexpr long kFewBytes = 64;
// What is kept lies in parts where each has so many sequences: should one thread have to run all backward, one after
// another, it takes hardly longer (fewer: 1.4 times as long).
constexpr long kLeastOfPart = 4;
// parts: of the sequences, where there are several in what is kept.
template <class T>
ScanParts scan_parts(const ProgramCall& call, long directions, bool whole_rows, long parts, Team& team) {
  const Network& net = call.net;
  const Plan& plan = *call.plan;
  const long sequences = parts > 1 ? parts : min(team.threads(), net.B), groups = panels<T>(net.H);
  const bool splits = !plan.needs_rows && !whole_rows;
  if (!plan.independent)
    return {splits && parts == 1 ? divide(net, plan.recurrents * net.H, groups, team) : Division{sequences, 1}, false};
  const long columns = splits ? min(groups, ceil_div(team.threads(), directions * sequences)) : 1;
  const long bytes = ceil_div(net.B, sequences) * net.H * static_cast<long>(sizeof(T));
  const Code& code = plan.phased_infer;
  const bool few = bytes <= kFewBytes && code.stages[each_step] > code.stages[before_steps];
  return {{sequences, columns}, columns > 1 || few};
}

template <class T> bool layer_forward(const ProgramForward& call, const ScanParts& parts, const KeptRows& rows,
    long layer, const StepTensor& x, const StepTensor& output, Team& team) {
  const Network& net = call.net;
  const long I = layer == 0 ? net.I : net.D * net.H;
  const Plan& plan = *call.plan;
  const bool trains = call.kept && !call.recompute;
  const Division& by = parts.by;
  using Weights = ProgramWeights<T>;
  const Weights first(plan, net, net.H, I, by.column_parts, parts.in_blocks),
      second(plan, net, net.D == 2 ? net.H : 0, I, by.column_parts, parts.in_blocks);
  const Buffer<T> meeting(by.meets ? ProgramForwardScan<T>::met(plan) * plane<T>(net.B * net.H) : 0);
  if (!all_ok(first, second, meeting)) return false;
  const Weights* weights[] = {&first, &second};
  team.each(net.D * first.tasks(), [&](std::int64_t i) {
    const long d = i / first.tasks();
    weights[d]->pack(call.parameters[layer * net.D + d], i % first.tasks());
  });
  Failure failure;
  const auto direction = [&](long d) {
    return DirectionOf<T>{call, layer * net.D + d, I, x, from_column<T>(output, d * net.H), rows};
  };
  if (parts.in_blocks) {
    each_part(by, net.D, team, [&](long d, long batch, long part) {
      const StepOrder order = batch_part({net, d == 1, 0, net.B}, batch, by.batch_parts);
      const DirectionOf<T> of = direction(d);
      BlockForwardScan<T> scan(order, of, *weights[d], trains ? plan.phased_train : plan.phased_infer,
          column_part<T>(net.H, part, by.column_parts), 0, net.T);
      failure.unless(scan.ok());
      if (scan.ok()) scan.run(call);
    });
  } else {
    using Scan = ProgramForwardScan<T>;
    scan_layer(net, by, weights, panels<T>(net.H), x, {}, team,
        [&](const StepOrder& order, long d, InputProjection<Weights>& projection, long, long) {
          const DirectionOf<T> of = direction(d);
          Scan scan(order, of, trains ? plan.train : plan.infer, projection, by.meets, meeting, team);
          if (failure.let_go_on(scan.ok(), by.meets, team)) scan.run(call);
          else projection.abandon();
        });
  }
  return !failure;
}

template <class T> bool program_forward(const ProgramForward& call, Team& team) {
  const Network& net = call.net;
  const Buffer<T> scratch(call.hidden ? 0 : (net.L - 1) * net.rows * net.D * net.H);
  if (!scratch.ok()) return false;
  void* hidden = call.hidden ? call.hidden : static_cast<void*>(scratch);
  const ScanParts parts = scan_parts<T>(call, net.D, false, 1, team);
  const bool apart = !net.alive && net.B >= kLeastOfPart * parts.by.batch_parts;
  const KeptRows rows{apart ? parts.by.batch_parts : 1};
  if (void* told = told_parts(call)) *static_cast<T*>(told) = static_cast<T>(rows.parts);
  for (long l = 0; l < net.L; ++l) {
    const StepTensor x = l == 0 ? call.x : layer_output<T>(call, hidden, l - 1);
    if (!layer_forward<T>(call, parts, rows, l, x, layer_output<T>(call, hidden, l), team)) return false;
  }
  return true;
}

}  // namespace elman::ELMAN_TARGET
