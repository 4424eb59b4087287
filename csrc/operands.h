// A call's operands as Python hands them over: buffers, tensors that torch shows, or tensors that are asked.
#pragma once

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "batch.h"
#include "dispatch.h"
#include "exchange.h"

namespace elman {

inline std::string name_of(nb::handle object) { return nb::inst_name(object).c_str(); }

// A buffer of Python's, held as long as this lives.
struct Buffer {
  Py_buffer view;
  Buffer(const View& v, nb::handle object, bool written) {
    const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (written ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object.ptr(), &view, flags) == 0) return;
    PyErr_Clear();
    throw Mismatch(v, " to be memory that can be ", written ? "written to" : "read", ", got ", name_of(object));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { PyBuffer_Release(&view); }
};

// Holds the operands of a call. What asks Python, which may do anything and let other threads run, is asked as they are
// added; then inspect() sees all of them as they are, and so they stay until the next Python code runs.
class Operands : public CallViews {
 public:
  // None stands for so many states; so many operands may come; each is of so many members, or of one network (0).
  explicit Operands(std::size_t states = 1, std::size_t count = 8, Long members = 0, Long left_out = 0)
      : members_(members), left_out_(static_cast<int>(left_out)) {
    all_.reserve(count), views_.reserve(count);
    for (int s = 0; s < kMostStates; ++s) views_.push_back({"operand", -1, true}), all_.push_back({});
    for (Place& place : places_) place = {0, static_cast<std::uint32_t>(states)};
    places_[kParams.number].count = places_[kGradParams.number].count = 0;
  }
  void add(Role role, nb::handle object, bool written = false, Long index = -1) {
    if (object.is_none() && role.number >= kNeeded && index < 0) return;
    Operand& operand = append(role, object, index);
    const View& v = views_.back();
    if (object.is_none()) {
      if (role.number == kParams.number) refuse_type(text(v) + " to be a plain tensor or an array", object);
      return;
    }
    const bool is_array = PyObject_CheckBuffer(object.ptr());
    (is_array ? arrays_ : tensors_) = true;
    if (!is_array && !is_plain(object)) refuse_type(text(v) + " to be a plain tensor or an array", object);
    if (arrays_ && tensors_)
      refuse_type(text(v) + " to be " + (is_array ? "a tensor" : "an array") + ", as others are", object);
    if (is_array) operand.buffer.reset(new Buffer(v, object, written));
    else if (is_negated(object.ptr()))
      throw Mismatch(v, " with its numbers in memory as they are, got a tensor negated lazily: use resolve_neg()");
  }
  // A tensor that was just made, or None.
  void add_made(Role role, nb::handle tensor, Long index = -1) { append(role, tensor, index).made = true; }
  // From a list or a tuple, or None.
  void add_all(Role role, nb::handle from, bool written = false) {
    if (from.is_none()) return;
    if (!PyTuple_Check(from.ptr()) && !PyList_Check(from.ptr()))
      refuse_type(std::string(role.name) + " to be a list or a tuple", from);
    const auto items = nb::steal<nb::tuple>(PySequence_Tuple(from.ptr()));
    places_[role.number].count = 0;
    for (std::size_t i = 0; i < items.size(); ++i) add(role, items[i], written, static_cast<Long>(i));
  }

  void next_member() {  // what is inspected is the first member's
    for (View& v : views_) v.at += v.apart, --v.after;
  }
  // Whether there are any that are not tensors.
  bool has_arrays() const { return arrays_; }
  // Whether a gradient flows to any of those that were added so far.
  bool require_grad() const {
    for (std::size_t i = kMostStates; i < all_.size(); ++i)
      if (!views_[i].none && !all_[i].buffer && requires_grad(all_[i].object)) return true;
    return false;
  }

