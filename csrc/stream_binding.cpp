// Python's door to a network that runs a step at a time. All memory comes by Python's buffer protocol, so that its
// extent is known, and is held as long as it is used; inputs also by DLPack's exchange. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "exchange.h"

namespace nb = nanobind;

namespace elman {
namespace {

using Shape = std::vector<Long>;

// A buffer of Python's, held.
class Held {
 public:
  Held(nb::handle object, int flags)
      : ok_(PyObject_GetBuffer(object.ptr(), &view, flags | PyBUF_STRIDES | PyBUF_FORMAT) == 0) {
    if (!ok_) PyErr_Clear();
  }
  Held(Held&& other) noexcept : view(other.view), ok_(other.ok_) { other.ok_ = false; }
  Held(const Held&) = delete;
  ~Held() {
    if (ok_) PyBuffer_Release(&view);
  }
  bool ok() const { return ok_; }
  // 32 or 64 for floats in the machine's order, else 0.
  int bits() const {
    const char* format = view.format;
    if (!format || format[0] == 0 || format[1] != 0) return 0;
    return *format == 'f' && view.itemsize == 4 ? 32 : *format == 'd' && view.itemsize == 8 ? 64 : 0;
  }
  bool is_aligned() const {
    return reinterpret_cast<std::uintptr_t>(view.buf) % static_cast<std::uintptr_t>(view.itemsize) == 0;
  }

  bool is_apart(const Held& other) const { return is_apart(other.view.buf, other.view.len); }
  bool is_apart(const void* from, Long bytes) const { return are_apart(view.buf, view.len, from, bytes); }

  static bool are_apart(const void* a, Long a_bytes, const void* b, Long b_bytes) {
    const auto from_a = reinterpret_cast<std::uintptr_t>(a), from_b = reinterpret_cast<std::uintptr_t>(b);
    return from_a + static_cast<std::uintptr_t>(a_bytes) <= from_b ||
        from_b + static_cast<std::uintptr_t>(b_bytes) <= from_a;
  }

  Py_buffer view;

 private:
  bool ok_;
};

// Dense memory of this shape, of floats of so many bits; 0: of either, which is then said.
Held hold(nb::handle object, const Shape& shape, int& bits, bool writable, const char* what) {
  Held held(object, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0));
  check(held.ok() && held.bits() != 0 && (bits == 0 || bits == held.bits()) && held.is_aligned() &&
          held.view.ndim == static_cast<int>(shape.size()),
      what);
  for (std::size_t d = 0; d < shape.size(); ++d) check(held.view.shape[d] == shape[d], what);
  bits = held.bits();
  return held;
}

// One parameter as it was when its values were packed: where it was found, what it was, how often it had been written
// to, where it lay, and some of its numbers, spread over it; for not all writes are counted (by way of a tensor's data,
// and some fused optimizers').
struct Watched {
  static constexpr int kSome = 16;
  nb::object name, parameter;
  Long version;
  Shape shape;
  const void* at = nullptr;
  Long bytes = 0;
  bool wide = false;  // numbers of 64 bits, not 32
  Long places[kSome] = {};
  std::uint64_t some[kSome] = {};

  void remember(const Held& held) {
    const Long last = held.view.len / held.view.itemsize - 1;
    shape.assign(held.view.shape, held.view.shape + held.view.ndim);
    at = held.view.buf, bytes = held.view.len, wide = held.view.itemsize == 8;
    for (int i = 0; i < kSome; ++i) places[i] = last * i / (kSome - 1);
    for (int i = 0; i < kSome; ++i) some[i] = wide ? number<std::uint64_t>(i) : number<std::uint32_t>(i);
  }
  bool is_unchanged() const { return wide ? are_the_same<std::uint64_t>() : are_the_same<std::uint32_t>(); }
  bool lies_there(const ExchangeApi* api) const {
    nb::dlpack::dltensor t;
    if (api && api->view(parameter.ptr(), &t) == 0)
      return address_of(t) == reinterpret_cast<std::uintptr_t>(at) && is_dense(t) &&
          Type{t.dtype.code, t.dtype.bits} == (wide ? kFloat64 : kFloat32) &&
          std::equal(shape.begin(), shape.end(), t.shape, t.shape + t.ndim);
    PyErr_Clear();
    static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
    if (nb::cast<std::uintptr_t>(call(parameter.ptr(), data_ptr)) != reinterpret_cast<std::uintptr_t>(at)) return false;
    Long bytes = wide ? 8 : 4;
    for (const Long size : shape) bytes *= size;
    return nb::cast<Long>(parameter.attr("nbytes")) == bytes;
  }
  // How often it has been written to.
  static Long count(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("_version");
    const nb::object count = nb::steal(PyObject_GetAttr(tensor, name));
    if (!count.is_valid()) throw nb::python_error();
    const Long number = PyLong_AsLongLong(count.ptr());
    if (number == -1 && PyErr_Occurred()) throw nb::python_error();
    return number;
  }

