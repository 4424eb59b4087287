// The kernels as Python calls them: one forward and one backward. Both take the operands themselves, inspect them
// (operands.h) and check them (contracts.h) before they are used. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>

#include <optional>

#include "contracts.h"
#include "operands.h"
#include "threads.h"

namespace nb = nanobind;

namespace elman {

void bind_machine(nb::module_& m);  // machine_binding.cpp
void bind_stream(nb::module_& m);   // stream_binding.cpp

const ExchangeApi*& exchange() {
  static const ExchangeApi* api = nullptr;
  return api;
}

Stack stack_of(const nb::tuple& stack) {
  check(stack.size() == 8, "a stack is told by 8 entries");
  const auto size = [&](std::size_t i) { return nb::cast<Long>(stack[i]); };
  return {nb::cast<const char*>(stack[0]), size(1), size(2), size(3), size(4), size(5), nb::cast<bool>(stack[6]),
      nb::cast<bool>(stack[7])};
}

namespace {

std::size_t count(nb::handle params) {
  return PyTuple_Check(params.ptr()) ? static_cast<std::size_t>(NB_TUPLE_GET_SIZE(params.ptr())) : 8;
}

using Index = std::size_t;
using Indices = Operands::Indices;

// The operands that every call begins with, added in this order.
struct Given {
  Indices params, initial, fresh;
  Index x, batch_sizes, lengths, reset;
  bool batch_first, pad_saved;

  Given(Operands& to, const Stack& stack, nb::handle params_, nb::handle x_, nb::handle initial_, nb::handle fresh_,
      nb::handle batch_sizes_, nb::handle lengths_, nb::handle reset_, bool batch_first_, bool pad_saved_)
      : params(to.add_all("parameter", params_, 0)), initial(to.add_all("initial state", initial_, stack.states())),
        fresh(to.add_all("fresh state", fresh_, stack.states())), x(to.add("x", x_)),
        batch_sizes(to.add_optional("batch_sizes", batch_sizes_)), lengths(to.add_optional("lengths", lengths_)),
        reset(to.add_optional("reset", reset_)), batch_first(batch_first_), pad_saved(pad_saved_) {}
  Inputs in(const Operands& o) const {
    return {o[x], o[batch_sizes], o[lengths], o[reset], o[params], o[initial], o[fresh], batch_first, pad_saved};
  }
  // The batch as it is now, for memory that is made for it; all operands are inspected again afterwards.
  Batch batch(Operands& o, Long columns) const {
    return {columns, o.inspect(x), o.inspect(batch_sizes), o.inspect(lengths), batch_first};
  }
};

// Makes memory like x for what a call writes, adds it to the operands, and remembers it.
struct Maker {
  Operands& o;
  nb::handle x;