  void inspect() {
    for (std::size_t i = kMostStates; i < all_.size(); ++i) inspect(i);
  }
  void inspect(Role role) { inspect(places_[role.number].first); }
  // Keeps the tensors' memory for as long as this lives: to hold a tensor is not enough where other threads run, which
  // may give it other memory (`parameter.data = ...`). To ask for it lets them run, so what was inspected before counts
  // no more; from then on inspect() refuses a tensor that lies elsewhere. One that was just made is nobody else's.
  void keep() {
    static PyObject* const untyped_storage = PyUnicode_InternFromString("untyped_storage");
    for (std::size_t i = kMostStates; i < all_.size(); ++i)
      if (!views_[i].none && !all_[i].made && !all_[i].buffer)
        all_[i].storage = call(all_[i].object.ptr(), untyped_storage);
  }
  // For Python's garbage collector: all objects that are held.
  int traverse(visitproc visit, void* arg) const {
    for (const Operand& operand : all_) {
      Py_VISIT(operand.object.ptr());
      Py_VISIT(operand.storage.ptr());
      if (operand.buffer) Py_VISIT(operand.buffer->view.obj);
    }
    return 0;
  }

  // How a buffer looks, and a tensor that torch shows.
  static void inspect(const Py_buffer& b, View& v) {
    if (b.itemsize < 1) throw Mismatch(v, " of numbers, got elements of no bytes");
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
    for (int d = 0; d < v.shape.axes; ++d) {
      v.shape[d] = b.shape[d], v.strides[d] = b.strides[d] / b.itemsize;
      if (v.strides[d] * b.itemsize != b.strides[d] && b.shape[d] > 1)
        throw Mismatch(v, " with whole elements from one to the next, got strides of ", b.strides[d], " bytes");
    }
  }
  static void inspect(PyObject* tensor, View& v) {
    nb::dlpack::dltensor t;
    if (!exchange) return ask(tensor, v);
    if (!is_shown(tensor, t)) refuse_hidden(v, tensor);
    check_cpu(v, t.device.device_type == nb::device::cpu::value);
    v.type = t.dtype.lanes == 1 ? Type{t.dtype.code, t.dtype.bits} : kOther;
    v.at = place_of(tensor, address_of(t), t.dtype.bits);
    count_axes(v, t.ndim);
    Long stride = 1;
    for (int d = v.shape.axes; d-- > 0; stride *= t.strides ? 1 : t.shape[d])
      v.shape[d] = t.shape[d], v.strides[d] = t.strides ? t.strides[d] : stride;
  }

 private:
  struct Operand {
    nb::object object{};
    std::unique_ptr<Buffer> buffer{};
    int lacks = 0;  // so many axes
    bool made = false;
    nb::object storage{};  // of a tensor whose memory is kept: what owns it
  };

  Operand& append(Role role, nb::handle object, Long index) {
    Place& place = places_[role.number];
    if (index <= 0) place = {static_cast<std::uint32_t>(all_.size()), 0};
    ++place.count;
    views_.push_back({role.name, index, object.is_none()});
    all_.push_back({.object = nb::borrow(object), .lacks = role.sequences ? left_out_ : 0});
    return all_.back();
  }
  [[noreturn]] static void refuse_type(const std::string& expected, nb::handle object) {
    throw nb::type_error(("expected " + expected + ", got " + name_of(object)).c_str());
  }
  void inspect(std::size_t i) {
    View& v = views_[i];
    if (v.none) return;
    all_[i].buffer ? inspect(all_[i].buffer->view, v) : inspect(all_[i].object.ptr(), v);
    if (all_[i].storage.is_valid() && !lies_in(all_[i].storage.ptr(), v))
      throw Mismatch(v, " to stay where it is, got other memory meanwhile");
    if (members_ > 0) v.begin_members(members_);
    if (const int lacks = all_[i].lacks; lacks > 0) {
      if (v.shape.axes + lacks > kMostAxes) throw Mismatch(v, " of fewer axes, got shape ", v.shape);
      v.shape = v.shape.behind(lacks, 1), v.strides = v.strides.behind(lacks, 0);
    }
  }
  // Whether a view's first element is in this memory. A storage answers without running any Python code.
  static bool lies_in(PyObject* storage, const View& v) {
    static PyObject *const data_ptr = PyUnicode_InternFromString("data_ptr"),
                           *const nbytes = PyUnicode_InternFromString("nbytes");
    if (v.at == 0 || product(v.shape) == 0) return true;  // take() says what is wrong
    const auto begin = nb::cast<Address>(call(storage, data_ptr));
    return v.at - begin < nb::cast<Address>(call(storage, nbytes));
  }

