// Python's door to the kernels: addresses, sizes and strides, checked before they are used. Needs neither torch nor numpy.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "dispatch.h"
#include "exchange.h"
#include "ragged.h"
#include "threads.h"

namespace nb = nanobind;

namespace elman {

void bind_stream(nb::module_& m);  // stream_binding.cpp

const ExchangeApi*& exchange() {
  static const ExchangeApi* api = nullptr;
  return api;
}

namespace {

using Address = std::uintptr_t;
using Long = std::int64_t;

constexpr Address kEnd = Address{1} << 63;  // no process has memory beyond
constexpr std::size_t kTensors = 5;    // of each layer and direction
constexpr Long kMost = Long{1} << 40;  // no size or stride beyond this: products of two then fit in 80 bits, and are checked in 128

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("elman._native: " + what); }

void check(bool ok, const char* what) {
  if (!ok) refuse(what);
}

using Addresses = std::vector<Address>;

// From a sequence of so many Python integers.
Addresses addresses(nb::handle from, std::size_t count, const char* what) {
  check(nb::isinstance<nb::sequence>(from) && nb::len(from) == count, what);
  Addresses all(count);
  for (std::size_t i = 0; i < count; ++i) check(nb::try_cast(from[i], all[i]), "an address must be an integer from 0 to 2^64 - 1");
  return all;
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
  // Bytes of any alignment.
  const unsigned char* read_bytes(const char* name, Address at, Long bytes) {
    if (at > kEnd - static_cast<Address>(bytes)) refuse(std::string(name) + " runs past the end of memory");
    reads_.push_back({name, at, at + static_cast<Address>(bytes)});
    return reinterpret_cast<const unsigned char*>(at);
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

// A network in plain numbers: what every call begins with. P is 0 without a projection. Where rows differ in length, batch_sizes says so of packed sequences,
// and lengths of padded ones; null where every row lives all steps. Resets may be null.
struct Sizes {
  int cell, number;
  Long T, B, I, H, P, L, D;
  Address batch_sizes = 0, lengths = 0, resets = 0;
  Long resets_step = 0, resets_row = 0;
};
constexpr const char* kParameters = "parameters and their gradients must be 5 addresses for each layer and direction";
constexpr const char* kStates = "states must be one address for each of the cell's states";

// How many addresses there are; of what makes no sense, whatever: it is refused later.
std::size_t number_of_tensors(const Sizes& s) { return s.L < 1 || s.D < 1 || s.L > kMost || s.D > 2 ? 0 : static_cast<std::size_t>(s.L * s.D) * kTensors; }
std::size_t number_of_states(const Sizes& s) { return s.cell < 0 || s.cell > 3 ? 0 : static_cast<std::size_t>(states_of(static_cast<CellKind>(s.cell))); }

// The same, and the way its sequences lie, checked.
struct Checked {
  Network net{};
  Long element, width;  // bytes of a number; D·P
  std::vector<Long> alive, offset;  // a copy of the batch sizes, which others may change while the lock is released; and their running sum
  Ragged ragged;
  std::vector<Parameters> parameters;
  Ranges ranges;

  static Long most(Long a, Long b, Long c) { return a > b ? (a > c ? a : c) : b > c ? b : c; }
  Long columns_of(std::size_t direction) const { return static_cast<Long>(direction) < net.D ? net.I : width; }

  static void check_cell(int cell) { check(cell >= 0 && cell <= 3, "the cell must be 0 (rnn_tanh), 1 (rnn_relu), 2 (gru) or 3 (lstm)"); }
  static Long element_of(int number, bool bfloat16_too = false) {
    if (bfloat16_too && number == static_cast<int>(Number::bf16)) return 2;
    check(number == 0 || number == 1, bfloat16_too ? "the number type must be 0 (float32), 1 (float64) or 2 (bfloat16)" : "the number type must be 0 (float32) or 1 (float64)");
    return number == 0 ? 4 : 8;
  }

  Checked(const Sizes& s, const Addresses& params, int threads, bool bfloat16_too = false) : element(element_of(s.number, bfloat16_too)), ranges(element) {
    check(threads >= 1, "threads must be at least 1");
    check_cell(s.cell);
    check(s.T >= 1 && s.B >= 1 && s.I >= 0 && s.H >= 1 && s.L >= 1 && (s.D == 1 || s.D == 2), "sizes must be T, B, H, L >= 1, I >= 0 and D 1 or 2");
    check(s.T <= kMost && s.B <= kMost && s.I <= kMost && s.H <= kMost && s.L <= kMost, "a size is too large");
    net.cell = static_cast<CellKind>(s.cell);
    const bool projects = s.P != 0;
    check(!projects || (net.cell == CellKind::lstm && s.P >= 1 && s.P < s.H), "a projection is an LSTM's, and smaller than H");
    net.number = static_cast<Number>(s.number);
    net.T = s.T, net.B = s.B, net.I = s.I, net.H = s.H, net.L = s.L, net.D = s.D, net.P = projects ? s.P : s.H;
    net.rows = product({s.T, s.B});
    width = s.D * net.P;
    const Long rows_of_weights = gates_of(net.cell) * s.H;
    product({s.L, s.D, net.rows, most(width, s.I, kept_numbers(net.cell) * s.H)});
    product({s.L, s.D, rows_of_weights, most(width, s.I, s.H)});
    product({s.L, s.D, s.B, s.H});
    check(params.size() == number_of_tensors(s), kParameters);
    parameters.resize(params.size() / kTensors);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Address* at = &params[kTensors * i];
      check((at[2] == 0) == (at[3] == 0), "b_ih and b_hh come both or neither");
      check(projects || at[4] == 0, "w_hr belongs to a projection");
      parameters[i] = {ranges.read<void>("w_ih", at[0], rows_of_weights * columns_of(i)), ranges.read<void>("w_hh", at[1], rows_of_weights * net.P),
                       ranges.read<void>("b_ih", at[2], rows_of_weights, true), ranges.read<void>("b_hh", at[3], rows_of_weights, true),
                       ranges.read<void>("w_hr", at[4], net.P * s.H, !projects)};
    }
    net.parameters = parameters.data();
    if (const Address batch_sizes = s.batch_sizes) {  // read last, when nothing else is wrong: that there are T of them has to be believed
      check(batch_sizes % sizeof(Long) == 0, "batch_sizes is not aligned to its element");
      alive.assign(reinterpret_cast<const Long*>(batch_sizes), reinterpret_cast<const Long*>(batch_sizes) + s.T);
      net.alive = alive.data();
      offset.resize(static_cast<std::size_t>(s.T));
      net.rows = 0;
      for (Long t = 0; t < s.T; ++t) {
        check(net.alive[t] >= 1 && net.alive[t] <= (t == 0 ? s.B : net.alive[t - 1]), "batch_sizes must not increase, nor fall below 1");
        offset[static_cast<std::size_t>(t)] = net.rows;
        net.rows += net.alive[t];
      }
      check(net.alive[0] == s.B, "batch_sizes must begin with B");
      net.offset = offset.data();
    }
    if (const Address lengths = s.lengths) {  // likewise
      check(s.batch_sizes == 0, "batch_sizes and lengths exclude one another");
      check(lengths % sizeof(Long) == 0, "lengths is not aligned to its element");
      const std::vector<Long> copy(reinterpret_cast<const Long*>(lengths), reinterpret_cast<const Long*>(lengths) + s.B);
      for (Long length : copy) check(length >= 0 && length <= s.T, "lengths must be from 0 to T");
      ragged = Ragged(copy.data(), s.T, s.B);
    }
    if (s.resets) {
      check(s.resets_step >= 0 && s.resets_row >= 0 && s.resets_step <= kMost && s.resets_row <= kMost, "strides must not be negative, nor too large");
      const Long last = product({s.T - 1, s.resets_step}) + product({s.B - 1, s.resets_row});
      net.resets = {ranges.read_bytes("resets", s.resets, last + 1), s.resets_step, s.resets_row};
    }
  }
  // The network as the kernels are to see it, once everything is checked.
  Network described(bool kept_padded) const {
    Network described = net;
    if (ragged.exists()) ragged.describe(described, kept_padded);
    return described;
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
  Long directions() const { return net.L * net.D; }
  // What is kept of the network as the kernels see it.
  Long hidden(const Network& seen) const { return product({net.L - 1, seen.kept_rows(), width}); }
  Long kept(const Network& seen) const { return product({directions(), seen.kept_rows(), kept_numbers(net.cell) * net.H}); }
  Long marks(const Network& seen) const { return seen.rows == 0 ? 0 : product({directions(), number_of_marks(seen), seen.B, states_of(net.cell) > 1 ? net.H : 0}); }

  void read_states(const char* name, const Addresses& from, const void* (&to)[kMostStates]) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = ranges.read<void>(name, from[i], state(i), true);
  }
  void write_states(const char* name, const Addresses& from, void* (&to)[kMostStates], bool nullable) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = ranges.write<void>(name, from[i], state(i), nullable);
  }
  void read_fresh(const Addresses& from, const void* (&to)[kMostStates]) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = ranges.read<void>("fresh", from[i], fresh(i), true);
  }
  void write_fresh(const Addresses& from, void* (&to)[kMostStates]) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = ranges.write<void>("d_fresh", from[i], fresh(i), true);
  }
  Long state(std::size_t i) const { return product({fresh(i), net.B}); }
  Long fresh(std::size_t i) const { return product({directions(), i == 0 ? net.P : net.H}); }
};

