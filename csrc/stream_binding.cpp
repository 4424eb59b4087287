// Python's door to a network that runs a step at a time. All memory comes by Python's buffer protocol, so that its extent is known, and is held as long as
// it is used; inputs also by DLPack's exchange. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "exchange.h"

namespace nb = nanobind;

namespace elman {
namespace {

using Long = std::int64_t;
using Shape = std::vector<Long>;

void check(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(std::string("elman._native: ") + what);
}

// A buffer of Python's, held.
class Held {
 public:
  Held(nb::handle object, int flags) : ok_(PyObject_GetBuffer(object.ptr(), &view, flags | PyBUF_STRIDES | PyBUF_FORMAT) == 0) {
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
    const std::string format = view.format ? view.format : "";
    return format == "f" && view.itemsize == 4 ? 32 : format == "d" && view.itemsize == 8 ? 64 : 0;
  }
  bool is_aligned() const { return reinterpret_cast<std::uintptr_t>(view.buf) % static_cast<std::uintptr_t>(view.itemsize) == 0; }

  bool is_apart(const Held& other) const {
    const auto *a = static_cast<const char*>(view.buf), *b = static_cast<const char*>(other.view.buf);
    return a + view.len <= b || b + other.view.len <= a;
  }

  Py_buffer view;

 private:
  bool ok_;
};

// Dense memory of this shape, of floats of so many bits; 0: of either, which is then said.
Held hold(nb::handle object, const Shape& shape, int& bits, bool writable, const char* what) {
  Held held(object, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0));
  check(held.ok() && held.bits() != 0 && (bits == 0 || bits == held.bits()) && held.is_aligned() && held.view.ndim == static_cast<int>(shape.size()), what);
  for (std::size_t d = 0; d < shape.size(); ++d) check(held.view.shape[d] == shape[d], what);
  bits = held.bits();
  return held;
}

// One parameter as it was when its values were packed: where it was found, what it was, how often it had been written to, where it lay, and some of its
// numbers, spread over it; for not all writes are counted (by way of a tensor's data, and some fused optimizers').
struct Watched {
  static constexpr int kSome = 16;
  nb::object name, parameter;
  Long version;
  Shape shape;
  const void* at = nullptr;
  bool wide = false;  // numbers of 64 bits, not 32
  Long places[kSome] = {};
  std::uint64_t some[kSome] = {};

  void remember(const Held& held) {
    const Long last = held.view.len / held.view.itemsize - 1;
    shape.assign(held.view.shape, held.view.shape + held.view.ndim);
    at = held.view.buf, wide = held.view.itemsize == 8;
    for (int i = 0; i < kSome; ++i) places[i] = last * i / (kSome - 1);
    for (int i = 0; i < kSome; ++i) some[i] = wide ? number<std::uint64_t>(i) : number<std::uint32_t>(i);
  }
  bool is_unchanged() const { return wide ? are_the_same<std::uint64_t>() : are_the_same<std::uint32_t>(); }
  bool lies_there() const {
    nb::dlpack::dltensor t;
    if (exchange() && exchange()->view(parameter.ptr(), &t) == 0)
      return address_of(t) == reinterpret_cast<std::uintptr_t>(at) && is_dense(t) && std::equal(shape.begin(), shape.end(), t.shape, t.shape + t.ndim);
    PyErr_Clear();
    static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
    return nb::cast<std::uintptr_t>(call(parameter.ptr(), data_ptr)) == reinterpret_cast<std::uintptr_t>(at);
  }
  // How often it has been written to.
  static Long count(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("_version");
    const nb::object count = nb::steal(PyObject_GetAttr(tensor, name));
    if (!count.is_valid()) throw nb::python_error();
    return nb::cast<Long>(count);
  }

