// Python's door to the kernels: addresses, sizes and strides, checked before they are used. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "exchange.h"

namespace nb = nanobind;

namespace elman {
namespace {

using Address = std::uintptr_t;
using Long = std::int64_t;

constexpr Address kEnd = Address{1} << 63;  // no process has memory beyond
constexpr Long kMost = Long{1} << 40;  // no size or stride beyond this: products of two then fit in 80 bits, and are checked in 128

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("elman._native: " + what); }

void check(bool ok, const char* what) {
  if (!ok) refuse(what);
}

Address address(nb::handle value) {
  Address at = 0;
  check(nb::try_cast(value, at), "an address must be an integer from 0 to 2^64 - 1");
  return at;
}

Long product(std::initializer_list<Long> factors) {
  __int128 p = 1;
  for (Long f : factors) {
    p *= f;
    if (p > kMost * 64) refuse("the sizes multiply to more elements than memory can hold");
  }
  return static_cast<Long>(p);
}

// The memory that a call reads and writes, to see that nothing written overlaps anything else.
class Ranges {
 public:
  explicit Ranges(Long element) : element_(element) {}

  template <class T>
  T* read(const char* name, Address at, Long elements, bool nullable = false) {
    return static_cast<T*>(add(name, at, elements, nullable, reads_));
  }
  template <class T>
  T* write(const char* name, Address at, Long elements, bool nullable = false) {
    return static_cast<T*>(add(name, at, elements, nullable, writes_));
  }
  void check_overlap() const {
    for (std::size_t i = 0; i < writes_.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) check_pair(writes_[i], writes_[j]);
      for (const Range& r : reads_) check_pair(writes_[i], r);
    }
  }

 private:
  struct Range {
    const char* name;
    Address from, to;
  };
  static void check_pair(const Range& a, const Range& b) {
    if (a.from < b.to && b.from < a.to) refuse(std::string(a.name) + " is written and overlaps " + b.name);
  }
  void* add(const char* name, Address at, Long elements, bool nullable, std::vector<Range>& to) {
    if (elements == 0 || (at == 0 && nullable)) return at == 0 || elements == 0 ? nullptr : reinterpret_cast<void*>(at);
    if (at == 0) refuse(std::string(name) + " is null");
    if (at % static_cast<Address>(element_) != 0) refuse(std::string(name) + " is not aligned to its element");
    const Address bytes = static_cast<Address>(elements) * static_cast<Address>(element_);
    if (at > kEnd - bytes) refuse(std::string(name) + " runs past the end of memory");
    to.push_back({name, at, at + bytes});
    return reinterpret_cast<void*>(at);
  }
  Long element_;
  std::vector<Range> reads_, writes_;
};

// A network and the way its sequences lie, from plain numbers.
struct Checked {
  Network net{};
  Long element, width;  // bytes of a number; D·H
  std::vector<Long> alive, offset;  // a copy of the batch sizes, which others may change while the lock is released; and their running sum
  std::vector<Parameters> parameters;
  Ranges ranges;

  static Long element_of(int number) {
    check(number == 0 || number == 1, "the number type must be 0 (float32) or 1 (float64)");
    return number == 0 ? 4 : 8;
  }