 private:
  template <class Bits> Bits number(int i) const { return static_cast<const Bits*>(at)[places[i]]; }
  template <class Bits> bool are_the_same() const {
    Bits difference = 0;
    for (int i = 0; i < kSome; ++i) difference |= static_cast<Bits>(some[i]) ^ number<Bits>(i);
    return difference == 0;
  }
};

class StreamDoor {
 public:
  // params: arrays, for each layer w_ih, w_hh, with `bias` b_ih and b_hh, with a projection (P not 0) w_hr. They are
  // read here, and never again. states: (L, B, P or H) and for an LSTM (L, B, H), written by each step. fresh: calls
  // that make memory for an output, (P or H,) and (B, P or H), where x is a buffer, and where it is a tensor: tuples of
  // a function and its arguments. classes: those of plain tensors. names: none; or for each parameter where `entries`
  // has the tensor that `params` shows. A step is declined when it is another, has changed, or has moved.
  StreamDoor(int cell, Long I, Long H, Long P, Long L, bool bias, Long B, nb::sequence params, nb::sequence states,
      nb::tuple fresh, nb::tuple classes, nb::dict entries, nb::tuple names)
      : B_(B), I_(I), width_(P ? P : H), fresh_(fresh), classes_(classes), entries_(entries) {
    constexpr Long most = Long{1} << 30;
    check(cell >= 0 && cell <= 3, "the cell must be 0 (rnn_tanh), 1 (rnn_relu), 2 (gru) or 3 (lstm)");
    Network net{};
    net.cell = static_cast<CellKind>(cell);
    check(I >= 1 && H >= 1 && L >= 1 && B >= 1 && I <= most && H <= most && L <= most && B <= most,
        "I, H, L and B must be at least 1, and not too large");
    check(P == 0 || (net.cell == CellKind::lstm && P >= 1 && P < H), "a projection is an LSTM's, and smaller than H");
    check(nb::len(fresh) == 4, "an output is made in four ways");
    for (nb::handle call : fresh)
      check(PyTuple_Check(call.ptr()) && PyTuple_GET_SIZE(call.ptr()) >= 1,
          "an output is made by a function, with its arguments in a tuple");
    const Long rows = gates_of(net.cell) * H, out = width_;
    const std::size_t each = 2 + (bias ? 2 : 0) + (P ? 1 : 0);
    check(nb::len(params) == static_cast<std::size_t>(L) * each &&
            nb::len(states) == static_cast<std::size_t>(states_of(net.cell)),
        "too few or too many parameters or states");
    check(nb::len(names) == 0 || nb::len(names) == nb::len(params), "names must be none, or one for each parameter");
    for (nb::handle name : names) {  // before the values are read: what changes meanwhile has changed since
      const nb::object parameter = nb::borrow(entries[name]);
      watched_.push_back({nb::borrow(name), parameter, Watched::count(parameter.ptr()), {}});
    }
    std::vector<Held> weights;
    std::vector<Parameters> parameters;
    const auto take = [&](const Shape& shape) -> const void* {
      weights.push_back(hold(params[weights.size()], shape, bits_, false,
          "a parameter must be dense, of the right shape, of float32 or float64 as all others"));
      return weights.back().view.buf;
    };
    for (Long l = 0; l < L; ++l) {
      Parameters p{};
      p.w_ih = take({rows, l == 0 ? I : out}), p.w_hh = take({rows, out});
      if (bias) p.b_ih = take({rows}), p.b_hh = take({rows});
      if (P) p.w_hr = take({P, H});
      parameters.push_back(p);
    }
    for (std::size_t i = 0; i < watched_.size(); ++i) watched_[i].remember(weights[i]);
    std::vector<void*> at;
    for (int s = 0; s < states_of(net.cell); ++s) {
      held_.push_back(hold(states[static_cast<std::size_t>(s)], {L, B, s == 0 ? out : H}, bits_, true,
          "a state must be dense, writable, and of the right shape and number type"));
      at.push_back(held_.back().view.buf);
    }
    for (std::size_t i = 0; i < held_.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) check(held_[i].is_apart(held_[j]), "states must not overlap one another");
      for (const Held& weight : weights) check(held_[i].is_apart(weight), "states must not overlap parameters");
    }
    net.number = bits_ == 32 ? Number::f32 : Number::f64;
    net.T = 1, net.B = B, net.I = I, net.H = H, net.L = L, net.D = 1, net.P = out, net.rows = B,
    net.parameters = parameters.data();
    top_ = static_cast<const char*>(at[0]) + (L - 1) * bytes();
    stream_ = target()->stream(net, at.data());
    if (!stream_) throw std::bad_alloc();
  }
  StreamDoor(const StreamDoor&) = delete;
  ~StreamDoor() { stream_->close(stream_); }

