// Python's view of a network that runs a step at a time. Parameters and states come by Python's buffer protocol, so
// that their extent is known, and pass all calls' contracts; inputs also by DLPack. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstring>

#include "contracts.h"
#include "operands.h"

namespace elman {

Stack stack_of(const nb::tuple& stack);  // binding.cpp

namespace {

// One parameter as it was when it was packed: where it was found, what it was, how often written to, how it lay, and
// some of its numbers; for not all writes are counted (by way of a tensor's data, and some fused optimizers').
struct PackedParameter {
  static constexpr int kSome = 16;
  nb::object name, parameter;
  Long version;
  View view{kParams.name, -1, false};
  Long places[kSome] = {};
  std::uint64_t some[kSome] = {};

  void remember(const View& v) {
    view = v;
    for (int i = 0; i < kSome; ++i) places[i] = (product(v.shape) - 1) * i / (kSome - 1);
    for (int i = 0; i < kSome; ++i) some[i] = number(i);
  }
  Long bytes() const { return product(view.shape) * (view.type.bits / 8); }
  bool is_unchanged() const {
    std::uint64_t difference = 0;
    for (int i = 0; i < kSome; ++i) difference |= some[i] ^ number(i);
    return difference == 0;
  }
  bool lies_there() const try {
    View now{view.name, -1, false};
    Operands::inspect(parameter.ptr(), now);
    return now.at == view.at && now.type == view.type && now.shape == view.shape && is_dense(now.shape, now.strides);
  } catch (const Mismatch&) {
    return false;
  }
  // How often it has been written to.
  static Long count(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("_version");
    const Long number = PyLong_AsLongLong(returned(PyObject_GetAttr(tensor, name)).ptr());
    if (number == -1 && PyErr_Occurred()) throw nb::python_error();
    return number;
  }

 private:
  std::uint64_t number(int i) const {
    if (view.type == kFloat64) return reinterpret_cast<const std::uint64_t*>(view.at)[places[i]];
    return reinterpret_cast<const std::uint32_t*>(view.at)[places[i]];
  }
};

class BoundStream {
 public:
  // params: arrays, in the stack's order. They are read here, and never again. states: (L, B, P or H) and for an LSTM
  // (L, B, H), written by each step. fresh: calls that make memory for an output, (P or H,) and (B, P or H), where x is
  // a buffer, and where it is a tensor: tuples of a function and its arguments. names: none; or for each parameter
  // where `entries` has its tensor. A step is declined when that is another, has changed, or has moved.
  BoundStream(
      nb::tuple stack, Long B, nb::handle params, nb::handle states, nb::tuple fresh, nb::dict entries, nb::tuple names)
      : stack_(stack_of(stack)), B_(B), fresh_(fresh), entries_(entries) {
    check(stack_.I >= 1 && stack_.D == 1 && B >= 1 && B <= kMost, "I and B must be at least 1, not too large, and D 1");
    check(stack_.members == 0 && stack_.left_out == 0, "a stream runs one network, and leaves no axes out");
    check(nb::len(fresh) == 4, "an output is made in four ways");
    for (nb::handle call : fresh)
      check(PyTuple_Check(call.ptr()) && nb::len(call) >= 1 && nb::len(call) <= kMostItems,
          "an output is made by a function, with its arguments in a tuple");
    for (nb::handle name : names) {  // before the values are read: what changes meanwhile has changed since
      const nb::object parameter = nb::borrow(entries[name]);
      packed_.push_back({nb::borrow(name), parameter, PackedParameter::count(parameter.ptr())});
    }
    Operands weights;
    weights.add_all(kParams, params), states_.add_all(kState, states, true);
    weights.inspect(), states_.inspect();
    const Views all = weights.all(kParams), own = states_.all(kState);
    check(names.size() == 0 || names.size() == all.size(), "names must be none, or one for each parameter");
    if (all.empty()) throw Mismatch("parameters, got none");
    type_ = all[0].type;
    Operated operands(stack_, all[0], B, false);
    operands.read_parameters(all);
    void* at[kMostStates] = {};
    operands.states(own, at);
    for (const View& v : own)
      if (v.none) throw Mismatch("a state for each of the cell's states, got none");
    operands.check_apart();
    for (std::size_t i = 0; i < packed_.size(); ++i) packed_[i].remember(all[i]);
    Network net = operands.network();
    net.T = 1, net.rows = B;
    top_ = static_cast<const char*>(at[0]) + (stack_.L - 1) * B * stack_.out() * size();
    stream_ = target()->stream(net, at);
    if (!stream_) throw std::bad_alloc();
  }
  BoundStream(const BoundStream&) = delete;
  ~BoundStream() { stream_->close(stream_); }

  // For Python's garbage collector: all objects held, and how to let go of them; after that all steps are declined.
  int traverse(visitproc visit, void* arg) const {
    for (PyObject* object : {fresh_.ptr(), entries_.ptr()}) Py_VISIT(object);
    for (const PackedParameter& p : packed_) {
      Py_VISIT(p.name.ptr());
      Py_VISIT(p.parameter.ptr());
    }
    return states_.traverse(visit, arg);
  }
  void clear() {
    const std::vector<PackedParameter> packed = std::move(packed_);
    const nb::object fresh = std::move(fresh_), entries = std::move(entries_);
    packed_.clear();
  }

  bool is_current() const {
    if (!fresh_.is_valid()) return false;
    for (const PackedParameter& p : packed_) {
      PyObject* now = PyDict_GetItem(entries_.ptr(), p.name.ptr());
      if (now != p.parameter.ptr() || PackedParameter::count(now) != p.version || !p.lies_there() || !p.is_unchanged())
        return false;
    }
    return true;
  }