  static void count_axes(View& v, Long axes) {
    if (axes > kMostAxes) throw Mismatch(v, " of at most ", kMostAxes, " axes, got ", axes);
    v.shape.axes = v.strides.axes = static_cast<int>(axes);
  }
  static void ask(nb::handle tensor, View& v) try {
    check_cpu(v, nb::cast<bool>(tensor.attr("is_cpu")));
    const nb::object dtype = tensor.attr("dtype");
    const auto type = nb::cast<std::string>(returned(PyObject_Str(dtype.ptr())));
    v.type = kOther;
    for (const Type known : {kFloat32, kFloat64, kBfloat16, kInt64, kUint8, kBool})
      if (type == "torch." + known.name()) v.type = known;
    if (v.type == kOther && nb::cast<bool>(tensor.attr("is_quantized"))) refuse_hidden(v, tensor);
    const auto shape = nb::cast<std::vector<Long>>(tensor.attr("shape")),
               strides = nb::cast<std::vector<Long>>(tensor.attr("stride")());
    count_axes(v, static_cast<Long>(std::min(shape.size(), strides.size())));
    std::copy_n(shape.begin(), v.shape.axes, v.shape.size), std::copy_n(strides.begin(), v.shape.axes, v.strides.size);
    v.at = place_of(tensor.ptr(), nb::cast<Address>(tensor.attr("data_ptr")()), v.type.bits);
  } catch (const nb::python_error& error) {
    if (error.matches(PyExc_RuntimeError)) refuse_hidden(v, tensor);
    throw;
  }
  [[noreturn]] static void refuse_hidden(const View& v, nb::handle tensor) {
    throw Mismatch(v, " to be a dense tensor in memory, got ", name_of(tensor), " that does not show where it lies");
  }
  static void check_cpu(const View& v, bool cpu) {
    if (!cpu) throw Mismatch(v, " on the CPU, got a tensor on another device");
  }

