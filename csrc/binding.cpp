// The kernels as Python calls them, which check every operand before it is used. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>

#include <exception>
#include <new>

#include "contracts.h"
#include "operands.h"

namespace elman {

void bind_commands(nb::module_& m);  // commands_binding.cpp
void bind_machine(nb::module_& m);   // machine_binding.cpp
void bind_program(nb::module_& m);   // program_binding.cpp
void bind_stream(nb::module_& m);    // stream_binding.cpp

Stack stack_of(const nb::tuple& stack) {
  check(stack.size() == 10, "a stack is told by 10 entries");
  const auto size = [&](std::size_t i) { return nb::cast<Long>(stack[i]); };
  return {nb::cast<const char*>(stack[0]), size(1), size(2), size(3), size(4), size(5), nb::cast<bool>(stack[6]),
      nb::cast<bool>(stack[7]), size(8), size(9)};
}

namespace {

using Run = Invocation<Stack, Contract>;

// Runs a stack, and returns (output, final states, hidden, saved, checkpoints), the last three for the backward pass:
// None but with `save`, and where there is no such thing. Each may be given as memory to write to. With `grad_mode`,
// `save` is whether a gradient flows to any operand, and comes last. A single step's output is its first final state,
// but with `save`: there it has memory of its own, into which nobody else writes.
nb::object forward(nb::tuple stack_, nb::handle params, nb::handle x, nb::handle initial, nb::handle fresh,
    nb::handle batch_sizes, nb::handle lengths, nb::handle reset, bool batch_first, bool pad_saved, int threads,
    nb::object output, nb::object final, nb::object hidden, nb::object saved, nb::object checkpoints, bool save,
    bool grad_mode) {
  Run call(stack_of(stack_), params, x, initial, fresh, batch_sizes, lengths, reset, batch_first, pad_saved, threads);
  Operands& o = call.operands;
  save = save || (grad_mode && o.require_grad());
  const Stack& stack = call.stack;
  const Batch batch = call.batch();
  const Batch::Saved rows = batch.saved(pad_saved);
  const Long directions = stack.directions(), count = stack.cell.saved;
  const auto write_to = [&](Role role, nb::object& given, bool needed, const Shape& shape, bool wide = false) {
    if (!given.is_none()) o.add(role, given, true);
    else if (needed) given = call.make(role, shape, -1, true, wide);
  };
  write_to(kOutput, output, save || !stack.left_out, batch.shape(stack.out()));
  if (final.is_none()) {
    nb::object states[kMostStates];
    for (int s = 0; s < stack.cell.states; ++s) states[s] = call.make(kFinal, {directions, batch.B, stack.width(s)}, s);
    final = stack.states() == 1 ? nb::make_tuple(states[0]) : nb::make_tuple(states[0], states[1]);
  } else {
    o.add_all(kFinal, final, true);
  }
  const bool wide = o[kX].type == kBfloat16;
  write_to(kHidden, hidden, save && stack.L > 1, {stack.L - 1, rows.rows, stack.out()});
  write_to(kSaved, saved, save && count && !stack.recompute, {directions, rows.rows, count, stack.H}, wide);
  if (save && checkpoints.is_none() && count && stack.recompute && stack.states() > 1) {
    Network net{};
    net.cell = &stack.cell, net.H = stack.H, net.T = rows.T, net.B = rows.B;
    net.number = number_of(o[kX], true);
    checkpoints = call.make(kCheckpoints, {directions, number_of_checkpoints(net), rows.B, stack.H}, -1, true, wide);
    if (pad_saved && !batch.lengths.empty())
      elman::call(checkpoints.ptr(), nb::str("zero_").ptr());  // the kernels write those that there are steps for
  } else {
    o.add(kCheckpoints, checkpoints, true);
  }
  call.run(&Contract::forward);
  if (output.is_none()) output = final[0];
  if (grad_mode) return nb::make_tuple(output, final, hidden, saved, checkpoints, save);
  return nb::make_tuple(output, final, hidden, saved, checkpoints);
}

// The gradients of a run: of x, of the initial states, of the fresh states and of the parameters, in a list in this
// order. What the forward pass took and gave comes first, then the gradients that arrive, None for zeros, then memory
// to write to. `needs_grad`, a tuple as long as that list, says instead which are needed, and they are made. It may be
// longer by one: the last entry stands for the gate gradients, (L·D, saved rows, ...).
nb::object backward(nb::tuple stack_, nb::handle params, nb::handle x, nb::handle initial, nb::handle fresh,
    nb::handle batch_sizes, nb::handle lengths, nb::handle reset, bool batch_first, bool pad_saved, int threads,
    nb::handle output, nb::handle hidden, nb::handle saved, nb::handle checkpoints, nb::handle grad_output,
    nb::handle grad_hidden, nb::handle grad_saved, nb::handle grad_final, nb::handle grad_x, nb::handle grad_initial,
    nb::handle grad_fresh, nb::handle grad_params, nb::handle needs_grad) {
  Run call(stack_of(stack_), params, x, initial, fresh, batch_sizes, lengths, reset, batch_first, pad_saved, threads);
  Operands& o = call.operands;
  o.add(kOutput, output), o.add(kHidden, hidden), o.add(kSaved, saved), o.add(kCheckpoints, checkpoints);
  o.add(kGradOutput, grad_output), o.add(kGradHidden, grad_hidden), o.add(kGradSaved, grad_saved);
  o.add_all(kGradFinal, grad_final);
  nb::list gradients;
  if (needs_grad.is_none()) {
    o.add(kGradX, grad_x, true), o.add_all(kGradInitial, grad_initial, true);
    o.add_all(kGradFresh, grad_fresh, true), o.add_all(kGradParams, grad_params, true);
  } else {
    keep_freed_memory();  // of a step of training, which others follow
    const Stack& stack = call.stack;
    const Batch batch = call.batch();
    const auto needs = nb::cast<nb::tuple>(needs_grad);
    const Long directions = stack.directions(), states = stack.cell.states;
    const Long starts = initial.is_none() ? 0 : states, freshes = fresh.is_none() ? 0 : states;
    const Long count = 1 + starts + freshes + stack.count(), given = static_cast<Long>(needs.size());
    if (given != count && given != count + 1) throw Mismatch("needs_grad for ", count, " operands, got ", given);
    const auto make = [&](Role role, const Shape& shape, Long index = -1) {
      gradients.append(call.make(role, shape, index, needs[gradients.size()].is(Py_True)));
    };
    make(kGradX, batch.shape(stack.I));
    for (int s = 0; s < starts; ++s) make(kGradInitial, {directions, batch.B, stack.width(s)}, s);
    for (int s = 0; s < freshes; ++s) make(kGradFresh, {directions, stack.width(s)}, s);
    for (Long p = 0; p < stack.count(); ++p)
      make(kGradParams, stack.shape(p / stack.each(), stack.place(p % stack.each())), p);
    if (given > count)
      make(kGradGates, {directions, batch.saved(pad_saved).rows, grad_gates_width(stack.cell, stack.H)});
  }
  call.run(&Contract::backward);
  return gradients;
}

// Whether these parameters are plain tensors of these shapes and of one type, which the kernels read as they lie;
// false, too, where that takes long to tell.
bool reads(nb::tuple shapes, nb::handle params) {
  if (!exchange) return false;
  Operands o;
  try {
    o.add_all(kParams, params), o.inspect();
    const Views all = o.all(kParams);
    if (o.has_arrays() || all.empty() || all.size() != shapes.size()) return false;
    number_of(all[0], true);
    Ranges found;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto sizes = nb::cast<nb::tuple>(shapes[i]);
      Shape shape;
      check(sizes.size() <= kMostAxes, "a parameter has too many axes");
      for (nb::handle size : sizes) shape[shape.axes++] = nb::cast<Long>(size);
      expect(all[i], shape, all[0].type);
      take(all[i], dense_elements(all[i]), found);
    }
    return true;
  } catch (const std::runtime_error&) {  // a Mismatch, or of nanobind's: one is no plain tensor
    return false;
  }
}

}  // namespace
}  // namespace elman