  Checked(int cell, int number, Long T, Long B, Long I, Long H, Long L, Long D, Address batch_sizes, nb::handle params, int threads) : element(element_of(number)), ranges(element) {
    check(threads >= 1, "threads must be at least 1");
    check(cell == 0 || cell == 1, "the cell must be 0 (rnn_tanh) or 1 (rnn_relu)");
    check(T >= 1 && B >= 1 && I >= 0 && H >= 1 && L >= 1 && (D == 1 || D == 2), "sizes must be T, B, H, L >= 1, I >= 0 and D 1 or 2");
    check(T <= kMost && B <= kMost && I <= kMost && H <= kMost && L <= kMost, "a size is too large");
    net.cell = static_cast<CellKind>(cell);
    net.number = static_cast<Number>(number);
    net.T = T, net.B = B, net.I = I, net.H = H, net.L = L, net.D = D;
    net.rows = product({T, B});
    width = D * H;
    product({net.rows, width > I ? width : I});
    product({L, width, width > I ? width : I});
    product({L, width, B});
    check(nb::isinstance<nb::sequence>(params) && nb::len(params) == static_cast<std::size_t>(L * D) * 4, "parameters must be 4 addresses for each layer and direction");
    parameters.resize(static_cast<std::size_t>(L * D));
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Long columns = static_cast<Long>(i) < D ? I : width;
      const Address b_ih = address(params[4 * i + 2]), b_hh = address(params[4 * i + 3]);
      check((b_ih == 0) == (b_hh == 0), "b_ih and b_hh come both or neither");
      parameters[i] = {ranges.read<void>("w_ih", address(params[4 * i]), H * columns), ranges.read<void>("w_hh", address(params[4 * i + 1]), H * H),
                       ranges.read<void>("b_ih", b_ih, H, true), ranges.read<void>("b_hh", b_hh, H, true)};
    }
    net.parameters = parameters.data();
    if (batch_sizes != 0) {  // read last, when nothing else is wrong: that there are T of them has to be believed
      check(batch_sizes % sizeof(Long) == 0, "batch_sizes is not aligned to its element");
      alive.assign(reinterpret_cast<const Long*>(batch_sizes), reinterpret_cast<const Long*>(batch_sizes) + T);
      net.alive = alive.data();
      offset.resize(static_cast<std::size_t>(T));
      net.rows = 0;
      for (Long t = 0; t < T; ++t) {
        check(net.alive[t] >= 1 && net.alive[t] <= (t == 0 ? B : net.alive[t - 1]), "batch_sizes must not increase, nor fall below 1");
        offset[static_cast<std::size_t>(t)] = net.rows;
        net.rows += net.alive[t];
      }
      check(net.alive[0] == B, "batch_sizes must begin with B");
      net.offset = offset.data();
    }
  }

  // How many elements lie between a sequence's first and last. Rows that are written must not overlap one another.
  Long extent(const char* name, Long& step, Long& row, Long columns, bool written) const {
    if (net.T == 1) step = 0;  // the stride of an axis of length one means nothing
    if (net.B == 1 && !net.alive) row = 0;
    check(step >= 0 && row >= 0 && step <= kMost && row <= kMost, "strides must not be negative, nor too large");
    if (written && net.rows > 1) {
      bool apart;
      if (net.alive)
        apart = row >= columns;
      else if (net.T == 1)
        apart = row >= columns;
      else if (net.B == 1)
        apart = step >= columns;
      else
        apart = row <= step ? row >= columns && step >= product({net.B - 1, row}) + columns : step >= columns && row >= product({net.T - 1, step}) + columns;
      if (!apart) refuse(std::string("rows of ") + name + " overlap one another");
    }
    const Long last = net.alive ? product({net.rows - 1, row}) : product({net.T - 1, step}) + product({net.B - 1, row});
    return columns == 0 ? 0 : last + columns;
  }
  Sequence read(const char* name, Address at, Long step, Long row, Long columns, bool nullable = false) {
    if (at == 0 && nullable) return {nullptr, 0, 0};
    return {ranges.read<void>(name, at, extent(name, step, row, columns, false), nullable), step, row};
  }
  Sequence write(const char* name, Address at, Long step, Long row, Long columns, bool nullable = false) {
    if (at == 0 && nullable) return {nullptr, 0, 0};
    return {ranges.write<void>(name, at, extent(name, step, row, columns, true), nullable), step, row};
  }
  Long states() const { return net.L * width * net.B; }
  Long hidden() const { return product({net.L - 1, net.rows, width}); }
};

const Target*& target() {
  static const Target* chosen = &choose_target("");
  return chosen;
}

const ExchangeApi*& exchange() {
  static const ExchangeApi* api = nullptr;
  return api;
}

template <class Call>
void run_without_lock(const Call& call, int threads) {
  nb::gil_scoped_release release;
  run(*target(), call, threads);
}