template <class Call>
void run_without_lock(const Checked& checked, const Call& call, int threads) {
  nb::gil_scoped_release release;
  if (checked.ragged.exists())
    checked.ragged.run(*target(), call, threads);
  else
    run(*target(), call, threads);
}

// Where a sequence lies.
struct Place {
  Address at;
  Long step, row;
};

// What is kept of a run for its gradient, and the gradients that arrive there.
struct KeptPlaces {
  Address hidden = 0, steps = 0, marks = 0;
  bool padded = false;
};

void run_forward(const Sizes& s, const Addresses& params, int threads, Place x, const Addresses& initial, const Addresses& fresh, Place output, const Addresses& final, KeptPlaces kept) {
  Checked c(s, params, threads, true);
  check(c.net.number != Number::bf16 || (kept.hidden == 0 && kept.steps == 0 && kept.marks == 0), "in bfloat16 nothing is kept: there is no backward pass");
  check(initial.size() == number_of_states(s) && fresh.size() == number_of_states(s) && final.size() == number_of_states(s), kStates);
  Forward f{};
  f.net = c.described(kept.padded);
  f.x = c.read("x", x.at, x.step, x.row, s.I);
  c.read_states("initial", initial, f.initial);
  c.read_fresh(fresh, f.fresh);
  f.output = c.write("output", output.at, output.step, output.row, c.width);
  c.write_states("final", final, f.final, false);
  f.hidden = c.ranges.write<void>("hidden", kept.hidden, c.hidden(f.net), true);
  f.kept = c.ranges.write<void>("kept", kept.steps, c.kept(f.net), true);
  f.marks = c.ranges.write<void>("marks", kept.marks, c.marks(f.net), true);
  c.ranges.check_overlap();
  run_without_lock(c, f, threads);
}