NB_MODULE(_native, m) {
  using namespace elman;
  nb::set_leak_warnings(false);  // at exit torch may hold a graph, and so what a call has kept: not nanobind's to judge
  nb::exception<Mismatch>(m, "ContractError", PyExc_RuntimeError);
  nb::register_exception_translator(
      [](const std::exception_ptr& error, void*) {
        try {
          std::rethrow_exception(error);
        } catch (const std::bad_alloc&) {
          PyErr_SetString(PyExc_MemoryError,
              "not enough memory for the values that a call computes on its way: use a smaller batch, shorter "
              "sequences (elman.chunks) or recompute=True");
        }
      },
      nullptr);
  m.def("know_tensors", [](nb::tuple classes) { plain_classes() = std::move(classes); });
  m.def("offer_exchange", [](nb::handle capsule) { exchange = exchange_api(capsule); });
  m.def("reads", &reads);
  const auto any = nb::arg().none();
  const auto may = [](const char* name) { return nb::arg(name).none() = nb::none(); };
  m.def("forward", &forward, any, any, any, any, any, any, any, any, any, any, any, may("output"), may("final"),
      may("hidden"), may("saved"), may("checkpoints"), nb::arg("save") = false, nb::arg("grad_mode") = false);
  m.def("backward", &backward, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any,
      may("grad_output"), may("grad_hidden"), may("grad_saved"), may("grad_final"), may("grad_x"), may("grad_initial"),
      may("grad_fresh"), may("grad_params"), may("needs_grad"));
  for (const auto bind : {bind_commands, bind_machine, bind_program, bind_stream}) bind(m);
}
