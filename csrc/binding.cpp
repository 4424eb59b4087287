// Python's door to the kernels. It takes the operands themselves, and looks at them (exchange.h) and checks them
// (contracts.h) before they are used. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "exchange.h"
#include "processors.h"
#include "threads.h"
#include "tuner.h"

namespace nb = nanobind;

namespace elman {

void bind_stream(nb::module_& m);  // stream_binding.cpp

const ExchangeApi*& exchange() {
  static const ExchangeApi* api = nullptr;
  return api;
}

namespace {

// What is run, from Python's tuple (cell, I, H, P, L, D, bias): P is 0 without a projection.
What what_of(const nb::tuple& what) {
  check(what.size() == 7, "what is run takes 7 entries");
  const auto size = [&](std::size_t i) { return nb::cast<Long>(what[i]); };
  return {nb::cast<int>(what[0]), size(1), size(2), size(3), size(4), size(5), nb::cast<bool>(what[6])};
}

// The kernels run no network without units; it is nothing wrong, though.
bool has_no_units(const nb::tuple& what) { return what.size() == 7 && nb::cast<Long>(what[2]) == 0; }

using One = std::size_t;
using Some = Operands::Some;

// The operands that every call begins with, added in this order.
struct Given {
  Some params, initial, fresh;
  One x, batch_sizes, lengths, reset;
  bool batch_first, pad_saved = false;