void run_backward(const Sizes& s, const Addresses& params, int threads, Place x, const Addresses& initial, const Addresses& fresh, Place output, KeptPlaces kept, Place d_output,
                  Long d_output_column, KeptPlaces d_kept, const Addresses& d_final, Place d_x, const Addresses& d_initial, const Addresses& d_fresh, const Addresses& d_params) {
  Checked c(s, params, threads);
  for (const Addresses* states : {&initial, &fresh, &d_final, &d_initial, &d_fresh}) check(states->size() == number_of_states(s), kStates);
  check(d_params.size() == params.size(), kParameters);
  Backward f{};
  f.net = c.described(kept.padded);
  f.x = c.read("x", x.at, x.step, x.row, s.I);
  c.read_states("initial", initial, f.initial);
  c.read_fresh(fresh, f.fresh);
  f.output = c.read("output", output.at, output.step, output.row, c.width);
  f.hidden = c.ranges.read<void>("hidden", kept.hidden, c.hidden(f.net));
  f.kept = c.ranges.read<void>("kept", kept.steps, c.kept(f.net), true);
  f.marks = c.ranges.read<void>("marks", kept.marks, c.marks(f.net), f.kept != nullptr);
  check(d_output_column == 0 || d_output_column == 1, "the gradient's column stride must be 0 or 1");
  f.d_output = c.read("d_output", d_output.at, d_output.step, d_output.row, d_output_column ? c.width : 1, true);
  f.d_output.column = d_output_column;
  f.d_hidden = c.ranges.read<void>("d_hidden", d_kept.hidden, c.hidden(f.net), true);
  f.d_kept = c.ranges.read<void>("d_kept", d_kept.steps, c.kept(f.net), true);
  check(!f.d_kept || f.kept, "a gradient can arrive only at what was kept");
  c.read_states("d_final", d_final, f.d_final);
  f.d_x = c.write("d_x", d_x.at, d_x.step, d_x.row, s.I, true);
  c.write_states("d_initial", d_initial, f.d_initial, true);
  c.write_fresh(d_fresh, f.d_fresh);
  std::vector<Gradients> gradients(c.parameters.size());
  const Long rows = gates_of(c.net.cell) * s.H;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const auto write = [&](const char* name, std::size_t k, Long n) { return c.ranges.write<void>(name, d_params[kTensors * i + k], n, true); };
    gradients[i] = {write("the gradient of w_ih", 0, rows * c.columns_of(i)), write("the gradient of w_hh", 1, rows * c.net.P), write("the gradient of b_ih", 2, rows),
                    write("the gradient of b_hh", 3, rows), write("the gradient of w_hr", 4, s.P == 0 ? 0 : s.P * s.H)};
  }
  c.ranges.check_overlap();
  f.gradients = gradients.data();
  run_without_lock(c, f, threads);
}

