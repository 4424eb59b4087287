// A quick look at tensors through DLPack's C exchange interface (DLPack 1.2 and later; torch 2.10 and later offer it), some ten times faster than asking
// a tensor's attributes one by one from Python. Where a library does not offer it, Python asks.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <vector>

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

const ExchangeApi*& exchange();  // the one in use; null: there is none

// From the capsule that a tensor class carries as __dlpack_c_exchange_api__; null if it is none we know.
inline const ExchangeApi* exchange_api(nanobind::handle capsule) {
  auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) PyErr_Clear();
  return api && api->major == 1 && api->view ? api : nullptr;
}

// Calls a method without arguments; throws what it raises.
inline nanobind::object call(PyObject* object, PyObject* method) {
  nanobind::object result = nanobind::steal(PyObject_CallMethodNoArgs(object, method));
  if (!result.is_valid()) throw nanobind::python_error();
  return result;
}

// Whether a tensor is what kernels can read: on the CPU, float32, float64 or bfloat16, which its bits tell apart, its numbers in memory as they are. Then `t` describes it.
inline bool look(const ExchangeApi* api, PyObject* tensor, nanobind::dlpack::dltensor& t) {
  namespace nb = nanobind;
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  if (api->view(tensor, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  const auto is = [&](nb::dlpack::dtype_code code, int bits) { return t.dtype.code == static_cast<std::uint8_t>(code) && t.dtype.bits == bits; };
  const bool number = is(nb::dlpack::dtype_code::Float, 32) || is(nb::dlpack::dtype_code::Float, 64) || is(nb::dlpack::dtype_code::Bfloat, 16);
  return number && t.dtype.lanes == 1 && t.device.device_type == nb::device::cpu::value && call(tensor, is_neg).is(Py_False);
}

inline std::uintptr_t address_of(const nanobind::dlpack::dltensor& t) { return reinterpret_cast<std::uintptr_t>(t.data) + t.byte_offset; }

inline bool is_dense(const nanobind::dlpack::dltensor& t) {
  std::int64_t stride = 1;
  for (std::int32_t d = t.ndim; d-- > 0; stride *= t.shape[d])
    if (t.shape[d] != 1 && t.strides && t.strides[d] != stride) return false;
  return true;
}

inline bool has_shape(const nanobind::dlpack::dltensor& t, PyObject* shape) {
  if (!PyTuple_Check(shape) || PyTuple_GET_SIZE(shape) != t.ndim) return false;
  for (std::int32_t d = 0; d < t.ndim; ++d) {
    PyObject* length = PyTuple_GET_ITEM(shape, d);
    if (!PyLong_Check(length) || PyLong_AsLongLong(length) != t.shape[d]) {
      PyErr_Clear();  // a length too long for 64 bits
      return false;
    }
  }
  return true;
}

// The addresses of tensors that kernels can read, all dense, of one dtype and of these shapes; false if any is not so.
inline bool dense_addresses(const ExchangeApi* api, nanobind::handle tensors, nanobind::tuple shapes, std::vector<std::uintptr_t>& to, int& bits) {
  namespace nb = nanobind;
  const nb::object fast = nb::steal(PySequence_Fast(tensors.ptr(), "tensors must be a list or a tuple"));
  if (!fast.is_valid()) throw nb::python_error();
  const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(fast.ptr()));
  if (!api || count != shapes.size()) return false;
  to.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    nb::dlpack::dltensor t;
    if (!look(api, PySequence_Fast_GET_ITEM(fast.ptr(), static_cast<Py_ssize_t>(i)), t)) return false;
    if (i == 0) bits = t.dtype.bits;
    if (t.dtype.bits != bits || !is_dense(t) || !has_shape(t, PyTuple_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(i)))) return false;
    to.push_back(address_of(t));
  }
  return true;
}

}  // namespace elman
