// Programs as Python calls them: made once, then run forward and backward, like a built-in stack (binding.cpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "operands.h"
#include "program/contract.h"

namespace elman {
namespace {

CodeText text_of(const nb::tuple& code) {
  check(code.size() == 6, "a code is told by 6 entries");
  return {nb::cast<std::vector<std::array<int, 5>>>(code[0]), nb::cast<std::vector<std::array<int, 2>>>(code[1]),
      nb::cast<std::vector<double>>(code[2]), nb::cast<std::vector<std::array<int, 2>>>(code[3]),
      nb::cast<int>(code[4]), nb::cast<int>(code[5])};
}

// Python holds a program as a capsule, since what is cached may outlive all modules.
constexpr const char* kProgram = "elman.program";

nb::object make_program(nb::tuple infer, nb::tuple train, nb::tuple backward,
    const std::vector<std::vector<int>>& products, std::array<int, 6> counts, const std::vector<bool>& own,
    const std::vector<bool>& step_inputs) {
  const auto [inputs, recurrents, states, draws, gates, saved] = counts;
  const Program::Counts all{inputs, recurrents, states, draws, gates, saved};
  auto made =
      std::make_unique<Program>(text_of(infer), text_of(train), text_of(backward), products, all, own, step_inputs);
  return nb::capsule(made.release(), kProgram, [](void* program) noexcept { delete static_cast<Program*>(program); });
}
const Program& program_in(nb::handle capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), kProgram))
    throw nb::type_error((std::string("expected a program, got ") + nb::inst_name(capsule).c_str()).c_str());
  return *static_cast<const Program*>(PyCapsule_GetPointer(capsule.ptr(), kProgram));
}

// The names of the instructions that run at each step: forward in inference, in training, and backward.
std::vector<std::vector<std::string>> program_operations(nb::handle program) {
#define ELMAN_TEXT(name, ...) #name,
  constexpr const char* names[] = {ELMAN_OPS(ELMAN_TEXT) ELMAN_FUSIONS(ELMAN_TEXT)};
#undef ELMAN_TEXT
  const Plan& plan = program_in(program).plan();
  std::vector<std::vector<std::string>> found;
  for (const Code* code : {&plan.infer, &plan.train, &plan.backward}) {
    found.emplace_back();
    for (int i = code->stages[0]; i < code->stages[code->stage_count]; ++i)
      found.back().push_back(names[static_cast<int>(code->instructions[i].op)]);
  }
  return found;
}

struct ProgramRun : Invocation<ProgramStack, ProgramContract> {
  ProgramRun(nb::handle program, const nb::tuple& numbers, nb::handle params, nb::handle x, nb::handle initial,
      nb::handle fresh, nb::handle lengths, nb::handle reset, nb::handle step_inputs, nb::handle draws,
      bool batch_first, bool padded, int threads)
      : Invocation(stack_of(program_in(program), numbers), params, x, initial, fresh, nb::none(), lengths, reset,
            batch_first, padded, threads) {
    operands.add_all(kStepInputs, step_inputs), operands.add_all(kDraws, draws);
  }

 private:
  static ProgramStack stack_of(const Program& program, const nb::tuple& numbers) {
    check(numbers.size() == 10, "a stack is told by 10 entries");
    const auto size = [&](std::size_t i) { return nb::cast<Long>(numbers[i]); };
    check(size(3) == 0, "a program's output is not projected");
    return {program, size(1), size(2), size(4), size(5), nb::cast<bool>(numbers[6]), nb::cast<bool>(numbers[7]),
        size(8), size(9)};
  }
};