  // One step; returns its output, (B, P or H), for x of one dimension (P or H,): `out`, if that is not None, else what
  // `fresh` makes. None, with nothing done, unless the parameters are as they were, x is of the right shape and number
  // type, on the CPU, its rows contiguous, and the output so as well, of the kind of x, writable, its rows apart from
  // one another, from the states and from the parameters. It may overlap x.
  nb::object step(nb::handle x, nb::handle out) const {
    if (!is_current()) return nb::none();
    try {
      return is_plain(x) ? step_tensor(x, out) : step_array(x, out);
    } catch (const Mismatch&) {
      return nb::none();
    }
  }

 private:
  // Whether there is a row of so many numbers for each sequence, each contiguous, and memory has not been freed.
  bool fits(const View& v, Long width) const {
    const int last = v.shape.axes - 1;
    return v.type == type_ && (last == 1 ? v.shape[0] == B_ : last == 0 && B_ == 1) && v.shape[last] == width &&
        (v.strides[last] == 1 || width == 1) && v.at != 0;
  }
  Long row(const View& v) const { return B_ > 1 ? v.strides[0] : 0; }  // from one to the next
  bool can_write(const View& to) const {
    const Long line = width() * size(), step = row(to) * size(), way = step * (B_ - 1);
    if (!fits(to, width()) || (B_ > 1 && step < line && -step < line)) return false;
    const Address from = to.at + static_cast<Address>(std::min<Long>(way, 0)),
                  end = to.at + static_cast<Address>(std::max<Long>(way, 0) + line);
    const auto apart = [&](Address at, Long bytes) { return end <= at || at + static_cast<Address>(bytes) <= from; };
    for (const View& v : states_.all(kState))
      if (!apart(v.at, product(v.shape) * size())) return false;
    for (const PackedParameter& p : packed_)
      if (!apart(p.view.at, p.bytes())) return false;
    return true;
  }
  bool advance(const View& x, const View& to) const {
    const bool aligned = x.at % static_cast<Address>(size()) == 0;
    if (x.shape.axes != to.shape.axes || !aligned || !can_write(to)) return false;
    stream_->step(stream_, reinterpret_cast<const void*>(x.at), row(x));
    for (Long r = 0, line = width() * size(); r < B_; ++r)
      std::memcpy(
          reinterpret_cast<char*>(to.at) + r * row(to) * size(), top_ + r * line, static_cast<std::size_t>(line));
    return true;
  }

  nb::object step_array(nb::handle x, nb::handle out) const {
    View from(kX.name, -1, false), to(kOutput.name, -1, false);
    const Buffer source(from, x, false);
    Operands::inspect(source.view, from);
    if (!fits(from, stack_.I)) return nb::none();
    const nb::object output = out.is_none() ? made(from.shape.axes - 1) : nb::borrow(out);
    const Buffer target(to, output, true);
    Operands::inspect(target.view, to);
    return advance(from, to) ? output : nb::none();
  }

  nb::object step_tensor(nb::handle x, nb::handle out) const {
    View from(kX.name, -1, false), to(kOutput.name, -1, false);
    if (!exchange) return nb::none();
    Operands::inspect(x.ptr(), from);
    if (!fits(from, stack_.I) || is_negated(x.ptr())) return nb::none();
    const nb::object output = out.is_none() ? made(from.shape.axes + 1) : nb::borrow(out);
    if (!is_plain(output) || is_negated(output.ptr())) return nb::none();
    // Only now, and x once more: to ask lets other threads run, and nothing may come between what is seen and its use.
    Operands::inspect(x.ptr(), from), Operands::inspect(output.ptr(), to);
    return fits(from, stack_.I) && advance(from, to) ? output : nb::none();
  }

  nb::object made(int way) const {
    PyObject* call = NB_TUPLE_GET_ITEM(fresh_.ptr(), way);
    PyObject* items[kMostItems];
    const Py_ssize_t count = NB_TUPLE_GET_SIZE(call);
    for (Py_ssize_t i = 0; i < count; ++i) items[i] = NB_TUPLE_GET_ITEM(call, i);
    return returned(PyObject_Vectorcall(items[0], items + 1, size_t(count - 1), nullptr));
  }

  static constexpr std::size_t kMostItems = 4;  // of a call in `fresh`
  Long size() const { return type_.bits / 8; }  // of a number, in bytes
  Long width() const { return stack_.out(); }

  const Stack stack_;
  const Long B_;
  Type type_ = kOther;  // of all numbers
  nb::tuple fresh_;
  nb::dict entries_;
  Operands states_;
  std::vector<PackedParameter> packed_;
  const char* top_ = nullptr;  // the top layer's h: what a step gives
  Stream* stream_ = nullptr;
};

// Python's garbage collector comes before the constructor has ended, too.
int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return nb::inst_ready(self) ? nb::inst_ptr<BoundStream>(self)->traverse(visit, arg) : 0;
}

int clear(PyObject* self) {
  if (nb::inst_ready(self)) nb::inst_ptr<BoundStream>(self)->clear();
  return 0;
}

PyType_Slot slots[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(traverse)}, {Py_tp_clear, reinterpret_cast<void*>(clear)}, {0, nullptr}};

}  // namespace

void bind_stream(nb::module_& m) {
  nb::class_<BoundStream>(m, "Stream", nb::type_slots(slots))
      .def(nb::init<nb::tuple, Long, nb::handle, nb::handle, nb::tuple, nb::dict, nb::tuple>())
      .def("is_current", &BoundStream::is_current)
      .def("step", &BoundStream::step, nb::arg().none(), nb::arg().none());
}

}  // namespace elman
