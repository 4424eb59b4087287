// Tensors as torch shows them to C: by DLPack's C exchange interface (DLPack 1.2 and later; torch 2.10 and later offer
// it), some ten times faster than asking a tensor's attributes one by one.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdlib>

#include "views.h"

namespace elman {

namespace nb = nanobind;

struct ExchangeApi {  // the head of DLPackExchangeAPI, as far as it is used here
  std::uint32_t major, minor;
  void* previous;
  void* allocate;
  void* from_python;
  void* to_python;
  int (*view)(void* object, nb::dlpack::dltensor* out);  // may be null; not 0: failed, with a Python error set
};

inline const ExchangeApi* exchange = nullptr;  // the one in use; null: there is none

// From the capsule that a tensor class carries as __dlpack_c_exchange_api__; null if it is none we know.
inline const ExchangeApi* exchange_api(nb::handle capsule) {
  auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) PyErr_Clear();
  return api && api->major == 1 && api->view ? api : nullptr;
}

// What Python returned; throws what it raised instead.
inline nb::object returned(PyObject* result) {
  if (!result) throw nb::python_error();
  return nb::steal(result);
}

// Calls a method without arguments.
inline nb::object call(PyObject* object, PyObject* method) {
  return returned(PyObject_VectorcallMethod(method, &object, 1, nullptr));
}

// Whether a tensor's numbers are negated lazily, not in memory as they are. To ask lets other Python threads run.
inline bool is_negated(PyObject* tensor) {
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  return !call(tensor, is_neg).is(Py_False);
}

// Whether torch shows a tensor; then `t` says where it lies.
inline bool is_shown(PyObject* tensor, nb::dlpack::dltensor& t) {
  if (exchange && exchange->view(tensor, &t) == 0) return true;
  return PyErr_Clear(), false;
}

inline Address address_of(const nb::dlpack::dltensor& t) { return reinterpret_cast<Address>(t.data) + t.byte_offset; }

// Where a tensor lies, whose numbers have so many bits. Of a part of one without memory (zeros that need none, a freed
// storage) torch says how far behind nothing it begins: nowhere. Where all memory lies low, only the lowest is doubted.
inline Address place_of(PyObject* tensor, Address said, int bits) {
  static PyObject* const storage_offset = PyUnicode_InternFromString("storage_offset");
  static const bool is_low = reinterpret_cast<Address>(std::malloc(1)) >> 40 == 0;
  if (said == 0 || said >> 40 || (is_low && said >> 23)) return said;  // as most do; no tensor is as long
  return said == nb::cast<Address>(call(tensor, storage_offset)) * static_cast<Address>(bits / 8) ? 0 : said;
}

// The classes whose tensors are what they seem: a subclass may mean anything by its operations.
inline nb::object& plain_classes() {
  static auto* classes = new nb::object(nb::make_tuple());  // never destroyed: Python may be gone by then
  return *classes;
}
inline bool is_plain(nb::handle tensor) {
  PyObject* const classes = plain_classes().ptr();
  for (Py_ssize_t i = 0; i < NB_TUPLE_GET_SIZE(classes); ++i)
    if (reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) == NB_TUPLE_GET_ITEM(classes, i)) return true;
  return false;
}

inline bool requires_grad(nb::handle tensor) {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  return returned(PyObject_GetAttr(tensor.ptr(), name)).is(Py_True);
}

// Memory for numbers, uninitialised, as torch would make it for `like`, so that its modes see it; of so many members.
// `wide`: in float32, not in the type of `like`.
inline nb::object allocate(nb::handle like, const Shape& shape, Long members, bool wide = false) {
  static PyObject* const new_empty_strided =
      PyUnicode_InternFromString("new_empty_strided");  // of torch's ways the fastest
  const int before = members > 0, axes = before + shape.axes;
  const nb::object sizes = returned(PyTuple_New(axes)), strides = returned(PyTuple_New(axes));
  for (Long d = axes, stride = 1; d-- > 0;) {
    const Long size = d < before ? members : shape[d - before];
    NB_TUPLE_SET_ITEM(sizes.ptr(), d, PyLong_FromLongLong(size));
    NB_TUPLE_SET_ITEM(strides.ptr(), d, PyLong_FromLongLong(stride));
    stride = product({stride, size});
  }
  static PyObject *const names = PyTuple_Pack(1, PyUnicode_InternFromString("dtype")),
                         *const float32 = nb::object(nb::module_::import_("torch").attr("float32")).release().ptr();
  PyObject* arguments[] = {like.ptr(), sizes.ptr(), strides.ptr(), float32};
  return returned(PyObject_VectorcallMethod(new_empty_strided, arguments, 3, wide ? names : nullptr));
}

// glibc gives memory at the heap's end back to the system if it is more than twice the largest block that was ever
// freed: then each training step takes the same pages anew. To free the largest block that it looks at, once and
// untouched, lets it keep up to 64 MiB; where a user has set its thresholds, nothing changes.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  static const bool once = [] {
    void* volatile block = std::malloc((std::size_t{32} << 20) - (std::size_t{8} << 10));
    std::free(block);
    return true;
  }();
  static_cast<void>(once);
#endif
}

}  // namespace elman