  const Long members_;
  const int left_out_;
  std::pmr::vector<Operand> all_{&memory_};
  bool arrays_ = false, tensors_ = false;  // what there is of them: all are of one kind
};

// A call as it comes: what runs, the operands that every call begins with, and how its batch lies.
template <class Stack, class Contract> class Invocation {
 public:
  const Stack stack;
  Operands operands;

  Invocation(const Stack& stack_, nb::handle params, nb::handle x, nb::handle initial, nb::handle fresh,
      nb::handle batch_sizes, nb::handle lengths, nb::handle reset, bool batch_first, bool padded, int threads)
      : stack(stack_),
        operands(stack.states(), 2 * static_cast<std::size_t>(stack.each()) + 28, stack.members, stack.left_out), x_(x),
        batch_first_(batch_first), padded_(padded), threads_(threads) {
    check(threads >= 1, "threads must be at least 1");
    const bool single = stack.L * stack.D == 1 && stack.members == 0;
    check(stack.left_out >= 0 && stack.left_out <= (single ? 2 : 0),
        "one or two axes are left out, of one network's layer in one direction");
    if (stack.left_out && (batch_first || !batch_sizes.is_none() || !lengths.is_none() || !reset.is_none()))
      throw Mismatch("a single step with neither batch_first, batch_sizes, lengths nor reset, got one of them");
    operands.add_all(kParams, params), operands.add_all(kInitial, initial), operands.add_all(kFresh, fresh);
    operands.add(kX, x), operands.add(kBatchSizes, batch_sizes), operands.add(kLengths, lengths);
    operands.add(kReset, reset);
  }

  // The batch as it is now, for memory that is made for it; all operands are inspected again afterwards.
  Batch batch() {
    for (const Role role : {kX, kBatchSizes, kLengths}) operands.inspect(role);
    Batch batch(stack.I, operands[kX], operands[kBatchSizes], operands[kLengths], batch_first_);
    projects_ = static_cast<double>(batch.rows) * static_cast<double>(stack.I) * static_cast<double>(stack.H);
    return batch;
  }
  // Makes memory like x for what the call writes, where it is needed; `wide`: in float32.
  nb::object make(Role role, const Shape& shape, Long index = -1, bool needed = true, bool wide = false) {
    if (needed && PyObject_CheckBuffer(x_.ptr())) throw Mismatch("memory for all results, got none, and an array as x");
    const int lacks = role.sequences ? static_cast<int>(stack.left_out) : 0;
    nb::object made = needed ? allocate(x_, shape.behind(-lacks, 0), stack.members, wide) : nb::none();
    operands.add_made(role, made, index);
    return made;
  }

  // Nothing runs Python from the inspection of the operands to the end of the run: what is checked is what is used. A
  // short call holds Python's lock; a longer one gives it away, so keeps the operands' memory and checks it after that.
  template <class Call> void run(Call (Contract::*checked)()) {
    for (bool kept = false;; operands.keep(), kept = true) {
      operands.inspect();
      if (!kept && !is_short(projects_)) continue;
      if (stack.members ? finish(Ensemble<Call>(*this, checked), kept) : finish(Checked<Call>(*this, checked), kept))
        return;
    }
  }

 private:
  // The call of a network, checked.
  template <class Call> struct Checked {
    Contract contract;
    const Call call;
    const double work;
    Checked(const Invocation& of, Call (Contract::*checked)())
        : contract(of.stack, of.operands, of.batch_first_, of.padded_), call((contract.*checked)()),
          work(contract.work(call)) {}
    void run(int threads) const { contract.run(*target(), call, threads); }
  };

  // Those of an ensemble's members: divided among the threads, or where these are more and each call is long, in turn.
  template <class Call> struct Ensemble {
    std::deque<Checked<Call>> members;
    double work = 0;
    Ensemble(Invocation& of, Call (Contract::*checked)()) {
      for (; std::ssize(members) < of.stack.members; of.operands.next_member())
        work += members.emplace_back(of, checked).work;
    }
    void run(int threads) const {
      const auto& first = members.front();
      if (threads > std::ssize(members) && !is_short(first.work))
        return std::for_each(members.begin(), members.end(), [&](auto& m) { m.run(threads); }), void();
      std::atomic<bool> failed{false};
      const auto kind = [&] { return first.contract.kind(first.call) * 128 + octaves(std::ssize(members)); };
      on_a_team(work, kind, threads, [&](Team& team) {
        team.each(std::ssize(members), [&](Long m) {
          try {
            members[static_cast<std::size_t>(m)].run(1);
          } catch (const std::bad_alloc&) {
            failed = true;
          }
        });
      });
      if (failed) throw std::bad_alloc();
    }
  };

  // Runs what is checked; false, with nothing done, if it is long and its memory is not kept.
  template <class Calls> bool finish(const Calls& calls, bool kept) const {
    if (!kept) return is_short(calls.work) && (calls.run(threads_), true);
    nb::gil_scoped_release release;
    return calls.run(threads_), true;
  }

  const nb::handle x_;
  const bool batch_first_, padded_;
  const int threads_;
  double projects_ = 0;  // multiply-adds of x with a gate's weights
};

}  // namespace elman
