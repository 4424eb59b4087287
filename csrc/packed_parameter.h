// A parameter whose values a stream has packed: whether it still is as it was.
#pragma once

#include "exchange.h"

namespace elman {

// One parameter as it was when its values were packed: where it was found, what it was, how often it had been written
// to, where it lay, and some of its numbers, spread over it; for not all writes are counted (by way of a tensor's data,
// and some fused optimizers').
struct PackedParameter {
  static constexpr int kSome = 16;
  nanobind::object name, parameter;
  Long version;
  Shape shape{};
  const void* at = nullptr;
  Long bytes = 0;
  bool wide = false;  // numbers of 64 bits, not 32
  Long places[kSome] = {};
  std::uint64_t some[kSome] = {};

  void remember(const View& v) {
    const Long elements = product(v.shape), last = elements - 1;
    shape = v.shape, at = reinterpret_cast<const void*>(v.at), wide = v.type == kFloat64,
    bytes = elements * (wide ? 8 : 4);
    for (int i = 0; i < kSome; ++i) places[i] = last * i / (kSome - 1);
    for (int i = 0; i < kSome; ++i) some[i] = wide ? number<std::uint64_t>(i) : number<std::uint32_t>(i);
  }
  bool is_unchanged() const { return wide ? are_the_same<std::uint64_t>() : are_the_same<std::uint32_t>(); }
  bool lies_there() const {
    nanobind::dlpack::dltensor t;
    if (is_shown(parameter.ptr(), t))
      return address_of(t) == reinterpret_cast<Address>(at) && Type{t.dtype.code, t.dtype.bits} == type() &&
          std::equal(shape.size, shape.size + shape.axes, t.shape, t.shape + t.ndim) &&
          (!t.strides || is_dense(t.ndim, t.shape, t.strides));
    static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
    return nanobind::cast<Address>(call(parameter.ptr(), data_ptr)) == reinterpret_cast<Address>(at) &&
        nanobind::cast<Long>(parameter.attr("nbytes")) == bytes;
  }
  // How often it has been written to.
  static Long count(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("_version");
    const Long number = PyLong_AsLongLong(returned(PyObject_GetAttr(tensor, name)).ptr());
    if (number == -1 && PyErr_Occurred()) throw nanobind::python_error();
    return number;
  }

 private:
  Type type() const { return wide ? kFloat64 : kFloat32; }
  template <class Bits> Bits number(int i) const { return static_cast<const Bits*>(at)[places[i]]; }
  template <class Bits> bool are_the_same() const {
    Bits difference = 0;
    for (int i = 0; i < kSome; ++i) difference |= static_cast<Bits>(some[i]) ^ number<Bits>(i);
    return difference == 0;
  }
};

}  // namespace elman