  Given(Operands& to, const What& what, nb::handle params_, nb::handle x_, nb::handle initial_, nb::handle fresh_,
      nb::handle batch_sizes_, nb::handle lengths_, nb::handle reset_, bool batch_first_, bool kept_padded_)
      : params(to.add_all("parameter", params_, 0)), initial(to.add_all("initial state", initial_, states(what))),
        fresh(to.add_all("fresh state", fresh_, states(what))), x(to.add("x", x_)),
        batch_sizes(to.add("batch_sizes", batch_sizes_)), lengths(to.add("lengths", lengths_)),
        reset(to.add("reset", reset_)), batch_first(batch_first_), pad_saved(kept_padded_) {}
  Given(Operands& to, const What& what, nb::handle params_, nb::handle x_, nb::handle initial_, bool batch_first_)
      : params(to.add_all("parameter", params_, 0)), initial(to.add_all("initial state", initial_, states(what))),
        fresh(Operands::kNone, states(what)), x(to.add("x", x_)), batch_sizes(Operands::kNone),
        lengths(Operands::kNone), reset(Operands::kNone), batch_first(batch_first_) {}
  static std::size_t states(const What& what) { return static_cast<std::size_t>(what.states()); }
  Inputs in(const Operands& o) const {
    return {o[x], o[batch_sizes], o[lengths], o[reset], o[params], o[initial], o[fresh], batch_first, pad_saved};
  }
};

// Nothing runs Python from the look at the operands to the end of the run: what is checked is what is used. A short
// call holds Python's lock; a longer one gives it away, and so keeps the memory that it looked at.
template <class Call> void run(const Contract& contract, const Call& call, Operands& o, int threads) {
  if (is_short(call)) return contract.run(*target(), call, threads);
  o.keep();
  nb::gil_scoped_release release;
  contract.run(*target(), call, threads);
}

void run_forward(const What& what, Operands& o, const Given& given, One output, Some final, One hidden, One saved,
    One checkpoints, int threads) {
  check(threads >= 1, "threads must be at least 1");
  o.look();
  Contract contract(what, given.in(o), true);
  const Forward call = contract.forward({o[output], o[hidden], o[saved], o[checkpoints], o[final]});
  run(contract, call, o, threads);
}

void forward(nb::tuple what_, nb::handle params, nb::handle x, nb::handle initial, nb::handle fresh,
    nb::handle batch_sizes, nb::handle lengths, nb::handle reset, bool batch_first, bool pad_saved, int threads,
    nb::handle output, nb::handle final, nb::handle hidden, nb::handle saved, nb::handle checkpoints) {
  const What what = what_of(what_);
  Operands o;
  const Given given(o, what, params, x, initial, fresh, batch_sizes, lengths, reset, batch_first, pad_saved);
  const One to = o.add("output", output, true);
  const Some ends = o.add_all("final state", final, Given::states(what), true);
  const One lower = o.add("hidden", hidden, true), steps = o.add("saved", saved, true),
            marked = o.add("checkpoints", checkpoints, true);
  run_forward(what, o, given, to, ends, lower, steps, marked, threads);
}

struct Results {  // of a run and of its gradient
  One output, hidden, saved, checkpoints, grad_output, grad_hidden, grad_saved, grad_x;
  Some grad_final, grad_initial, grad_fresh, grad_params;
};

void run_backward(const What& what, Operands& o, const Given& given, const Results& r, int threads) {
  check(threads >= 1, "threads must be at least 1");
  o.look();
  Contract contract(what, given.in(o), false);
  const Backward call =
      contract.backward({o[r.output], o[r.hidden], o[r.saved], o[r.checkpoints], o[r.grad_output], o[r.grad_hidden],
          o[r.grad_saved], o[r.grad_x], o[r.grad_final], o[r.grad_initial], o[r.grad_fresh], o[r.grad_params]});
  run(contract, call, o, threads);
}

void backward(nb::tuple what_, nb::handle params, nb::handle x, nb::handle initial, nb::handle fresh,
    nb::handle batch_sizes, nb::handle lengths, nb::handle reset, bool batch_first, bool pad_saved, int threads,
    nb::handle output, nb::handle hidden, nb::handle saved, nb::handle checkpoints, nb::handle grad_output,
    nb::handle grad_hidden, nb::handle grad_saved, nb::handle grad_final, nb::handle grad_x, nb::handle grad_initial,
    nb::handle grad_fresh, nb::handle grad_params) {
  const What what = what_of(what_);
  Operands o;
  const Given given(o, what, params, x, initial, fresh, batch_sizes, lengths, reset, batch_first, pad_saved);
  const auto all = [&](const char* name, nb::handle from, bool written) {
    return o.add_all(name, from, Given::states(what), written);
  };
  const Results results{o.add("output", output), o.add("hidden", hidden), o.add("saved", saved),
      o.add("checkpoints", checkpoints), o.add("output's gradient", grad_output),
      o.add("hidden's gradient", grad_hidden), o.add("saved's gradient", grad_saved),
      o.add("x's gradient", grad_x, true), all("gradient of final state", grad_final, false),
      all("gradient of initial state", grad_initial, true), all("gradient of fresh state", grad_fresh, true),
      o.add_all("gradient of parameter", grad_params, 0, true)};
  run_backward(what, o, given, results, threads);
}

// --- The usual call, in one step
// --------------------------------------------------------------------------------------

bool is_plain(nb::handle tensor, const nb::tuple& classes) {  // a subclass may mean anything by its operations
  for (nb::handle known : classes)
    if (reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) == known.ptr()) return true;
  return false;
}

// The same of all in a tuple, for which None may stand; or, with `nones`, for those in it.
bool are_plain(nb::handle tensors, const nb::tuple& classes, bool nones = false) {
  if (tensors.is_none()) return true;
  if (!PyTuple_Check(tensors.ptr())) return false;
  for (nb::handle t : nb::borrow<nb::tuple>(tensors))
    if (!(nones && t.is_none()) && !is_plain(t, classes)) return false;
  return true;
}

bool requires_grad(nb::handle tensor) {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  const nb::object value = nb::steal(PyObject_GetAttr(tensor.ptr(), name));
  if (!value.is_valid()) throw nb::python_error();
  return value.is(Py_True);
}

// Uninitialised, as torch would make it for `like`, so that its modes and hooks see it. What it gave is looked at with
// the other operands.
nb::object allocate(nb::handle like, std::initializer_list<Long> shape) {
  static PyObject* const new_empty_strided =
      PyUnicode_InternFromString("new_empty_strided");  // of torch's ways the one that costs least
  const auto size = static_cast<Py_ssize_t>(shape.size());
  const nb::object sizes = nb::steal(PyTuple_New(size)), strides = nb::steal(PyTuple_New(size));
  if (!sizes.is_valid() || !strides.is_valid()) throw nb::python_error();
  Long stride = 1;
  for (Py_ssize_t d = size; d-- > 0; stride = product({stride, shape.begin()[d]})) {
    PyTuple_SET_ITEM(sizes.ptr(), d, PyLong_FromLongLong(shape.begin()[d]));
    PyTuple_SET_ITEM(strides.ptr(), d, PyLong_FromLongLong(stride));
  }
  PyObject* arguments[] = {like.ptr(), sizes.ptr(), strides.ptr()};
  nb::object made = nb::steal(PyObject_VectorcallMethod(new_empty_strided, arguments, 3, nullptr));
  if (!made.is_valid()) throw nb::python_error();
  return made;
}

// The sizes of x, if it is (T, B, I) or with batch_first (B, T, I). A first look: it may change yet.
struct Sizes {
  bool fit;
  Long T = 0, B = 0, first = 0, second = 0;
  Sizes(const View& x, Long columns, bool batch_first)
      : fit(x.axes == 3 && x.shape[2] == columns && x.shape[0] >= 1 && x.shape[1] >= 1) {
    if (fit)
      first = x.shape[0], second = x.shape[1], T = batch_first ? second : first, B = batch_first ? first : second;
  }
};

// The usual call in one step: plain tensors of the plain classes, (T, B, I) or with batch_first (B, T, I), nothing to
// differentiate. Looks at every tensor, allocates the results as torch does for `x`, runs, and returns (output, the
// final states in a tuple, hidden, saved); the last two are None unless `keep`. None, with nothing done, for any call
// that is not of this kind; False if it would be, were there not gradients wanted (with grad_mode).
nb::object plain_forward(nb::tuple what_, nb::tuple params, nb::handle x, nb::handle initial, bool batch_first,
    bool grad_mode, bool keep, nb::tuple classes, int threads) {
  if (!exchange() || !is_plain(x, classes) || !are_plain(initial, classes) || !are_plain(params, classes))
    return nb::none();
  if (has_no_units(what_)) return nb::none();
  const What what = what_of(what_);
  Operands o;
  o.reserve(params.size() + 12);
  try {
    const Given given(o, what, params, x, initial, batch_first);
    bool wanted = grad_mode && requires_grad(x);
    if (grad_mode && !initial.is_none())
      for (nb::handle state : nb::borrow<nb::tuple>(initial)) wanted = wanted || requires_grad(state);
    if (grad_mode)
      for (nb::handle p : params) wanted = wanted || requires_grad(p);
    const Sizes sizes(o.look(given.x), what.I, batch_first);
    if (!sizes.fit) return nb::none();
    keep = keep && o[given.x].type != kBfloat16;
    if (wanted) {
      o.look();
      const Contract fits(what, given.in(o), true);
      return nb::borrow(Py_False);
    }
    const Long rows = product({sizes.T, sizes.B}), numbers = saved_numbers(what.cell);
    const nb::object output = allocate(x, {sizes.first, sizes.second, what.out()});
    const One to = o.add_made("output", output);
    nb::list finals;
    for (int s = 0; s < what.states(); ++s) {
      finals.append(allocate(x, {what.directions(), sizes.B, what.width(s)}));
      o.add_made("final state", finals[static_cast<std::size_t>(s)], s);
    }
    const nb::object hidden = keep && what.L > 1 ? allocate(x, {what.L - 1, rows, what.out()}) : nb::none();
    const nb::object saved = keep && numbers ? allocate(x, {what.directions(), rows, numbers, what.H}) : nb::none();
    const One lower = o.add_made("hidden", hidden), steps = o.add_made("saved", saved);
    run_forward(what, o, given, to, {to + 1, Given::states(what)}, lower, steps, Operands::kNone, threads);
    return nb::make_tuple(output, nb::tuple(finals), hidden, saved);
  } catch (const Misfit&) {
    return nb::none();
  }
}

// Its gradient in one step: of x, of the initial states (a tuple; None: there were none) and of the parameters, in this
// order, None where not wanted. output, hidden and saved are what plain_forward() gave; of the gradients that arrive
// any may be None. None, with nothing done, for any call that is not of this kind.
nb::object plain_backward(nb::tuple what_, nb::tuple params, nb::handle x, nb::handle initial, bool batch_first,
    nb::handle output, nb::handle hidden, nb::handle saved, nb::handle grad_output, nb::tuple grad_final,
    nb::tuple wanted, nb::tuple classes, int threads) {
  if (!exchange() || !is_plain(x, classes) || !are_plain(initial, classes) || !are_plain(params, classes) ||
      !are_plain(grad_final, classes, true))
    return nb::none();
  for (nb::handle t : {output, hidden, saved, grad_output})
    if (!t.is_none() && !is_plain(t, classes)) return nb::none();
  const What what = what_of(what_);
  const std::size_t states = initial.is_none() ? 0 : Given::states(what);
  if (wanted.size() != 1 + states + params.size()) return nb::none();
  Operands o;
  o.reserve(2 * params.size() + 24);
  try {
    const Given given(o, what, params, x, initial, batch_first);
    const Results seen{o.add("output", output), o.add("hidden", hidden), o.add("saved", saved), Operands::kNone,
        o.add("output's gradient", grad_output), Operands::kNone, Operands::kNone, 0,
        o.add_all("gradient of final state", grad_final, 0), {}, {}, {}};
    const Sizes sizes(o.look(given.x), what.I, batch_first);
    if (!sizes.fit || (saved_numbers(what.cell) && saved.is_none())) return nb::none();
    nb::list found;
    const auto make = [&](const char* name, nb::handle like, std::initializer_list<Long> shape) {
      found.append(wanted[found.size()].is(Py_True) ? allocate(like, shape) : nb::none());
      return o.add_made(name, found[found.size() - 1]);
    };
    Results results = seen;
    results.grad_x = make("x's gradient", x, {sizes.first, sizes.second, what.I});
    results.grad_initial = {states ? results.grad_x + 1 : Operands::kNone, Given::states(what)};
    for (int s = 0; s < static_cast<int>(states); ++s)
      make("gradient of initial state", x, {what.directions(), sizes.B, what.width(s)});
    results.grad_params = {results.grad_x + 1 + states, params.size()};
    for (Long p = 0; p < static_cast<Long>(params.size()); ++p) {
      const auto [rows, columns] = what.shape(p / what.each(), what.slot(p % what.each()));
      columns ? make("gradient of parameter", params[static_cast<std::size_t>(p)], {rows, columns})
              : make("gradient of parameter", params[static_cast<std::size_t>(p)], {rows});
    }
    results.grad_fresh = {Operands::kNone, Given::states(what)};
    run_backward(what, o, given, results, threads);
    return found;
  } catch (const Misfit&) {
    return nb::none();
  }
}

Number number_of(int number) {
  check(number == 0 || number == 1, "the number type must be 0 (float32) or 1 (float64)");
  return static_cast<Number>(number);
}

// Whether the kernels read these parameters as they lie; false, too, where that takes long to tell.
bool reads(nb::tuple what, nb::handle params) {
  if (!exchange() || has_no_units(what)) return false;
  Operands o;
  try {
    const Some some = o.add_all("parameter", params, 0);
    o.look();
    Contract::check_parameters(what_of(what), o[some]);
    return true;
  } catch (const Misfit&) {
    return false;
  } catch (const nb::builtin_exception&) {  // one is no tensor
    return false;
  }
}

void activation(int which, nb::handle from, nb::handle to) {
  check(which >= 0 && which <= 2, "the function must be 0 (tanh), 1 (relu) or 2 (sigmoid)");
  Operands o;
  const One source = o.add("source", from), result = o.add("target", to, true);
  o.look();
  const auto [in, out] = Contract::elementwise(o[source], o[result]);
  const Number number = o[source].type == kFloat32 ? Number::f32 : Number::f64;
  const Long n = o[source].shape[0];
  o.keep();
  nb::gil_scoped_release release;
  target()->activation(static_cast<Activation>(which), number, in, out, n);
}

}  // namespace
}  // namespace elman