void forward(int cell, int number, Long T, Long B, Long I, Long H, Long L, Long D, Address batch_sizes, nb::handle params, int threads, Address x, Long x_step, Long x_row,
             Address initial, Address output, Long output_step, Long output_row, Address final, Address hidden) {
  Checked c(cell, number, T, B, I, H, L, D, batch_sizes, params, threads);
  Forward f{};
  f.x = c.read("x", x, x_step, x_row, I);
  f.initial = c.ranges.read<void>("initial", initial, c.states(), true);
  f.output = c.write("output", output, output_step, output_row, c.width);
  f.final = c.ranges.write<void>("final", final, c.states());
  f.hidden = c.ranges.write<void>("hidden", hidden, c.hidden(), true);
  c.ranges.check_overlap();
  f.net = c.net;
  run_without_lock(f, threads);
}

void backward(int cell, int number, Long T, Long B, Long I, Long H, Long L, Long D, Address batch_sizes, nb::handle params, int threads, Address x, Long x_step, Long x_row,
              Address initial, Address output, Long output_step, Long output_row, Address hidden, Address d_output, Long d_output_step, Long d_output_row,
              Long d_output_column, Address d_final, Address d_x, Long d_x_step, Long d_x_row, Address d_initial, nb::handle d_params) {
  Checked c(cell, number, T, B, I, H, L, D, batch_sizes, params, threads);
  Backward f{};
  f.x = c.read("x", x, x_step, x_row, I);
  f.initial = c.ranges.read<void>("initial", initial, c.states(), true);
  f.output = c.read("output", output, output_step, output_row, c.width);
  f.hidden = c.ranges.read<void>("hidden", hidden, c.hidden());
  check(d_output_column == 0 || d_output_column == 1, "the gradient's column stride must be 0 or 1");
  f.d_output = c.read("d_output", d_output, d_output_step, d_output_row, d_output_column ? c.width : 1, true);
  f.d_output.column = d_output_column;
  f.d_final = c.ranges.read<void>("d_final", d_final, c.states(), true);
  f.d_x = c.write("d_x", d_x, d_x_step, d_x_row, I, true);
  f.d_initial = c.ranges.write<void>("d_initial", d_initial, c.states(), true);
  std::vector<Gradients> gradients(c.parameters.size());
  check(nb::isinstance<nb::sequence>(d_params) && nb::len(d_params) == gradients.size() * 4, "gradients must be 4 addresses for each layer and direction");
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const Long columns = static_cast<Long>(i) < D ? I : c.width;
    gradients[i] = {c.ranges.write<void>("the gradient of w_ih", address(d_params[4 * i]), H * columns, true),
                    c.ranges.write<void>("the gradient of w_hh", address(d_params[4 * i + 1]), H * H, true),
                    c.ranges.write<void>("the gradient of b_ih", address(d_params[4 * i + 2]), H, true),
                    c.ranges.write<void>("the gradient of b_hh", address(d_params[4 * i + 3]), H, true)};
  }
  c.ranges.check_overlap();
  f.net = c.net;
  f.gradients = gradients.data();
  run_without_lock(f, threads);
}