void forward(int cell, int number, Long T, Long B, Long I, Long H, Long P, Long L, Long D, Address batch_sizes, Address lengths, Address resets, Long resets_step, Long resets_row,
             nb::handle params, int threads, Address x, Long x_step, Long x_row, nb::handle initial, nb::handle fresh, Address output, Long output_step, Long output_row,
             nb::handle final, Address hidden, Address kept, Address marks, bool kept_padded) {
  const Sizes s{cell, number, T, B, I, H, P, L, D, batch_sizes, lengths, resets, resets_step, resets_row};
  const auto states = [&](nb::handle from) { return addresses(from, number_of_states(s), kStates); };
  run_forward(s, addresses(params, number_of_tensors(s), kParameters), threads, {x, x_step, x_row}, states(initial), states(fresh), {output, output_step, output_row}, states(final),
              {hidden, kept, marks, kept_padded});
}

void backward(int cell, int number, Long T, Long B, Long I, Long H, Long P, Long L, Long D, Address batch_sizes, Address lengths, Address resets, Long resets_step, Long resets_row,
              nb::handle params, int threads, Address x, Long x_step, Long x_row, nb::handle initial, nb::handle fresh, Address output, Long output_step, Long output_row,
              Address hidden, Address kept, Address marks, bool kept_padded, Address d_output, Long d_output_step, Long d_output_row, Long d_output_column, Address d_hidden,
              Address d_kept, nb::handle d_final, Address d_x, Long d_x_step, Long d_x_row, nb::handle d_initial, nb::handle d_fresh, nb::handle d_params) {
  const Sizes s{cell, number, T, B, I, H, P, L, D, batch_sizes, lengths, resets, resets_step, resets_row};
  const auto states = [&](nb::handle from) { return addresses(from, number_of_states(s), kStates); };
  const auto tensors = [&](nb::handle from) { return addresses(from, number_of_tensors(s), kParameters); };
  run_backward(s, tensors(params), threads, {x, x_step, x_row}, states(initial), states(fresh), {output, output_step, output_row}, {hidden, kept, marks, kept_padded},
               {d_output, d_output_step, d_output_row}, d_output_column, {d_hidden, d_kept}, states(d_final), {d_x, d_x_step, d_x_row}, states(d_initial), states(d_fresh), tensors(d_params));
}

