// Python's view of a network that runs a step at a time. Parameters and states come by Python's buffer protocol, so
// that their extent is known, and pass the contracts of all calls; inputs also by DLPack's exchange. Needs neither
// torch nor numpy.
#include <nanobind/nanobind.h>

#include <cstring>

#include "contracts.h"
#include "operands.h"
#include "packed_parameter.h"

namespace nb = nanobind;

namespace elman {

Stack stack_of(const nb::tuple& stack);  // binding.cpp

namespace {

// A buffer of Python's, held for a step.
class Buffer {
 public:
  Buffer(nb::handle object, int flags)
      : ok_(PyObject_GetBuffer(object.ptr(), &view, flags | PyBUF_STRIDES | PyBUF_FORMAT) == 0) {
    if (!ok_) PyErr_Clear();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() {
    if (ok_) PyBuffer_Release(&view);
  }
  // Whether it holds floats of so many bits in the machine's order.
  bool has(Long bits) const {
    const char* format = ok_ ? view.format : nullptr;
    if (!format || format[0] == 0 || format[1] != 0) return false;
    return bits == 8 * view.itemsize && *format == (bits == 32 ? 'f' : 'd');
  }

  Py_buffer view;

 private:
  bool ok_;
};

class BoundStream {
 public:
  // params: arrays, in the stack's order. They are read here, and never again. states: (L, B, P or H) and for an LSTM
  // (L, B, H), written by each step. fresh: calls that make memory for an output, (P or H,) and (B, P or H), where x is
  // a buffer, and where it is a tensor: tuples of a function and its arguments.
  // names: none; or for each parameter where `entries` has the tensor that `params` shows. A step is declined when it
  // is another, has changed, or has moved.
  BoundStream(
      nb::tuple stack, Long B, nb::handle params, nb::handle states, nb::tuple fresh, nb::dict entries, nb::tuple names)
      : stack_(stack_of(stack)), B_(B), fresh_(fresh), entries_(entries) {
    check(stack_.I >= 1 && stack_.D == 1 && B >= 1 && B <= kMost, "I and B must be at least 1, not too large, and D 1");
    check(nb::len(fresh) == 4, "an output is made in four ways");
    for (nb::handle call : fresh)
      check(PyTuple_Check(call.ptr()) && nb::len(call) >= 1 && nb::len(call) <= kMostItems,
          "an output is made by a function, with its arguments in a tuple");
    for (nb::handle name : names) {  // before the values are read: what changes meanwhile has changed since
      const nb::object parameter = nb::borrow(entries[name]);
      packed_.push_back({nb::borrow(name), parameter, PackedParameter::count(parameter.ptr())});
    }
    Operands weights;
    const Operands::Indices all = weights.add_all("parameter", params, 0);
    const Operands::Indices own = states_.add_all("state", states, 0, true);
    check(names.size() == 0 || names.size() == all.second, "names must be none, or one for each parameter");
    weights.inspect(), states_.inspect();
    const Type type = all.second ? weights[all][0].type : kOther;
    if (type != kFloat32 && type != kFloat64)
      throw Mismatch("expected parameters of float32 or float64, got " + type.name());
    Operated operands(stack_, type, B);
    operands.read_parameters(weights[all]);
    void* at[kMostStates] = {};
    operands.states(states_[own], at);
    for (const View& v : states_[own])
      if (v.none) throw Mismatch("expected a state for each of the cell's states, got none");
    operands.check_apart();
    for (std::size_t i = 0; i < packed_.size(); ++i) packed_[i].remember(weights[all][i]);
    bits_ = type.bits;
    for (int s = 0; s < stack_.cell.states; ++s)
      written_.push_back({reinterpret_cast<Address>(at[s]), stack_.L * B * stack_.width(s) * size()});
    Network net = operands.network();
    net.T = 1, net.rows = B;
    top_ = static_cast<const char*>(at[0]) + (stack_.L - 1) * B * stack_.out() * size();
    stream_ = target()->stream(net, at);
    if (!stream_) throw std::bad_alloc();
  }
  BoundStream(const BoundStream&) = delete;
  ~BoundStream() { stream_->close(stream_); }

  // For Python's garbage collector: all objects that are held, and how to let go of those that may hold this one. After
  // that, all steps are declined.
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
    const ExchangeApi* api = exchange();
    for (const PackedParameter& p : packed_) {
      PyObject* now = PyDict_GetItem(entries_.ptr(), p.name.ptr());
      if (now != p.parameter.ptr() || PackedParameter::count(now) != p.version || !p.lies_there(api) ||
          !p.is_unchanged())
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
    return is_plain(x) ? step_tensor(x, out) : step_array(x, out);
  }

 private:
  // Rows of numbers in a caller's memory, so many bytes apart.
  struct Rows {
    std::uintptr_t at;
    Long row;
    bool fit;  // as many as there should be, of the right width, each contiguous
  };