// The usual call in one step: plain tensors of the plain classes, (T, B, I) or with batch_first (B, T, I), nothing to differentiate. Looks at every tensor,
// allocates the results as torch does for `x`, runs, and returns (output, final). None, with nothing done, for any call that is not of this kind.
nb::object plain_forward(int cell, Long I, Long H, Long L, Long D, bool bias, nb::tuple shapes, nb::tuple params, nb::handle x, nb::handle h_0, bool batch_first, bool grad_mode,
                         nb::handle classes, int threads) {
  static PyObject* const requires_grad = PyUnicode_InternFromString("requires_grad");
  static PyObject* const new_empty_strided = PyUnicode_InternFromString("new_empty_strided");
  const ExchangeApi* api = exchange();
  if (!api) return nb::none();
  const auto usual = [&](PyObject* tensor) {
    if (!PyTuple_Check(classes.ptr())) return false;
    bool known = false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(classes.ptr()); ++i) known |= reinterpret_cast<PyObject*>(Py_TYPE(tensor)) == PyTuple_GET_ITEM(classes.ptr(), i);
    if (!known || !grad_mode) return known;
    const nb::object differentiated = nb::steal(PyObject_GetAttr(tensor, requires_grad));
    if (!differentiated.is_valid()) throw nb::python_error();
    return differentiated.is(Py_False);
  };
  nb::dlpack::dltensor in;
  if (!usual(x.ptr()) || !look(api, x.ptr(), in) || in.ndim != 3 || in.shape[2] != I || in.shape[0] < 1 || in.shape[1] < 1 || (in.strides && in.strides[2] != 1 && I != 1))
    return nb::none();
  for (std::size_t i = 0; i < params.size(); ++i)
    if (!usual(PyTuple_GET_ITEM(params.ptr(), static_cast<Py_ssize_t>(i)))) return nb::none();
  int bits = 0;
  const nb::object dense = dense_addresses(api, params, shapes, &bits);
  if (dense.is_none() || bits != in.dtype.bits) return nb::none();
  const int time = batch_first ? 1 : 0, row = 1 - time;
  const Long T = in.shape[time], B = in.shape[row], width = D * H;
  Address initial = 0;
  if (!h_0.is_none()) {
    nb::dlpack::dltensor h;
    if (!usual(h_0.ptr()) || !look(api, h_0.ptr(), h) || h.dtype.bits != bits || h.ndim != 3 || h.shape[0] != L * D || h.shape[1] != B || h.shape[2] != H || !is_dense(h))
      return nb::none();
    initial = address_of(h);
  }
  nb::list addresses;
  for (nb::handle address : dense) {
    addresses.append(address);
    if (!bias && addresses.size() % 4 == 2) addresses.append(0), addresses.append(0);
  }
  const auto allocate_like_x = [&](Long a, Long b, Long c, nb::dlpack::dltensor& t) {
    const nb::tuple shape = nb::make_tuple(a, b, c), strides = nb::make_tuple(b * c, c, 1);
    PyObject* arguments[] = {x.ptr(), shape.ptr(), strides.ptr()};
    nb::object made = nb::steal(PyObject_VectorcallMethod(new_empty_strided, arguments, 3, nullptr));
    if (!made.is_valid() || api->view(made.ptr(), &t) != 0) throw nb::python_error();
    return made;
  };
  nb::dlpack::dltensor out, last;
  const nb::object output = allocate_like_x(in.shape[0], in.shape[1], width, out), final = allocate_like_x(L * D, B, H, last);
  const auto stride = [&](const nb::dlpack::dltensor& t, int axis) { return t.strides ? t.strides[axis] : axis == 0 ? t.shape[1] * t.shape[2] : t.shape[2]; };
  forward(cell, bits == 32 ? 0 : 1, T, B, I, H, L, D, 0, addresses, threads, address_of(in), stride(in, time), stride(in, row), initial, address_of(out), stride(out, time),
          stride(out, row), address_of(last), 0);
  return nb::make_tuple(output, final);
}

void activation(int cell, int number, Address from, Address to, Long n) {
  check(cell == 0 || cell == 1, "the cell must be 0 (rnn_tanh) or 1 (rnn_relu)");
  check(n >= 0 && n <= kMost, "the count must not be negative, nor too large");
  Ranges ranges(Checked::element_of(number));
  const void* in = ranges.read<void>("from", from, n);
  void* out = ranges.write<void>("to", to, n);
  ranges.check_overlap();
  nb::gil_scoped_release release;
  target()->activation(static_cast<CellKind>(cell), static_cast<Number>(number), in, out, n);
}

}  // namespace
}  // namespace elman

NB_MODULE(_native, m) {
  using namespace elman;
  m.def("use", [](const std::string& name) { target() = &choose_target(name); });
  m.def("isa", [] { return std::string(target()->name); });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Target* t : supported_targets()) names.emplace_back(t->name);
    return names;
  });
  m.def("peak", [](int number, int threads) {
    Checked::element_of(number);
    nb::gil_scoped_release release;
    return peak(*target(), static_cast<Number>(number), threads);
  });
  m.def("offer_exchange", [](nb::handle capsule) { exchange() = exchange_api(capsule); });
  m.def("dense_addresses", [](nb::sequence tensors, nb::tuple shapes) { return dense_addresses(exchange(), tensors, shapes); });
  const nb::arg any;
  m.def("plain_forward", &plain_forward, any, any, any, any, any, any, any, any, nb::arg().none(), nb::arg().none(), any, any, any, any);
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("activation", &activation);
}
