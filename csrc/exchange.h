// Tensors as torch shows them to C: by DLPack's C exchange interface (DLPack 1.2 and later; torch 2.10 and later offer
// it), some ten times faster than asking a tensor's attributes one by one.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>

#include "views.h"

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
  nanobind::object result = nanobind::steal(PyObject_VectorcallMethod(method, &object, 1, nullptr));
  if (!result.is_valid()) throw nanobind::python_error();
  return result;
}

// Whether a tensor's numbers are negated lazily, and not in memory as they are. To ask lets other threads of Python
// run.
inline bool is_negated(PyObject* tensor) {
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  return !call(tensor, is_neg).is(Py_False);
}

// Whether a tensor is what kernels can read: on the CPU, float32, float64 or bfloat16, which its bits tell apart, its
// numbers in memory as they are. Then `t` describes it.
inline bool can_read(const ExchangeApi* api, PyObject* tensor, nanobind::dlpack::dltensor& t) {
  if (api->view(tensor, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  const Type type{t.dtype.code, t.dtype.bits};
  return (type == kFloat32 || type == kFloat64 || type == kBfloat16) && t.dtype.lanes == 1 &&
      t.device.device_type == nanobind::device::cpu::value && !is_negated(tensor);
}

inline Address address_of(const nanobind::dlpack::dltensor& t) {
  return reinterpret_cast<Address>(t.data) + t.byte_offset;
}

inline bool is_dense(const nanobind::dlpack::dltensor& t) {
  std::int64_t stride = 1;
  for (std::int32_t d = t.ndim; d-- > 0; stride *= t.shape[d])
    if (t.shape[d] != 1 && t.strides && t.strides[d] != stride) return false;
  return true;
}

// The classes whose tensors are what they seem: a subclass may mean anything by its operations.
inline nanobind::object& plain_classes() {
  static auto* classes = new nanobind::object(nanobind::make_tuple());  // never destroyed: Python may be gone by then
  return *classes;
}
inline bool is_plain(nanobind::handle tensor) {
  PyObject* const classes = plain_classes().ptr();
  for (Py_ssize_t i = 0; i < NB_TUPLE_GET_SIZE(classes); ++i)
    if (reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) == NB_TUPLE_GET_ITEM(classes, i)) return true;
  return false;
}

inline bool requires_grad(nanobind::handle tensor) {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  const nanobind::object value = nanobind::steal(PyObject_GetAttr(tensor.ptr(), name));
  if (!value.is_valid()) throw nanobind::python_error();
  return value.is(Py_True);
}

// Memory for numbers, uninitialised, as torch would make it for `like`, so that its modes and hooks see it.
inline nanobind::object allocate(nanobind::handle like, std::initializer_list<Long> shape) {
  static PyObject* const new_empty_strided =
      PyUnicode_InternFromString("new_empty_strided");  // of torch's ways the fastest
  const auto size = static_cast<Py_ssize_t>(shape.size());
  const nanobind::object sizes = nanobind::steal(PyTuple_New(size)), strides = nanobind::steal(PyTuple_New(size));
  if (!sizes.is_valid() || !strides.is_valid()) throw nanobind::python_error();
  Long stride = 1;
  for (Py_ssize_t d = size; d-- > 0; stride = product({stride, shape.begin()[d]})) {
    NB_TUPLE_SET_ITEM(sizes.ptr(), d, PyLong_FromLongLong(shape.begin()[d]));
    NB_TUPLE_SET_ITEM(strides.ptr(), d, PyLong_FromLongLong(stride));
  }
  PyObject* arguments[] = {like.ptr(), sizes.ptr(), strides.ptr()};
  nanobind::object made = nanobind::steal(PyObject_VectorcallMethod(new_empty_strided, arguments, 3, nullptr));
  if (!made.is_valid()) throw nanobind::python_error();
  return made;
}

}  // namespace elman