  nb::object like_x(const Batch& batch, Long columns) const {
    if (batch.packed()) return make({batch.rows, columns});
    return batch.batch_first ? make({batch.B, batch.T, columns}) : make({batch.T, batch.B, columns});
  }
  nb::object make(std::initializer_list<Long> shape) const {
    if (PyObject_CheckBuffer(x.ptr())) throw Mismatch("expected memory for all results, got none, and an array as x");
    return allocate(x, shape);
  }
};

// Nothing runs Python from the inspection of the operands to the end of the run: what is checked is what is used. A
// short call holds Python's lock; a longer one gives it away, and so keeps the memory that it saw.
template <class Call> void run(const Contract& contract, const Call& call, Operands& o, int threads) {
  if (is_short(call)) return contract.run(*target(), call, threads);
  o.keep();
  nb::gil_scoped_release release;
  contract.run(*target(), call, threads);
}

// Runs a stack, and returns (output, final states, hidden, saved, checkpoints), of which the last three are for the
// backward pass: None but with `save`, and where there is no such thing. Each may be given as memory to write to; what
// is not given is made like x. With `grad_mode`: None, with nothing done, if a gradient flows to any operand.
nb::object forward(nb::tuple stack_, nb::handle params, nb::handle x, nb::handle initial, nb::handle fresh,
    nb::handle batch_sizes, nb::handle lengths, nb::handle reset, bool batch_first, bool pad_saved, int threads,
    nb::object output_, nb::object final_, nb::object hidden_, nb::object saved_, nb::object checkpoints_, bool save,
    bool grad_mode) {
  check(threads >= 1, "threads must be at least 1");
  const Stack stack = stack_of(stack_);
  Operands o;
  o.reserve(count(params) + 16);
  const Given given(o, stack, params, x, initial, fresh, batch_sizes, lengths, reset, batch_first, pad_saved);
  if (grad_mode && o.require_grad()) return nb::none();

  const bool makes_output = output_.is_none(), makes_final = final_.is_none();
  std::optional<Batch> batch;
  const Maker maker{o, x};
  if (makes_output || makes_final || save) batch.emplace(given.batch(o, stack.I));
  if (makes_output) output_ = maker.like_x(*batch, stack.out());
  const Index output = makes_output ? o.add_made("output", output_) : o.add("output", output_, true);
  Indices final;
  if (makes_final) {
    nb::object states[kMostStates];
    final = {output + 1, stack.states()};
    for (int s = 0; s < stack.cell.states; ++s) {
      states[s] = maker.make({stack.directions(), batch->B, stack.width(s)});
      o.add_made("final state", states[s], s);
    }
    final_ = stack.states() == 1 ? nb::make_tuple(states[0]) : nb::make_tuple(states[0], states[1]);
  } else {
    final = o.add_all("final state", final_, stack.states(), true);
  }
  bool made[3] = {};
  if (save && o[given.x].type != kBfloat16) {
    const Batch::Saved rows = batch->saved(pad_saved);
    const Long directions = stack.directions(), count = stack.cell.saved;
    if (hidden_.is_none() && stack.L > 1) hidden_ = maker.make({stack.L - 1, rows.rows, stack.out()}), made[0] = true;
    if (saved_.is_none() && count && !stack.recompute)
      saved_ = maker.make({directions, rows.rows, count, stack.H}), made[1] = true;
    if (checkpoints_.is_none() && count && stack.recompute && stack.states() > 1) {
      Network net{};
      net.cell = &stack.cell, net.H = stack.H, net.T = rows.T, net.B = rows.B;
      net.number = o[given.x].type == kFloat32 ? Number::f32 : Number::f64;
      checkpoints_ = maker.make({directions, number_of_checkpoints(net), rows.B, stack.H}), made[2] = true;
      if (pad_saved && !batch->lengths.empty())
        call(checkpoints_.ptr(), nb::str("zero_").ptr());  // the kernels write those that there are steps for
    }
  }
  const auto add = [&](const char* name, nb::object& object, bool made) {
    return made ? o.add_made(name, object) : o.add_optional(name, object, true);
  };
  const Index hidden = add("hidden", hidden_, made[0]), saved = add("saved", saved_, made[1]),
              checkpoints = add("checkpoints", checkpoints_, made[2]);
  o.inspect();
  Contract contract(stack, given.in(o), true);
  const Forward call = contract.forward({o[output], o[hidden], o[saved], o[checkpoints], o[final]});
  run(contract, call, o, threads);
  return nb::make_tuple(output_, final_, hidden_, saved_, checkpoints_);
}

// The gradients of a run: of x, of the initial states, of the fresh states and of the parameters, in a list in this
// order. What the forward pass took and gave comes first, then the gradients that arrive, None for zeros, then memory
// to write to. `needs_grad`, a tuple as long as that list, says instead which are needed, and they are made.
nb::object backward(nb::tuple stack_, nb::handle params, nb::handle x, nb::handle initial, nb::handle fresh,
    nb::handle batch_sizes, nb::handle lengths, nb::handle reset, bool batch_first, bool pad_saved, int threads,
    nb::handle output_, nb::handle hidden_, nb::handle saved_, nb::handle checkpoints_, nb::handle grad_output_,
    nb::handle grad_hidden_, nb::handle grad_saved_, nb::handle grad_final_, nb::handle grad_x_,
    nb::handle grad_initial_, nb::handle grad_fresh_, nb::handle grad_params_, nb::handle needs_grad) {
  check(threads >= 1, "threads must be at least 1");
  const Stack stack = stack_of(stack_);
  Operands o;
  o.reserve(2 * count(params) + 28);
  const Given given(o, stack, params, x, initial, fresh, batch_sizes, lengths, reset, batch_first, pad_saved);
  const Index output = o.add("output", output_), hidden = o.add_optional("hidden", hidden_),
              saved = o.add_optional("saved", saved_), checkpoints = o.add_optional("checkpoints", checkpoints_),
              grad_output = o.add_optional("output's gradient", grad_output_),
              grad_hidden = o.add_optional("hidden's gradient", grad_hidden_),
              grad_saved = o.add_optional("saved's gradient", grad_saved_);
  const Indices grad_final = grad_final_.is_none() ? Indices{Operands::kNone, stack.states()}
                                                   : o.add_all("gradient of final state", grad_final_, 0);
  nb::list found;
  Index grad_x;
  Indices grad_initial{Operands::kNone, stack.states()}, grad_fresh = grad_initial, grad_params;
  if (needs_grad.is_none()) {
    grad_x = o.add_optional("x's gradient", grad_x_, true);
    grad_initial = o.add_all("gradient of initial state", grad_initial_, stack.states(), true);
    grad_fresh = o.add_all("gradient of fresh state", grad_fresh_, stack.states(), true);
    grad_params = o.add_all("gradient of parameter", grad_params_, 0, true);
  } else {
    const Batch batch = given.batch(o, stack.I);
    const Maker maker{o, x};
    const auto needs = nb::cast<nb::tuple>(needs_grad);
    const std::size_t starts = initial.is_none() ? 0 : stack.states(), freshes = fresh.is_none() ? 0 : stack.states();
    const auto count = static_cast<std::size_t>(stack.count());
    if (needs.size() != 1 + starts + freshes + count)
      throw Mismatch("expected needs_grad for " + std::to_string(1 + starts + freshes + count) + " operands, got " +
          std::to_string(needs.size()));
    const auto add = [&](const char* name, auto make, Long index = -1) {
      found.append(needs[found.size()].is(Py_True) ? make() : nb::none());
      return o.add_made(name, found[found.size() - 1], index);
    };
    grad_x = add("x's gradient", [&] { return maker.like_x(batch, stack.I); });
    if (starts) grad_initial = {grad_x + 1, starts};
    if (freshes) grad_fresh = {grad_x + 1 + starts, freshes};
    grad_params = {grad_x + 1 + starts + freshes, count};
    for (std::size_t s = 0; s < starts; ++s)
      add("gradient of initial state",
          [&] { return maker.make({stack.directions(), batch.B, stack.width(static_cast<int>(s))}); });
    for (std::size_t s = 0; s < freshes; ++s)
      add("gradient of fresh state",
          [&] { return maker.make({stack.directions(), stack.width(static_cast<int>(s))}); });
    for (Long p = 0; p < stack.count(); ++p)
      add("gradient of parameter", [&] {
        const auto [rows, columns] = stack.shape(p / stack.each(), stack.place(p % stack.each()));
        return columns ? maker.make({rows, columns}) : maker.make({rows});
      });
  }
  o.inspect();
  Contract contract(stack, given.in(o), false);
  const Backward call = contract.backward({o[output], o[hidden], o[saved], o[checkpoints], o[grad_output],
      o[grad_hidden], o[grad_saved], o[grad_x], o[grad_final], o[grad_initial], o[grad_fresh], o[grad_params]});
  run(contract, call, o, threads);
  return found;
}

// Whether the kernels read these parameters as they lie; false, too, where that takes long to tell.
bool reads(nb::tuple stack, nb::handle params) {
  if (!exchange()) return false;
  Operands o;
  try {
    const Indices some = o.add_all("parameter", params, 0);
    o.inspect();
    check_parameters(stack_of(stack), o[some]);
    return true;
  } catch (const Mismatch&) {
    return false;
  } catch (const nb::builtin_exception&) {  // one is no plain tensor
    return false;
  }
}

}  // namespace
}  // namespace elman

NB_MODULE(_native, m) {
  using namespace elman;
  nb::exception<Mismatch>(m, "ContractError", PyExc_RuntimeError);
  m.def("know_tensors", [](nb::tuple classes) { plain_classes() = std::move(classes); });
  m.def("offer_exchange", [](nb::handle capsule) { exchange() = exchange_api(capsule); });
  m.def("reads", &reads);
  const auto any = nb::arg().none();
  const auto may = [](const char* name) { return nb::arg(name).none() = nb::none(); };
  m.def("forward", &forward, any, any, any, any, any, any, any, any, any, any, any, may("output"), may("final"),
      may("hidden"), may("saved"), may("checkpoints"), nb::arg("save") = false, nb::arg("grad_mode") = false);
  m.def("backward", &backward, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any,
      may("grad_output"), may("grad_hidden"), may("grad_saved"), may("grad_final"), may("grad_x"), may("grad_initial"),
      may("grad_fresh"), may("grad_params"), may("needs_grad"));
  bind_machine(m);
  bind_stream(m);
}