// Runs a program, and returns (output, final states, hidden, kept), of which the last two are for the backward pass:
// None but with `save`, and where there is no such thing. With `traced`, memory for the states but the first and the
// gates of each step, output and hidden are given too, and all steps of hidden are there. With `grad_mode`, `save` is
// whether a gradient flows to any operand, and comes last.
nb::object program_forward(nb::handle program, nb::tuple numbers, nb::handle params, nb::handle x, nb::handle initial,
    nb::handle fresh, nb::handle lengths, nb::handle reset, nb::handle step_inputs, nb::handle draws, bool batch_first,
    int threads, bool save, bool grad_mode, nb::object output, nb::object hidden, nb::handle traced) {
  ProgramRun call(program, numbers, params, x, initial, fresh, lengths, reset, step_inputs, draws, batch_first,
      !traced.is_none(), threads);
  Operands& o = call.operands;
  save = save || (grad_mode && o.require_grad());
  const ProgramStack& stack = call.stack;
  const Batch batch = call.batch();
  if (output.is_none()) output = call.make(kOutput, batch.shape(stack.out()));
  else o.add(kOutput, output, true);
  const Plan& plan = stack.plan();
  const int states = plan.states;
  const nb::object final = returned(PyTuple_New(states));
  for (int s = 0; s < states; ++s)
    NB_TUPLE_SET_ITEM(final.ptr(), s, call.make(kFinal, {stack.directions(), batch.B, stack.H}, s).release().ptr());
  const Long rows = batch.saved(false).rows;
  nb::object kept = nb::none();
  if (!hidden.is_none()) o.add(kHidden, hidden, true);
  else if (save && stack.L > 1) hidden = call.make(kHidden, {stack.L - 1, rows, stack.out()});
  if (save) {
    product({stack.directions(), rows, stack.H, plan.saved + plan.products + states});
    Network net{};
    net.number = o[kX].type == kFloat64 ? Number::f64 : Number::f32;
    net.rows = rows, net.H = stack.H, net.L = stack.L, net.D = stack.D;
    kept = call.make(kSaved, {kept_size(plan, stack.recompute, net)});
  }
  o.add_all(kTraced, traced, true);
  call.run(&ProgramContract::forward);
  if (grad_mode) return nb::make_tuple(output, final, hidden, kept, save);
  return nb::make_tuple(output, final, hidden, kept);
}

// The gradients of a run: of x, of the initial states, of the fresh states, of the step inputs, where there are several
// directions those of each, and of the parameters, in a list in this order, where `needs_grad`, a tuple as long, is
// True. What the forward pass took and gave comes first, then the gradients that arrive, None for zeros.
nb::object program_backward(nb::handle program, nb::tuple numbers, nb::handle params, nb::handle x, nb::handle initial,
    nb::handle fresh, nb::handle lengths, nb::handle reset, nb::handle step_inputs, nb::handle draws, bool batch_first,
    int threads, nb::handle output, nb::handle hidden, nb::handle kept, nb::handle grad_output, nb::handle grad_hidden,
    nb::handle grad_final, nb::handle grad_traced, bool padded, nb::tuple needs_grad) {
  ProgramRun call(
      program, numbers, params, x, initial, fresh, lengths, reset, step_inputs, draws, batch_first, padded, threads);
  Operands& o = call.operands;
  o.add(kOutput, output), o.add(kHidden, hidden), o.add(kSaved, kept);
  o.add(kGradOutput, grad_output), o.add(kGradHidden, grad_hidden);
  o.add_all(kGradFinal, grad_final), o.add_all(kGradTraced, grad_traced);
  const ProgramStack& stack = call.stack;
  const Plan& plan = stack.plan();
  const Batch batch = call.batch();
  const Long directions = stack.directions(), each = stack.each();
  const Long starts = initial.is_none() ? 0 : plan.states, freshes = fresh.is_none() ? 0 : plan.states;
  const Long count = 1 + starts + freshes + plan.step_inputs + directions * each;
  if (static_cast<Long>(needs_grad.size()) != count)
    throw Mismatch("needs_grad for ", count, " operands, got ", needs_grad.size());
  keep_freed_memory();  // of a step of training, which others follow
  nb::list gradients;
  const auto make = [&](Role role, const Shape& shape, Long index = -1) {
    gradients.append(call.make(role, shape, index, needs_grad[gradients.size()].is(Py_True)));
  };
  make(kGradX, batch.shape(stack.I));
  for (int s = 0; s < starts; ++s) make(kGradInitial, {directions, batch.B, stack.H}, s);
  for (int s = 0; s < freshes; ++s) make(kGradFresh, {directions, stack.H}, s);
  for (int k = 0; k < plan.step_inputs; ++k)
    make(kGradStepInputs, stack.step_input(batch, plan.step_input_is_vector[k], true), k);
  Long index = 0;
  for (Long d = 0; d < directions; ++d) {
    for (int place = 0; place < ProgramStack::kWeights; ++place)
      if (stack.has(place)) make(kGradParams, stack.shape(d, place), index++);
    for (int p = 0; p < plan.owns; ++p) make(kGradParams, stack.shape(d, ProgramStack::kWeights + p), index++);
  }
  call.run(&ProgramContract::backward);
  return gradients;
}

}  // namespace

void bind_program(nb::module_& m) {
  m.def("program", &make_program);
  m.def("program_operations", &program_operations);
  const auto any = nb::arg().none();
  const auto may = [](const char* name) { return nb::arg(name).none() = nb::none(); };
  m.def("program_forward", &program_forward, nb::arg(), any, any, any, any, any, any, any, any, any, any, any, any, any,
      may("output"), may("hidden"), may("traced"));
  m.def("program_backward", &program_backward, nb::arg(), any, any, any, any, any, any, any, any, any, any, any, any,
      any, any, any, any, any, any, any, any);
}

}  // namespace elman
