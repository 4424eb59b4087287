// A quick look at tensors through DLPack's C exchange interface (DLPack 1.2 and later; torch 2.10 and later offer it), some ten times faster than asking
// a tensor's attributes one by one from Python. Where a library does not offer it, Python asks.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace elman {

// The head of DLPackExchangeAPI, as far as it is used here.
struct ExchangeApi {
  std::uint32_t major, minor;
  void* previous;
  void* allocate;
  void* from_python;
  void* to_python;
  int (*view)(void* object, nanobind::dlpack::dltensor* out);  // may be null; not 0: failed, with a Python error set
};

// From the capsule that a tensor class carries as __dlpack_c_exchange_api__; null if it is none we know.
inline const ExchangeApi* exchange_api(nanobind::handle capsule) {
  auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) PyErr_Clear();
  return api && api->major == 1 && api->view ? api : nullptr;
}

// The addresses of tensors that are all dense, on the CPU, of one floating-point type, of these shapes, and not negated lazily; None if any is not so.
inline nanobind::object dense_addresses(const ExchangeApi* api, nanobind::sequence tensors, nanobind::tuple shapes) {
  namespace nb = nanobind;
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  const nb::object fast = nb::steal(PySequence_Fast(tensors.ptr(), "tensors must be a list or a tuple"));
  if (!fast.is_valid()) throw nb::python_error();
  const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(fast.ptr()));
  if (!api || count != shapes.size()) return nb::none();
  nb::list addresses;
  nb::dlpack::dtype first{};
  for (std::size_t i = 0; i < count; ++i) {
    PyObject* tensor = PySequence_Fast_GET_ITEM(fast.ptr(), static_cast<Py_ssize_t>(i));
    PyObject* shape = PyTuple_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(i));
    nb::dlpack::dltensor t;
    if (api->view(tensor, &t) != 0) {
      PyErr_Clear();
      return nb::none();
    }
    if (i == 0) first = t.dtype;
    bool fits = t.device.device_type == nb::device::cpu::value && t.dtype == first && t.dtype.lanes == 1 && t.dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) &&
                PyTuple_Check(shape) && PyTuple_GET_SIZE(shape) == t.ndim;
    std::int64_t stride = 1;
    for (std::int32_t d = t.ndim; fits && d-- > 0; stride *= t.shape[d])
      fits = PyLong_Check(PyTuple_GET_ITEM(shape, d)) && PyLong_AsLongLong(PyTuple_GET_ITEM(shape, d)) == t.shape[d] && (t.shape[d] == 1 || !t.strides || t.strides[d] == stride);
    if (!fits) {
      PyErr_Clear();  // a length too long for 64 bits
      return nb::none();
    }
    const nb::object negated = nb::steal(PyObject_CallMethodNoArgs(tensor, is_neg));
    if (!negated.is_valid()) throw nb::python_error();
    if (!negated.is(Py_False)) return nb::none();
    addresses.append(reinterpret_cast<std::uintptr_t>(t.data) + t.byte_offset);
  }
  return addresses;
}

}  // namespace elman