// What is run, from Python's tuple (cell, I, H, P, L, D, bias, shapes): P is 0 without a projection, shapes those of the parameters.
struct What {
  int cell;
  Long I, H, P, L, D;
  bool bias;
  nb::tuple shapes;
  explicit What(nb::tuple what) {
    check(nb::len(what) == 8, "what is run takes 8 entries");
    cell = nb::cast<int>(what[0]);
    Checked::check_cell(cell);
    Long* const sizes[] = {&I, &H, &P, &L, &D};
    for (int i = 0; i < 5; ++i) *sizes[i] = nb::cast<Long>(what[i + 1]);
    bias = nb::cast<bool>(what[6]);
    shapes = nb::cast<nb::tuple>(what[7]);
  }
  Long out() const { return P ? P : H; }
  Long width(int state) const { return state == 0 ? out() : H; }
  int states() const { return states_of(static_cast<CellKind>(cell)); }
  // One address each for w_ih, w_hh, b_ih, b_hh and w_hr, from those of the tensors that there are.
  Addresses five(const Addresses& some) const {
    Addresses all;
    all.reserve(some.size() * kTensors / 2);
    for (Address address : some) {
      all.push_back(address);
      if (!bias && all.size() % kTensors == 2) all.insert(all.end(), 2, 0);
      if (!P && all.size() % kTensors == 4) all.push_back(0);
    }
    return all;
  }
  Sizes sizes(int bits, Long T, Long B) const {
    const Number number = bits == 16 ? Number::bf16 : bits == 32 ? Number::f32 : Number::f64;
    return {cell, static_cast<int>(number), T, B, I, H, P, L, D};
  }
};

// Looks at plain tensors, and allocates more like one of them.
struct Tensors {
  const ExchangeApi* api;
  nb::tuple classes;  // the plain ones; another may mean anything by its operations
  int bits = 0;       // of the numbers in all of them; 0: none seen yet

  bool is_plain(PyObject* tensor) const {
    for (nb::handle known : classes)
      if (reinterpret_cast<PyObject*>(Py_TYPE(tensor)) == known.ptr()) return true;
    return false;
  }
  static bool requires_grad(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("requires_grad");
    const nb::object value = nb::steal(PyObject_GetAttr(tensor, name));
    if (!value.is_valid()) throw nb::python_error();
    return value.is(Py_True);
  }
  bool look(PyObject* tensor, nb::dlpack::dltensor& t) {
    if (!is_plain(tensor) || !elman::look(api, tensor, t) || (bits && t.dtype.bits != bits)) return false;
    bits = t.dtype.bits;
    return true;
  }
  bool look_dense(PyObject* tensor, std::initializer_list<Long> shape, Address& to) {
    nb::dlpack::dltensor t;
    if (!look(tensor, t) || t.ndim != static_cast<int>(shape.size()) || !is_dense(t)) return false;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (t.shape[d] != shape.begin()[d]) return false;
    to = address_of(t);
    return true;
  }
  // The initial or final states, or their gradients, as addresses; null for those that are None. False: one is not as it should be.
  bool look_states(nb::handle states, const What& what, Long B, Addresses& to);
  // Uninitialised, as torch would make it for `like`, so that its modes and hooks see it.
  nb::object allocate(nb::handle like, std::initializer_list<Long> shape, Address& to) const {
    static PyObject* const new_empty_strided = PyUnicode_InternFromString("new_empty_strided");  // of torch's ways the one that costs least
    const auto size = static_cast<Py_ssize_t>(shape.size());
    nb::object sizes = nb::steal(PyTuple_New(size)), strides = nb::steal(PyTuple_New(size));
    if (!sizes.is_valid() || !strides.is_valid()) throw nb::python_error();
    Long stride = 1;
    for (Py_ssize_t d = size; d-- > 0; stride *= shape.begin()[d]) {
      PyTuple_SET_ITEM(sizes.ptr(), d, PyLong_FromLongLong(shape.begin()[d]));
      PyTuple_SET_ITEM(strides.ptr(), d, PyLong_FromLongLong(stride));
    }
    PyObject* arguments[] = {like.ptr(), sizes.ptr(), strides.ptr()};
    nb::object made = nb::steal(PyObject_VectorcallMethod(new_empty_strided, arguments, 3, nullptr));
    nb::dlpack::dltensor t;
    if (!made.is_valid() || api->view(made.ptr(), &t) != 0) throw nb::python_error();
    bool fits = t.device.device_type == nb::device::cpu::value && t.dtype.bits == bits && t.ndim == size && is_dense(t);
    for (Py_ssize_t d = 0; fits && d < size; ++d) fits = t.shape[d] == shape.begin()[d];
    if (!fits) throw std::runtime_error("elman: new_empty_strided() did not make the tensor asked for: is it replaced by a mode or a patch?");
    to = address_of(t);
    return made;
  }
};