  // For Python's garbage collector: all objects that are held, and how to let go of those that may hold this one. After
  // that, all steps are declined.
  int traverse(visitproc visit, void* arg) const {
    for (PyObject* object : {fresh_.ptr(), classes_.ptr(), entries_.ptr()}) Py_VISIT(object);
    for (const Watched& w : watched_) {
      Py_VISIT(w.name.ptr());
      Py_VISIT(w.parameter.ptr());
    }
    for (const Held& held : held_) Py_VISIT(held.view.obj);
    return 0;
  }
  void clear() {
    const std::vector<Watched> watched = std::move(watched_);
    const nb::object fresh = std::move(fresh_), classes = std::move(classes_), entries = std::move(entries_);
    watched_.clear();
  }

  bool is_current() const {
    if (!fresh_.is_valid()) return false;
    const ExchangeApi* api = exchange();
    for (const Watched& w : watched_) {
      PyObject* now = PyDict_GetItem(entries_.ptr(), w.name.ptr());
      if (now != w.parameter.ptr() || Watched::count(now) != w.version || !w.lies_there(api) || !w.is_unchanged())
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
    return is_tensor(x) ? step_tensor(x, out) : step_array(x, out);
  }

 private:
  // Rows of numbers in a caller's memory, so many bytes apart.
  struct Lines {
    std::uintptr_t at;
    Long row;
    bool fit;  // as many as there should be, of the right width, each contiguous
  };

  Lines lines(const Py_buffer& v, Long width) const {
    const bool fit = fits(v.ndim, v.shape, width) && (v.strides[v.ndim - 1] == v.itemsize || width == 1);
    return {reinterpret_cast<std::uintptr_t>(v.buf), fit && B_ > 1 ? v.strides[0] : 0, fit};
  }
  Lines lines(const nb::dlpack::dltensor& t, Long width) const {
    const bool number = t.dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) &&
        t.dtype.bits == bits_ && t.dtype.lanes == 1;
    const bool fit = number && t.device.device_type == nb::device::cpu::value && fits(t.ndim, t.shape, width) &&
        (!t.strides || t.strides[t.ndim - 1] == 1 || width == 1);
    return {address_of(t), fit && B_ > 1 ? (t.strides ? t.strides[0] : width) * size() : 0, fit};
  }
  template <class Size> bool fits(int rank, const Size* shape, Long width) const {
    return (rank == 2 ? shape[0] == B_ : rank == 1 && B_ == 1) && shape[rank - 1] == width;
  }