  Rows rows(const Py_buffer& v, Long width) const {
    const bool fit = fits(v.ndim, v.shape, width) && (v.strides[v.ndim - 1] == v.itemsize || width == 1);
    return {reinterpret_cast<std::uintptr_t>(v.buf), fit && B_ > 1 ? v.strides[0] : 0, fit};
  }
  Rows rows(const nb::dlpack::dltensor& t, Long width) const {
    const bool number = t.dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) &&
        t.dtype.bits == bits_ && t.dtype.lanes == 1;
    const bool fit = number && t.device.device_type == nb::device::cpu::value && fits(t.ndim, t.shape, width) &&
        (!t.strides || t.strides[t.ndim - 1] == 1 || width == 1);
    return {address_of(t), fit && B_ > 1 ? (t.strides ? t.strides[0] : width) * size() : 0, fit};
  }
  template <class Size> bool fits(int rank, const Size* shape, Long width) const {
    return (rank == 2 ? shape[0] == B_ : rank == 1 && B_ == 1) && shape[rank - 1] == width;
  }

  bool fits_x(const Rows& x) const {
    return x.fit && x.at % static_cast<std::uintptr_t>(size()) == 0 && x.row % size() == 0;
  }
  bool fits_out(const Rows& to) const {
    const Long line = width() * size(), first = to.row < 0 ? to.row * (B_ - 1) : 0,
               extent = (to.row < 0 ? -to.row : to.row) * (B_ - 1) + line;
    if (!to.fit || (B_ > 1 && to.row < line && -to.row < line)) return false;
    const Address from = to.at + static_cast<Address>(first), end = from + static_cast<Address>(extent);
    const auto apart = [&](Address at, Long bytes) { return end <= at || at + static_cast<Address>(bytes) <= from; };
    for (const auto& [at, bytes] : written_)
      if (!apart(at, bytes)) return false;
    for (const PackedParameter& p : packed_)
      if (!apart(reinterpret_cast<Address>(p.at), p.bytes)) return false;
    return true;
  }
  void advance(const Rows& x) const { stream_->step(stream_, reinterpret_cast<const void*>(x.at), x.row / size()); }
  void write(const Rows& to) const {
    for (Long r = 0; r < B_; ++r)
      std::memcpy(reinterpret_cast<char*>(to.at) + r * to.row, top_ + r * width() * size(),
          static_cast<std::size_t>(width() * size()));
  }

  nb::object step_array(nb::handle x, nb::handle out) const {
    const Buffer from(x, 0);
    if (!from.has(bits_)) return nb::none();
    const Rows x_rows = rows(from.view, stack_.I);
    if (!fits_x(x_rows)) return nb::none();
    const nb::object output = out.is_none() ? made(from.view.ndim - 1) : nb::borrow(out);
    const Buffer to(output, PyBUF_WRITABLE);
    if (!to.has(bits_) || to.view.ndim != from.view.ndim) return nb::none();
    const Rows out_rows = rows(to.view, width());
    if (!fits_out(out_rows)) return nb::none();
    advance(x_rows), write(out_rows);
    return output;
  }

  nb::object step_tensor(nb::handle x, nb::handle out) const {
    const ExchangeApi* api = exchange();
    nb::dlpack::dltensor from, to;
    if (!api || !can_read(api, x.ptr(), from) || !rows(from, stack_.I).fit) return nb::none();
    const nb::object output = out.is_none() ? made(from.ndim + 1) : nb::borrow(out);
    if (!is_plain(output) || !can_read(api, output.ptr(), to)) return nb::none();
    // Once more: to inspect lets other threads run, and nothing may come between what is seen and its use.
    if (api->view(x.ptr(), &from) != 0 || api->view(output.ptr(), &to) != 0) {
      PyErr_Clear();
      return nb::none();
    }
    const Rows x_rows = rows(from, stack_.I), out_rows = rows(to, width());
    if (from.ndim != to.ndim || !fits_x(x_rows) || !fits_out(out_rows)) return nb::none();
    advance(x_rows), write(out_rows);
    return output;
  }

  nb::object made(int way) const {
    PyObject* call = NB_TUPLE_GET_ITEM(fresh_.ptr(), way);
    PyObject* items[kMostItems];
    const Py_ssize_t count = NB_TUPLE_GET_SIZE(call);
    for (Py_ssize_t i = 0; i < count; ++i) items[i] = NB_TUPLE_GET_ITEM(call, i);
    nb::object output = nb::steal(PyObject_Vectorcall(items[0], items + 1, size_t(count - 1), nullptr));
    if (!output.is_valid()) throw nb::python_error();
    return output;
  }

  static constexpr std::size_t kMostItems = 4;  // of a call in `fresh`
  Long size() const { return bits_ / 8; }       // of a number, in bytes
  Long width() const { return stack_.out(); }

  const Stack stack_;
  const Long B_;
  Long bits_ = 0;  // of a number
  nb::tuple fresh_;
  nb::dict entries_;
  Operands states_;
  std::vector<std::pair<Address, Long>> written_;  // where the states lie, and their bytes
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