bool Tensors::look_states(nb::handle states, const What& what, Long B, Addresses& to) {
  const bool some = !states.is_none();
  if (some && (!PyTuple_Check(states.ptr()) || PyTuple_GET_SIZE(states.ptr()) != what.states())) return false;
  for (int s = 0; s < what.states(); ++s) {
    Address at = 0;
    PyObject* state = some ? PyTuple_GET_ITEM(states.ptr(), s) : Py_None;
    if (state != Py_None && !look_dense(state, {what.L * what.D, B, what.width(s)}, at)) return false;
    to.push_back(at);
  }
  return true;
}

// Where a sequence lies that is (T, B, width), or with batch_first (B, T, width).
Place place(const nb::dlpack::dltensor& t, bool batch_first) {
  const auto stride = [&](int axis) { return t.strides ? t.strides[axis] : axis == 0 ? t.shape[1] * t.shape[2] : t.shape[2]; };
  return {address_of(t), stride(batch_first ? 1 : 0), stride(batch_first ? 0 : 1)};
}
// The same of a dense one.
Place place(Address at, Long T, Long B, Long width, bool batch_first) {
  return batch_first ? Place{at, width, T * width} : Place{at, B * width, width};
}

bool is_readable(const nb::dlpack::dltensor& t, Long width) {
  if (t.ndim != 3 || t.shape[2] != width || t.shape[0] < 1 || t.shape[1] < 1) return false;
  return !t.strides || ((t.strides[2] == 1 || width == 1) && t.strides[0] >= 0 && t.strides[1] >= 0);
}

