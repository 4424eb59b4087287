// How the scan of a layer is divided among threads.
#pragma once

#include "input_projection.h"

namespace elman::ELMAN_TARGET {

// Splitting a step's columns repays a barrier where a thread has so many multiply-adds, and so many for a second of it.
constexpr long kLeastPart = 6'000;
constexpr double kPerBarrierSecond = 100e9;

// By sequences (no barrier) as far as there are any, else by columns of each step, where all threads then meet.
struct Division {
  long batch_parts, column_parts;
  bool meets = false;
};
inline Division divide(const Network& net, long units, long groups, Team& team) {
  const int threads = team.threads();
  const long batch_parts = min(threads, net.B);
  if (net.D * batch_parts >= threads) return {batch_parts, 1};
  const long part = net.B * units * net.H / threads;
  const bool columns = groups >= threads && part >= kLeastPart &&
      static_cast<double>(part) >= kPerBarrierSecond * team.barrier_seconds();
  return columns ? Division{1, threads, true} : Division{batch_parts, 1};
}

// The first sequence of the i-th of `parts` parts with about as many steps each.
inline long first_sequence(const Network& net, long i, long parts) {
  if (!net.alive || i == 0 || i == parts) return net.B * i / parts;
  long b = 0, steps = 0;
  for (long t = net.T; t-- > 0;)  // the longest come first
    for (; b < net.alive[t]; ++b, steps += t + 1)
      if (steps * parts >= net.rows * i) return b;
  return b;
}
inline StepOrder batch_part(const StepOrder& all, long i, long parts) {
  return {all.net, all.reverse, first_sequence(all.net, i, parts), first_sequence(all.net, i + 1, parts)};
}

// f(direction, part of the sequences, part of the columns) for all parts of some directions.
template <class F> void each_part(const Division& by, long directions, Team& team, F f) {
  const long parts = by.batch_parts * by.column_parts, together = by.meets ? 1 : directions;
  for (long d = 0; d < directions; d += together)
    team.each(together * parts,
        [&](std::int64_t i) { f(d + i / parts, i % parts / by.column_parts, i % parts % by.column_parts); });
}

// scan(order, direction, projection, part of the columns, of how many) for all parts of a layer's directions, whose
// weights these are, of so many vectors of units. Threads to spare project ahead.
template <class Weights, class F> void scan_layer(const Network& net, const Division& by, const Weights* const* weights,
    long groups, const StepTensor& x, const Wavefront& wavefront, Team& team, F scan) {
  const StepOrder orders[] = {{net, false, 0, net.B}, {net, true, 0, net.B}};
  if (by.batch_parts * by.column_parts > 1 || team.threads() < 2 * net.D)
    return each_part(by, net.D, team, [&](long d, long batch, long part) {
      const StepOrder order = batch_part(orders[d], batch, by.batch_parts);
      const long from = groups * part / by.column_parts, to = groups * (part + 1) / by.column_parts;
      InputProjection projection(order, *weights[d], x, 0, net.T, from, to, false, wavefront);
      scan(order, d, projection, part, by.column_parts);
    });
  InputProjection<Weights> projections[] = {{orders[0], *weights[0], x, 0, net.T, 0, groups, true},
      {orders[1], *weights[1], x, 0, net.D == 2 ? net.T : 0, 0, groups, true}};
  team.each(2 * net.D, [&](std::int64_t i) {
    const long d = i % net.D;
    if (i < net.D) scan(orders[d], d, projections[d], 0, 1);
    else if (projections[d].ok()) projections[d].run_ahead();
  });
}

}  // namespace elman::ELMAN_TARGET
