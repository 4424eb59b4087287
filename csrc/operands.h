// The operands of a call, as Python hands them over: buffers, tensors that torch shows, or tensors that are asked what
// they are.
#pragma once

#include <nanobind/stl/string.h>

#include <memory>
#include <utility>
#include <vector>

#include "exchange.h"
#include "kernels.h"

namespace elman {

// The operands of a call. What asks Python, which may do anything and let other threads run, is asked as they are
// added; then inspect() sees all of them as they are, and until the next Python code runs they stay so. They are held
// as long as this lives.
class Operands {
 public:
  using Indices = std::pair<std::size_t, std::size_t>;
  static constexpr std::size_t kNone = 0;  // the first are none, and stand for what there is not

  Operands() {
    for (int s = 0; s < kMostStates; ++s) add_made("operand", nanobind::none());
  }
  void reserve(std::size_t count) { all_.reserve(count), views_.reserve(count); }
  std::size_t add(const char* name, nanobind::handle object, bool written = false, Long index = -1) {
    Operand operand{nanobind::borrow(object)};
    views_.push_back({name, index, object.is_none()});
    if (!object.is_none()) {
      if (PyObject_CheckBuffer(object.ptr())) {
        operand.buffer.reset(new Py_buffer{});
        if (PyObject_GetBuffer(object.ptr(), operand.buffer.get(),
                PyBUF_STRIDES | PyBUF_FORMAT | (written ? PyBUF_WRITABLE : 0)) != 0) {
          PyErr_Clear();
          throw Mismatch("expected " + views_.back().who() + " to be memory that can be " +
              (written ? "written to" : "read") + ", got " + nanobind::inst_name(object).c_str());
        }
      } else {
        check_plain(object, views_.back());
        if (is_negated(object.ptr()))
          throw Mismatch("expected " + views_.back().who() +
              " with its numbers in memory as they are, got a tensor that is negated lazily: use resolve_neg()");
      }
    }
    all_.push_back(std::move(operand));
    return all_.size() - 1;
  }
  // What there may not be, and nobody misses.
  std::size_t add_optional(const char* name, nanobind::handle object, bool written = false) {
    return object.is_none() ? kNone : add(name, object, written);
  }
  // A tensor that was just made, or None.
  std::size_t add_made(const char* name, nanobind::handle tensor, Long index = -1) {
    views_.push_back({name, index, tensor.is_none()}), all_.push_back({nanobind::borrow(tensor), nullptr, true});
    return all_.size() - 1;
  }
  // From a list or a tuple; None stands for as many of None, kMostStates at most.
  Indices add_all(const char* name, nanobind::handle from, std::size_t nones, bool written = false) {
    const std::size_t first = all_.size();
    if (from.is_none()) return {kNone, nones};
    if (!PyTuple_Check(from.ptr()) && !PyList_Check(from.ptr()))
      throw nanobind::type_error(
          (std::string("expected ") + name + " to be a list or a tuple, got " + nanobind::inst_name(from).c_str())
              .c_str());
    const auto items = nanobind::steal<nanobind::tuple>(PySequence_Tuple(from.ptr()));
    for (std::size_t i = 0; i < items.size(); ++i) add(name, items[i], written, static_cast<Long>(i));
    return {first, items.size()};
  }

  // Whether a gradient flows to any of those that were added so far.
  bool require_grad() const {
    for (const Operand& operand : all_)
      if (!operand.object.is_none() && !operand.buffer && requires_grad(operand.object)) return true;
    return false;
  }

  void inspect() {
    for (std::size_t i = kMostStates; i < all_.size(); ++i) inspect(i);
  }
  const View& inspect(std::size_t i) {
    View& v = views_[i];
    if (v.none) return v;
    if (all_[i].buffer) inspect(*all_[i].buffer, v);
    else if (exchange()) inspect(all_[i].object.ptr(), v);
    else ask(all_[i].object, v);
    return v;
  }
  // Keeps the memory that was seen, for as long as this lives: to hold a tensor is not enough where other threads run,
  // which may give it other memory (`parameter.data = ...`). A tensor that was just made is nobody else's.
  void keep() {
    for (std::size_t i = kMostStates; i < all_.size(); ++i)
      if (!views_[i].none && !all_[i].made && !all_[i].buffer) keep(i);
  }
  const View& operator[](std::size_t i) const { return views_[i]; }
  // For Python's garbage collector: all objects that are held.
  int traverse(visitproc visit, void* arg) const {
    for (const Operand& operand : all_) {
      Py_VISIT(operand.object.ptr());
      Py_VISIT(operand.storage.ptr());
      if (operand.buffer) Py_VISIT(operand.buffer->obj);
    }
    return 0;
  }
  Views operator[](Indices some) const { return Views(views_).subspan(some.first, some.second); }

