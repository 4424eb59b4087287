// A parameter whose values a stream has packed: whether it still is as it was.
#pragma once

#include <algorithm>
#include <vector>

#include "exchange.h"

namespace elman {

// One parameter as it was when its values were packed: where it was found, what it was, how often it had been written
// to, where it lay, and some of its numbers, spread over it; for not all writes are counted (by way of a tensor's data,
// and some fused optimizers').
struct PackedParameter {
  static constexpr int kSome = 16;
  nanobind::object name, parameter;
  Long version;
  std::vector<Long> shape{};
  const void* at = nullptr;
  Long bytes = 0;
  bool wide = false;  // numbers of 64 bits, not 32
  Long places[kSome] = {};
  std::uint64_t some[kSome] = {};

  void remember(const View& v) {
    Long elements = 1;
    for (int d = 0; d < v.axes; ++d) elements *= v.shape[d];
    const Long last = elements - 1;
    shape.assign(v.shape, v.shape + v.axes);
    at = reinterpret_cast<const void*>(v.at), wide = v.type == kFloat64, bytes = elements * (wide ? 8 : 4);
    for (int i = 0; i < kSome; ++i) places[i] = last * i / (kSome - 1);
    for (int i = 0; i < kSome; ++i) some[i] = wide ? number<std::uint64_t>(i) : number<std::uint32_t>(i);
  }
  bool is_unchanged() const { return wide ? are_the_same<std::uint64_t>() : are_the_same<std::uint32_t>(); }
  bool lies_there(const ExchangeApi* api) const {
    nanobind::dlpack::dltensor t;
    if (api && api->view(parameter.ptr(), &t) == 0)
      return address_of(t) == reinterpret_cast<std::uintptr_t>(at) && is_dense(t) &&
          Type{t.dtype.code, t.dtype.bits} == (wide ? kFloat64 : kFloat32) &&
          std::equal(shape.begin(), shape.end(), t.shape, t.shape + t.ndim);
    PyErr_Clear();
    static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
    if (nanobind::cast<std::uintptr_t>(call(parameter.ptr(), data_ptr)) != reinterpret_cast<std::uintptr_t>(at))
      return false;
    Long bytes = wide ? 8 : 4;
    for (const Long size : shape) bytes *= size;
    return nanobind::cast<Long>(parameter.attr("nbytes")) == bytes;
  }
  // How often it has been written to.
  static Long count(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("_version");
    const nanobind::object count = nanobind::steal(PyObject_GetAttr(tensor, name));
    if (!count.is_valid()) throw nanobind::python_error();
    const Long number = PyLong_AsLongLong(count.ptr());
    if (number == -1 && PyErr_Occurred()) throw nanobind::python_error();
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

}  // namespace elman