 private:
  template <class Bits>
  Bits number(int i) const {
    return static_cast<const Bits*>(at)[places[i]];
  }
  template <class Bits>
  bool are_the_same() const {
    Bits difference = 0;
    for (int i = 0; i < kSome; ++i) difference |= static_cast<Bits>(some[i]) ^ number<Bits>(i);
    return difference == 0;
  }
};

class StreamDoor {
 public:
  // params: arrays, for each layer w_ih, w_hh, with `bias` b_ih and b_hh, with a projection (P not 0) w_hr. They are read here, and never again.
  // states: (L, B, P or H) and for an LSTM (L, B, H), written by each step. output: (B, P or H), likewise. results: what step() returns for x of one
  // dimension and of two from a buffer, and for a tensor of one and of two: objects that show `output`. classes: those of plain tensors.
  // names: none; or for each parameter where `entries` has the tensor that `params` shows. A step is declined when it is another, has changed, or has moved.
  StreamDoor(int cell, Long I, Long H, Long P, Long L, bool bias, Long B, nb::sequence params, nb::sequence states, nb::handle output, nb::tuple results, nb::tuple classes,
             nb::dict entries, nb::tuple names)
      : B_(B), I_(I), results_(results), classes_(classes), entries_(entries) {
    constexpr Long most = Long{1} << 30;
    check(cell >= 0 && cell <= 3, "the cell must be 0 (rnn_tanh), 1 (rnn_relu), 2 (gru) or 3 (lstm)");
    Network net{};
    net.cell = static_cast<CellKind>(cell);
    check(I >= 1 && H >= 1 && L >= 1 && B >= 1 && I <= most && H <= most && L <= most && B <= most, "I, H, L and B must be at least 1, and not too large");
    check(P == 0 || (net.cell == CellKind::lstm && P >= 1 && P < H), "a projection is an LSTM's, and smaller than H");
    check(nb::len(results) == 4, "there are four results");
    const Long rows = gates_of(net.cell) * H, out = P ? P : H;
    const std::size_t each = 2 + (bias ? 2 : 0) + (P ? 1 : 0);
    check(nb::len(params) == static_cast<std::size_t>(L) * each && nb::len(states) == static_cast<std::size_t>(states_of(net.cell)), "too few or too many parameters or states");
    check(nb::len(names) == 0 || nb::len(names) == nb::len(params), "names must be none, or one for each parameter");
    for (nb::handle name : names) {  // before the values are read: what changes meanwhile has changed since
      const nb::object parameter = nb::borrow(entries[name]);
      watched_.push_back({nb::borrow(name), parameter, Watched::count(parameter.ptr()), {}});
    }
    std::vector<Held> weights;
    std::vector<Parameters> parameters;
    const auto take = [&](const Shape& shape) -> const void* {
      weights.push_back(hold(params[weights.size()], shape, bits_, false, "a parameter must be dense, of the right shape, of float32 or float64 as all others"));
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
      held_.push_back(hold(states[static_cast<std::size_t>(s)], {L, B, s == 0 ? out : H}, bits_, true, "a state must be dense, writable, and of the right shape and number type"));
      at.push_back(held_.back().view.buf);
    }
    held_.push_back(hold(output, {B, out}, bits_, true, "the output must be dense, writable, and of the right shape and number type"));
    for (std::size_t i = 0; i < held_.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) check(held_[i].is_apart(held_[j]), "states and output must not overlap one another");
      for (const Held& weight : weights) check(held_[i].is_apart(weight), "states and output must not overlap parameters");
    }
    net.number = bits_ == 32 ? Number::f32 : Number::f64;
    net.T = 1, net.B = B, net.I = I, net.H = H, net.L = L, net.D = 1, net.P = out, net.rows = B, net.parameters = parameters.data();
    stream_ = target()->stream(net, at.data());
    if (!stream_) throw std::bad_alloc();
  }
  StreamDoor(const StreamDoor&) = delete;
  ~StreamDoor() { stream_->close(stream_); }