 private:
  struct Release {
    void operator()(Py_buffer* buffer) const {
      PyBuffer_Release(buffer);
      delete buffer;
    }
  };
  struct Operand {
    nanobind::object object;
    std::unique_ptr<Py_buffer, Release> buffer{};
    bool made = false;
    nanobind::object storage{};  // of a tensor: what owns its memory
  };

  void keep(std::size_t i) {
    static PyObject* const untyped_storage = PyUnicode_InternFromString("untyped_storage");
    all_[i].storage = call(all_[i].object.ptr(), untyped_storage);
    const Address seen = views_[i].at;
    if (inspect(i).at != seen)
      throw Mismatch("expected " + views_[i].who() + " to stay where it is, got other memory meanwhile");
  }

  static void check_plain(nanobind::handle object, const View& v) {
    if (is_plain(object)) return;
    throw nanobind::type_error(
        ("expected " + v.who() + " to be a plain tensor or an array, got " + nanobind::inst_name(object).c_str())
            .c_str());
  }
  static void count_axes(View& v, Long axes) {
    if (axes > kMostAxes)
      throw Mismatch(
          "expected " + v.who() + " of at most " + std::to_string(kMostAxes) + " axes, got " + std::to_string(axes));
    v.axes = static_cast<int>(axes);
  }
  static void inspect(const Py_buffer& b, View& v) {
    if (b.itemsize < 1) throw Mismatch("expected " + v.who() + " of numbers, got elements of no bytes");
    const char format = b.format && b.format[0] && !b.format[1] ? b.format[0] : b.format ? '\0' : 'B';
    const auto bits = static_cast<unsigned char>(b.itemsize * 8);
    v.type = format == 'f' || format == 'd' ? Type{2, bits}
        : format == 'l' || format == 'q'    ? Type{0, bits}
        : format == 'B'                     ? kUint8
        : format == '?'                     ? kBool
        : format == 'H'                     ? kBfloat16
                                            : kOther;
    v.at = reinterpret_cast<Address>(b.buf);
    count_axes(v, b.ndim);
    for (int d = 0; d < v.axes; ++d) {
      v.shape[d] = b.shape[d], v.strides[d] = b.strides[d] / b.itemsize;
      if (b.strides[d] % b.itemsize != 0 && b.shape[d] > 1)
        throw Mismatch("expected " + v.who() + " with whole elements from one to the next, got strides of " +
            std::to_string(b.strides[d]) + " bytes");
    }
  }
  static void inspect(PyObject* tensor, View& v) {
    nanobind::dlpack::dltensor t;
    if (exchange()->view(tensor, &t) != 0) {
      PyErr_Clear();
      throw Mismatch("expected " + v.who() + " to be a dense tensor in memory, got " +
          nanobind::inst_name(tensor).c_str() + " that does not show where it lies");
    }
    check_cpu(v, t.device.device_type == nanobind::device::cpu::value);
    v.type = t.dtype.lanes == 1 ? Type{t.dtype.code, t.dtype.bits} : kOther;
    v.at = address_of(t);
    count_axes(v, t.ndim);
    Long stride = 1;
    for (int d = v.axes; d-- > 0; stride *= t.strides ? 1 : t.shape[d])
      v.shape[d] = t.shape[d], v.strides[d] = t.strides ? t.strides[d] : stride;
  }
  static void ask(nanobind::handle tensor, View& v) {
    namespace nb = nanobind;
    check_cpu(v, nb::cast<bool>(tensor.attr("is_cpu")));
    const nb::object dtype = tensor.attr("dtype"), sizes = tensor.attr("shape"), steps = tensor.attr("stride")();
    const nb::object text = nb::steal(PyObject_Str(dtype.ptr()));
    if (!text.is_valid()) throw nb::python_error();
    const auto type = nb::cast<std::string>(text);
    v.type = kOther;
    for (const Type known : {kFloat32, kFloat64, kBfloat16, kInt64, kUint8, kBool})
      if (type == "torch." + known.name()) v.type = known;
    const auto shape = nb::cast<nb::tuple>(sizes), strides = nb::cast<nb::tuple>(steps);
    if (shape.size() != strides.size())
      throw Mismatch("expected " + v.who() + " with a stride for each axis, got others");
    count_axes(v, static_cast<Long>(shape.size()));
    for (int d = 0; d < v.axes; ++d)
      v.shape[d] = nb::cast<Long>(shape[static_cast<std::size_t>(d)]),
      v.strides[d] = nb::cast<Long>(strides[static_cast<std::size_t>(d)]);
    v.at = nb::cast<Address>(tensor.attr("data_ptr")());
  }
  static void check_cpu(const View& v, bool cpu) {
    if (!cpu) throw Mismatch("expected " + v.who() + " on the CPU, got a tensor on another device");
  }

  std::vector<Operand> all_;
  std::vector<View> views_;
};

}  // namespace elman