// The usual call in one step: plain tensors of the plain classes, (T, B, I) or with batch_first (B, T, I), nothing to differentiate. Looks at every tensor,
// allocates the results as torch does for `x`, runs, and returns (output, the final states in a tuple, hidden, kept); the last two are None unless `keep`.
// None, with nothing done, for any call that is not of this kind; False if it would be, were there not gradients wanted (with grad_mode).
nb::object plain_forward(nb::tuple what_, nb::tuple params, nb::handle x, nb::handle initial, bool batch_first, bool grad_mode, bool keep, nb::tuple classes, int threads) {
  const ExchangeApi* api = exchange();
  if (!api) return nb::none();
  const What what(what_);
  Tensors tensors{api, classes};
  nb::dlpack::dltensor in;
  if (!tensors.look(x.ptr(), in) || !is_readable(in, what.I)) return nb::none();
  // Read now: to allocate lets other threads of Python run, and what `in` points to is the tensor's.
  const Long T = in.shape[batch_first ? 1 : 0], B = in.shape[batch_first ? 0 : 1], first = in.shape[0], second = in.shape[1];
  const Place from = place(in, batch_first);
  for (nb::handle p : params)
    if (!tensors.is_plain(p.ptr())) return nb::none();
  int bits = 0;
  Addresses dense, before;
  if (!dense_addresses(api, params, what.shapes, dense, bits) || bits != tensors.bits || !tensors.look_states(initial, what, B, before)) return nb::none();
  for (Address at : before)
    if (!at && !initial.is_none()) return nb::none();  // one state without the other
  if (bits == 16) keep = false;
  bool wanted = grad_mode && Tensors::requires_grad(x.ptr());
  if (grad_mode && !initial.is_none())
    for (nb::handle state : nb::borrow<nb::tuple>(initial)) wanted = wanted || Tensors::requires_grad(state.ptr());
  if (grad_mode)
    for (nb::handle p : params) wanted = wanted || Tensors::requires_grad(p.ptr());
  if (wanted) return nb::borrow(Py_False);
  const Long width = what.D * what.out(), rows = T * B;
  Address out = 0, at = 0, hidden_at = 0, kept_at = 0;
  const nb::object output = tensors.allocate(x, {first, second, width}, out);
  nb::list finals;
  Addresses after;
  for (int s = 0; s < what.states(); ++s) finals.append(tensors.allocate(x, {what.L * what.D, B, what.width(s)}, at)), after.push_back(at);
  nb::object hidden = nb::none(), kept = nb::none();
  if (keep && what.L > 1) hidden = tensors.allocate(x, {what.L - 1, rows, width}, hidden_at);
  const Long numbers = kept_numbers(static_cast<CellKind>(what.cell));
  if (keep && numbers) kept = tensors.allocate(x, {what.L * what.D, rows, numbers, what.H}, kept_at);
  run_forward(what.sizes(bits, T, B), what.five(dense), threads, from, before, Addresses(before.size()), place(out, T, B, width, batch_first), after, {hidden_at, kept_at});
  return nb::make_tuple(output, nb::tuple(finals), hidden, kept);
}

// Its gradient in one step: of x, of the initial states (a tuple; None: there were none) and of the parameters, in this order, None where not wanted.
// output, hidden and kept are what plain_forward() gave; of the gradients that arrive any may be None. None, with nothing done, for any call that is not of this kind.
nb::object plain_backward(nb::tuple what_, nb::tuple params, nb::handle x, nb::handle initial, bool batch_first, nb::handle output, nb::handle hidden, nb::handle kept,
                          nb::handle d_output, nb::tuple d_final, nb::tuple wanted, nb::tuple classes, int threads) {
  const ExchangeApi* api = exchange();
  if (!api) return nb::none();
  const What what(what_);
  Tensors tensors{api, classes};
  nb::dlpack::dltensor in, out, d_out;
  const Long width = what.D * what.out(), numbers = kept_numbers(static_cast<CellKind>(what.cell));
  if (!tensors.look(x.ptr(), in) || !is_readable(in, what.I) || !tensors.look(output.ptr(), out) || !is_readable(out, width)) return nb::none();
  const Long T = in.shape[batch_first ? 1 : 0], B = in.shape[batch_first ? 0 : 1], first = in.shape[0], second = in.shape[1], rows = T * B;
  const Place from = place(in, batch_first), to = place(out, batch_first);
  int bits = 0;
  Addresses dense, before, after;
  if (!dense_addresses(api, params, what.shapes, dense, bits) || bits != tensors.bits || bits == 16 || out.shape[0] != in.shape[0] || out.shape[1] != in.shape[1]) return nb::none();
  if (!tensors.look_states(initial, what, B, before) || !tensors.look_states(d_final, what, B, after)) return nb::none();
  Address hidden_at = 0, kept_at = 0;
  if (what.L > 1 && !tensors.look_dense(hidden.ptr(), {what.L - 1, rows, width}, hidden_at)) return nb::none();
  if (numbers && !tensors.look_dense(kept.ptr(), {what.L * what.D, rows, numbers, what.H}, kept_at)) return nb::none();
  Place arriving{0, 0, 0};
  Long column = 1;
  if (!d_output.is_none()) {
    if (!tensors.look(d_output.ptr(), d_out) || d_out.ndim != 3 || d_out.shape[0] != out.shape[0] || d_out.shape[1] != out.shape[1] || d_out.shape[2] != width) return nb::none();
    arriving = place(d_out, batch_first);
    if (d_out.strides && d_out.strides[0] == 0 && d_out.strides[1] == 0 && d_out.strides[2] == 0)
      column = 0;  // one number stands for all, as in the gradient of a sum
    else if (!is_readable(d_out, width))
      return nb::none();
  }
  const std::size_t states = initial.is_none() ? 0 : static_cast<std::size_t>(what.states());
  if (wanted.size() != 1 + states + params.size()) return nb::none();
  nb::list found;
  Addresses d_initial, d_params;
  std::size_t i = 0;
  const auto allocate = [&](nb::handle like, std::initializer_list<Long> shape) {
    Address at = 0;
    found.append(wanted[i++].is(Py_True) ? tensors.allocate(like, shape, at) : nb::none());
    return at;
  };
  const Address d_x = allocate(x, {first, second, what.I});
  for (int s = 0; s < what.states(); ++s) d_initial.push_back(states ? allocate(x, {what.L * what.D, B, what.width(s)}) : 0);
  for (std::size_t p = 0; p < params.size(); ++p) {
    const nb::tuple shape = nb::borrow<nb::tuple>(what.shapes[p]);  // as dense_addresses() found it
    const Long units = nb::cast<Long>(shape[0]);
    d_params.push_back(shape.size() == 1 ? allocate(params[p], {units}) : allocate(params[p], {units, nb::cast<Long>(shape[1])}));
  }
  run_backward(what.sizes(bits, T, B), what.five(dense), threads, from, before, Addresses(before.size()), to, {hidden_at, kept_at}, arriving, column, {}, after,
               place(d_x, T, B, what.I, batch_first), d_initial, Addresses(before.size()), what.five(d_params));
  return found;
}