  // For Python's garbage collector: all objects that are held, and how to let go of those that may hold this one. After that, all steps are declined.
  int traverse(visitproc visit, void* arg) const {
    for (PyObject* object : {results_.ptr(), classes_.ptr(), entries_.ptr()}) Py_VISIT(object);
    for (const Watched& w : watched_) {
      Py_VISIT(w.name.ptr());
      Py_VISIT(w.parameter.ptr());
    }
    for (const Held& held : held_) Py_VISIT(held.view.obj);
    return 0;
  }
  void clear() {
    const std::vector<Watched> watched = std::move(watched_);
    const nb::object results = std::move(results_), classes = std::move(classes_), entries = std::move(entries_);
    watched_.clear();
  }

  bool is_current() const {
    if (!results_.is_valid()) return false;
    for (const Watched& w : watched_) {
      PyObject* now = PyDict_GetItem(entries_.ptr(), w.name.ptr());
      if (now != w.parameter.ptr() || Watched::count(now) != w.version || !w.lies_there() || !w.is_unchanged()) return false;
    }
    return true;
  }

  // One step. None, with nothing done, unless the parameters are as they were and x is of the right shape and number type, on the CPU, its rows contiguous.
  nb::object step(nb::handle x) const {
    if (!is_current()) return nb::none();
    bool tensor = false;
    for (nb::handle known : classes_) tensor = tensor || reinterpret_cast<PyObject*>(Py_TYPE(x.ptr())) == known.ptr();
    if (tensor) {
      nb::dlpack::dltensor t;
      // Twice: the first look lets other threads run, and nothing may come between a look and the use of what was seen.
      if (!exchange() || !look(exchange(), x.ptr(), t) || exchange()->view(x.ptr(), &t) != 0 || t.dtype.bits != bits_) return nb::none();
      const Long row = t.ndim == 2 ? (t.strides ? t.strides[0] : t.shape[1]) : 0, column = t.ndim > 0 && t.strides ? t.strides[t.ndim - 1] : 1;
      return run(address_of(t), t.ndim, t.shape, row, column, 2);
    }
    const Held held(x, 0);
    if (!held.ok() || held.bits() != bits_ || !held.is_aligned()) return nb::none();
    const Py_buffer& v = held.view;
    const Long row = v.ndim == 2 && v.shape[0] > 1 ? v.strides[0] : 0, column = v.ndim > 0 ? v.strides[v.ndim - 1] : 0;
    if (row % v.itemsize || column % v.itemsize) return nb::none();
    return run(reinterpret_cast<std::uintptr_t>(v.buf), v.ndim, v.shape, row / v.itemsize, column / v.itemsize, 0);
  }

 private:
  template <class Size>
  nb::object run(std::uintptr_t x, int rank, const Size* shape, Long row, Long column, int kind) const {
    if (rank == 2 ? shape[0] != B_ : rank != 1 || B_ != 1) return nb::none();
    if (shape[rank - 1] != I_ || (column != 1 && I_ != 1)) return nb::none();
    stream_->step(stream_, reinterpret_cast<const void*>(x), row, held_.back().view.buf);
    return results_[static_cast<std::size_t>(kind + rank - 1)];
  }

  const Long B_, I_;
  int bits_ = 0;
  nb::tuple results_, classes_;
  std::vector<Held> held_;  // the states, then the output
  nb::dict entries_;
  std::vector<Watched> watched_;
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

PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse)}, {Py_tp_clear, reinterpret_cast<void*>(clear)}, {0, nullptr}};

}  // namespace

void bind_stream(nb::module_& m) {
  nb::class_<StreamDoor>(m, "Stream", nb::type_slots(slots))
      .def(nb::init<int, Long, Long, Long, Long, bool, Long, nb::sequence, nb::sequence, nb::handle, nb::tuple, nb::tuple, nb::dict, nb::tuple>())
      .def("is_current", &StreamDoor::is_current)
      .def("step", &StreamDoor::step, nb::arg().none());
}

}  // namespace elman