  bool is_tensor(nb::handle x) const {
    for (nb::handle known : classes_)
      if (reinterpret_cast<PyObject*>(Py_TYPE(x.ptr())) == known.ptr()) return true;
    return false;
  }
  bool can_read(const Lines& x) const {
    return x.fit && x.at % static_cast<std::uintptr_t>(size()) == 0 && x.row % size() == 0;
  }
  bool can_write(const Lines& to) const {
    const Long width = width_ * size(), first = to.row < 0 ? to.row * (B_ - 1) : 0,
               extent = (to.row < 0 ? -to.row : to.row) * (B_ - 1) + width;
    if (!to.fit || (B_ > 1 && to.row < width && -to.row < width)) return false;
    const auto* from = reinterpret_cast<const char*>(to.at) + first;
    for (const Held& held : held_)
      if (!held.is_apart(from, extent)) return false;
    for (const Watched& w : watched_)
      if (!Held::are_apart(from, extent, w.at, w.bytes)) return false;
    return true;
  }
  void advance(const Lines& x) const { stream_->step(stream_, reinterpret_cast<const void*>(x.at), x.row / size()); }
  void write(const Lines& to) const {
    for (Long r = 0; r < B_; ++r)
      std::memcpy(reinterpret_cast<char*>(to.at) + r * to.row, top_ + r * width_ * size(),
          static_cast<std::size_t>(width_ * size()));
  }

  nb::object step_array(nb::handle x, nb::handle out) const {
    const Held from(x, 0);
    if (!from.ok() || from.bits() != bits_) return nb::none();
    const Lines lines_of_x = lines(from.view, I_);
    if (!can_read(lines_of_x)) return nb::none();
    const nb::object output = out.is_none() ? made(from.view.ndim - 1) : nb::borrow(out);
    const Held to(output, PyBUF_WRITABLE);
    if (!to.ok() || to.bits() != bits_ || to.view.ndim != from.view.ndim) return nb::none();
    const Lines lines_of_out = lines(to.view, width_);
    if (!can_write(lines_of_out)) return nb::none();
    advance(lines_of_x), write(lines_of_out);
    return output;
  }

  nb::object step_tensor(nb::handle x, nb::handle out) const {
    const ExchangeApi* api = exchange();
    nb::dlpack::dltensor from, to;
    if (!api || !look(api, x.ptr(), from) || !lines(from, I_).fit) return nb::none();
    const nb::object output = out.is_none() ? made(from.ndim + 1) : nb::borrow(out);
    if (!is_tensor(output) || !look(api, output.ptr(), to)) return nb::none();
    // Once more: a look lets other threads run, and nothing may come between what is seen and its use.
    if (api->view(x.ptr(), &from) != 0 || api->view(output.ptr(), &to) != 0) {
      PyErr_Clear();
      return nb::none();
    }
    const Lines lines_of_x = lines(from, I_), lines_of_out = lines(to, width_);
    if (from.ndim != to.ndim || !can_read(lines_of_x) || !can_write(lines_of_out)) return nb::none();
    advance(lines_of_x), write(lines_of_out);
    return output;
  }

  nb::object made(int way) const {
    PyObject* call = PyTuple_GET_ITEM(fresh_.ptr(), way);
    PyObject* const* items = &PyTuple_GET_ITEM(call, 0);
    nb::object output = nb::steal(
        PyObject_Vectorcall(items[0], items + 1, static_cast<std::size_t>(PyTuple_GET_SIZE(call) - 1), nullptr));
    if (!output.is_valid()) throw nb::python_error();
    return output;
  }

  Long size() const { return bits_ / 8; }  // of a number, in bytes
  Long bytes() const { return B_ * width_ * size(); }

  const Long B_, I_, width_;
  int bits_ = 0;
  nb::tuple fresh_, classes_;
  std::vector<Held> held_;  // the states
  nb::dict entries_;
  std::vector<Watched> watched_;
  const char* top_ = nullptr;  // the top layer's h: what a step gives
  Stream* stream_ = nullptr;
};

// Python's garbage collector comes before the constructor has ended, too.
int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return nb::inst_ready(self) ? nb::inst_ptr<StreamDoor>(self)->traverse(visit, arg) : 0;
}

int clear(PyObject* self) {
  if (nb::inst_ready(self)) nb::inst_ptr<StreamDoor>(self)->clear();
  return 0;
}

PyType_Slot slots[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(traverse)}, {Py_tp_clear, reinterpret_cast<void*>(clear)}, {0, nullptr}};

}  // namespace

void bind_stream(nb::module_& m) {
  nb::class_<StreamDoor>(m, "Stream", nb::type_slots(slots))
      .def(nb::init<int, Long, Long, Long, Long, bool, Long, nb::sequence, nb::sequence, nb::tuple, nb::tuple, nb::dict,
          nb::tuple>())
      .def("is_current", &StreamDoor::is_current)
      .def("step", &StreamDoor::step, nb::arg().none(), nb::arg().none());
}

}  // namespace elman
