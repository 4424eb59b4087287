#include "run.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "../threads.h"

namespace elman {
namespace {

// Multiply-adds of a forward pass, all else counted in.
double multiply_adds(const Program& program, const ProgramCall& call) {
  const Network& net = call.net;
  const Plan& plan = *call.plan;
  const auto of = [](std::int64_t n) { return static_cast<double>(n); };
  const double inputs = of(net.I) + of((net.L - 1) * net.D * net.H);
  const double unit = plan.inputs * inputs + of(net.L) * (plan.recurrents * of(net.H) + program.weight());
  return of(net.rows) * of(net.D * net.H) * unit;
}

std::uint64_t kind_of(const Program& program, const ProgramCall& call, std::uint64_t pass) {
  const Network& net = call.net;
  std::uint64_t kind = 1 + pass;  // apart from those of built-in cells, whose number is there
  kind = kind * 4096 + static_cast<std::uint64_t>(program.number() % 4096);
  for (const std::int64_t exact : {static_cast<std::int64_t>(net.number), net.D, std::min<std::int64_t>(net.L, 15)})
    kind = kind * 16 + static_cast<std::uint64_t>(exact);
  for (const std::int64_t size : {net.rows, net.B, net.I + 1, net.H}) kind = kind * 128 + octaves(size);
  return kind;
}

// Of sequences without a step, the states after are those before.
void pass_on(const ProgramCall& call, const void* from, void* to, const Ragged& ragged) {
  const std::size_t bytes = static_cast<std::size_t>(call.net.H * element_size(call.net.number));
  for (std::int64_t d = 0; to && d < call.net.L * call.net.D; ++d)
    for (std::int64_t b = 0; b < call.batch; ++b) {
      if (!ragged.is_empty(b)) continue;
      const std::size_t at = static_cast<std::size_t>(d * call.batch + b) * bytes;
      if (from) std::memcpy(static_cast<char*>(to) + at, static_cast<const char*>(from) + at, bytes);
      else std::memset(static_cast<char*>(to) + at, 0, bytes);
    }
}

template <class Call>
void run(const Program& program, const Call& call, int threads, bool (*kernel)(const Call&, Team&)) {
  if (call.net.rows == 0) return;
  bool ok = true;
  on_a_team(
      work(program, call), [&] { return kind(program, call); }, threads, [&](Team& team) { ok = kernel(call, team); });
  if (!ok) throw std::bad_alloc();
}

}  // namespace

double work(const Program& program, const ProgramForward& call) { return multiply_adds(program, call); }
double work(const Program& program, const ProgramBackward& call) { return 2 * multiply_adds(program, call); }
std::uint64_t kind(const Program& program, const ProgramForward& call) {
  return kind_of(program, call, call.kept || call.hidden ? 1 : 0);
}
std::uint64_t kind(const Program& program, const ProgramBackward& call) {
  return kind_of(program, call, call.grad_x.data ? 3 : 2);
}

void run(const Target& target, const Program& program, const ProgramForward& call, const Ragged& ragged, int threads) {
  const Network& net = call.net;
  const Plan& plan = *call.plan;
  const std::int64_t width = net.D * net.H;
  run(program, call, threads, target.program_forward);
  ragged.clear_padding(net.number, call.output, width);
  if (net.padded_rows)
    ragged.clear_padding(
        net.number, {call.hidden, call.batch * width, width}, width, net.L - 1, net.padded_rows * width);
  for (int s = 0; s < plan.states; ++s) pass_on(call, call.initial[s], call.final[s], ragged);
  for (int i = 0; call.traced && i < plan.states - 1 + plan.gates; ++i)
    ragged.clear_padding(net.number, call.traced[i].first, net.H, net.L * net.D, call.traced[i].direction);
}

void run(const Target& target, const Program& program, const ProgramBackward& call, const Ragged& ragged, int threads) {
  const Network& net = call.net;
  const Plan& plan = *call.plan;
  run(program, call, threads, target.program_backward);
  ragged.clear_padding(net.number, call.grad_x, net.I);
  for (int k = 0; k < plan.step_inputs; ++k)
    ragged.clear_padding(net.number, call.grad_step_inputs[k].first, plan.step_input_is_vector[k] ? net.H : 1,
        net.L * net.D, call.grad_step_inputs[k].direction);
  for (int s = 0; s < plan.states; ++s) pass_on(call, call.grad_final[s], call.grad_initial[s], ragged);
  if (net.rows > 0) return;
  const auto clear = [&](void* to, std::int64_t count) {
    if (to) std::memset(to, 0, static_cast<std::size_t>(count * element_size(net.number)));
  };
  for (std::int64_t d = 0; d < net.L * net.D; ++d) {
    const ProgramGradients& g = call.gradients[d];
    clear(g.w_ih, plan.inputs * net.H * (d < net.D ? net.I : net.D * net.H)),
        clear(g.w_hh, plan.recurrents * net.H * net.H);
    clear(g.b_ih, plan.inputs * net.H), clear(g.b_hh, plan.recurrents * net.H);
    for (int p = 0; p < plan.owns; ++p) clear(g.own[p], plan.own_is_vector[p] ? net.H : 1);
  }
  for (int s = 0; s < plan.states; ++s) clear(call.grad_fresh[s], net.L * net.D * net.H);
}

}  // namespace elman