void activation(int which, int number, Address from, Address to, Long n) {
  check(which >= 0 && which <= 2, "the function must be 0 (tanh), 1 (relu) or 2 (sigmoid)");
  check(n >= 0 && n <= kMost, "the count must not be negative, nor too large");
  Ranges ranges(Checked::element_of(number));
  const void* in = ranges.read<void>("from", from, n);
  void* out = ranges.write<void>("to", to, n);
  ranges.check_overlap();
  nb::gil_scoped_release release;
  target()->activation(static_cast<Activation>(which), static_cast<Number>(number), in, out, n);
}

}  // namespace
}  // namespace elman

NB_MODULE(_native, m) {
  using namespace elman;
  m.def("use", [](const std::string& name) { target() = &choose_target(name); });
  m.def("isa", [] { return std::string(target()->name); });
  m.def("assume_barrier", [](double seconds) { Team::assume_barrier(seconds); });
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
  m.def("dense_addresses", [](nb::sequence tensors, nb::tuple shapes) -> nb::object {
    Addresses found;
    int bits = 0;
    if (!dense_addresses(exchange(), tensors, shapes, found, bits)) return nb::none();
    return nb::cast(found);
  });
  const nb::arg any;
  m.def("plain_forward", &plain_forward, any, any, nb::arg().none(), nb::arg().none(), any, any, any, any, any);
  m.def("plain_backward", &plain_backward, any, any, any, nb::arg().none(), any, any, nb::arg().none(), nb::arg().none(), nb::arg().none(), any, any, any, any);
  m.def("kept_numbers", [](int cell) {
    Checked::check_cell(cell);
    return kept_numbers(static_cast<CellKind>(cell));
  });
  m.def("number_of_marks", [](int cell, int number, Long T, Long B, Long H) {
    Checked::check_cell(cell), Checked::element_of(number);
    check(T >= 1 && B >= 1 && H >= 1 && T <= kMost && B <= kMost && H <= kMost, "sizes must be at least 1, and not too large");
    product({T, B, H});
    Network net{};
    net.cell = static_cast<CellKind>(cell), net.number = static_cast<Number>(number), net.T = T, net.B = B, net.H = H;
    return number_of_marks(net);
  });
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("activation", &activation);
  bind_stream(m);
}