NB_MODULE(_native, m) {
  using namespace elman;
  m.def("use", [](const std::string& name) { target() = &choose_target(name); });
  m.def("isa", [] { return std::string(target()->name); });
  m.def("assume_barrier", [](double seconds) { Team::assume_barrier(seconds); });
  nb::class_<Tuner>(m, "Tuner")
      .def(nb::init<>())
      .def("choose",
          [](Tuner& t, std::uint64_t kind, double work, int most) {
            check(work > 0 && most >= 2, "there must be work, and two threads to choose from");
            return t.choose({kind, work}, most);
          })
      .def("learn", [](Tuner& t, std::uint64_t kind, double work, int threads, double seconds) {
        check(work > 0 && threads >= 1 && seconds >= 0, "there must be work, a thread, and no negative time");
        t.learn({kind, work}, threads, seconds);
      });
  m.def("threads_used", [] { return Team::last(); });
  m.def("usable_processors", [] { return usable_processors(); });
  m.def("processor_quota", [](const std::string& membership, const std::string& mount) {
    return processor_quota(membership.c_str(), mount.c_str());
  });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Target* t : supported_targets()) names.emplace_back(t->name);
    return names;
  });
  m.def("peak", [](int number, int threads) {
    check(threads >= 1, "threads must be at least 1");
    const Number checked = number_of(number);
    nb::gil_scoped_release release;
    return peak(*target(), checked, threads);
  });
  m.def("offer_exchange", [](nb::handle capsule) { exchange() = exchange_api(capsule); });
  m.def("reads", &reads);
  const auto any = nb::arg().none();
  m.def("plain_forward", &plain_forward, any, any, any, any, any, any, any, any, any);
  m.def("plain_backward", &plain_backward, any, any, any, any, any, any, any, any, any, any, any, any, any);
  m.def("saved_numbers", [](int cell) { return saved_numbers(What::cell_of(cell)); });
  m.def("number_of_checkpoints", [](int cell, int number, Long T, Long B, Long H) {
    check(T >= 1 && B >= 1 && H >= 1 && T <= kMost && B <= kMost && H <= kMost,
        "sizes must be at least 1, and not too large");
    product({T, B, H});
    Network net{};
    net.cell = What::cell_of(cell), net.number = number_of(number), net.T = T, net.B = B, net.H = H;
    return number_of_checkpoints(net);
  });
  m.def("forward", &forward, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any);
  m.def("backward", &backward, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any, any,
      any, any, any, any, any);
  m.def("activation", &activation, any, any, any);
  bind_stream(m);
}
