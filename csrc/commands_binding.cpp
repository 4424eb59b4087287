// Commands for a GPU's stream, as backends/cuda/commands.py prepares them: launches and copies by CUDA's driver,
// products by cuBLASLt. Python says where these libraries' functions are, so that neither they nor their headers are
// needed here. What is at these addresses nothing can check: whoever calls this knows.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "contracts.h"

namespace nb = nanobind;

namespace elman {
namespace {

using Address = std::uint64_t;

template <class T> T* pointer(Address address) { return reinterpret_cast<T*>(static_cast<std::uintptr_t>(address)); }

template <class T> T* function(Address address) {
  check(address != 0, "a function's address is null");
  return pointer<T>(address);
}

// A place in an operand of a call, so many bytes from its beginning.
struct Place {
  Long operand;
  Address offset;

  Address in(const std::vector<Address>& operands) const {
    return operands[static_cast<std::size_t>(operand)] + offset;
  }
};

using Pair = std::pair<Long, Address>;

class Launch {
 public:
  // What cuLaunchKernel and cuLaunchCooperativeKernel take: the latter has no last one, which then nobody reads.
  using Function = int(
      void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);

  Launch(Address function, Address kernel, unsigned grid, unsigned block, unsigned shared_bytes,
      const nb::bytes& params, const std::vector<std::tuple<std::size_t, Long, Address>>& places)
      : function_(elman::function<Function>(function)), kernel_(pointer<void>(kernel)), grid_(grid), block_(block),
        shared_bytes_(shared_bytes), params_(params.c_str(), params.c_str() + params.size()) {
    for (const auto& [at, operand, offset] : places) {
      check(at <= params_.size() && params_.size() - at >= sizeof(Address), "an address lies outside of the parameter");
      places_.push_back({at, {operand, offset}});
    }
  }

  bool run(const std::vector<Address>& operands, void* stream) {
    for (const auto& [at, place] : places_) {
      const Address address = place.in(operands);
      std::memcpy(params_.data() + at, &address, sizeof address);
    }
    void* params[] = {params_.data()};
    return function_(kernel_, grid_, 1, 1, block_, 1, 1, shared_bytes_, stream, params, nullptr) == 0;
  }

  template <class F> void each_place(F&& visit) const {
    for (const auto& [at, place] : places_) visit(place);
  }

 private:
  Function* function_;
  void* kernel_;
  unsigned grid_, block_, shared_bytes_;
  std::vector<char> params_;
  std::vector<std::pair<std::size_t, Place>> places_;
};

class Product {
 public:
  using Multiply = int(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*,
      void*, void*, void*, const void*, void*, std::size_t, void*);
  using SetAttribute = int(void*, int, const void*, std::size_t);

  Product(Address multiply, Address set_attribute, Address handle, Address description,
      const std::array<Address, 2>& factors, const std::array<Address, 3>& layouts, Address choice,
      std::size_t workspace, const std::array<Pair, 3>& matrices, Pair vector)
      : multiply_(function<Multiply>(multiply)), set_attribute_(function<SetAttribute>(set_attribute)),
        handle_(pointer<void>(handle)), description_(pointer<void>(description)), choice_(pointer<void>(choice)),
        workspace_(workspace), vector_{vector.first, vector.second} {
    for (std::size_t i = 0; i < factors.size(); ++i) factors_[i] = pointer<void>(factors[i]);
    for (std::size_t i = 0; i < layouts.size(); ++i) layouts_[i] = pointer<void>(layouts[i]);
    for (std::size_t i = 0; i < matrices.size(); ++i) matrices_[i] = {matrices[i].first, matrices[i].second};
  }

  bool run(const std::vector<Address>& operands, void* stream) {
    constexpr int kBiasPointer = 8;  // CUBLASLT_MATMUL_DESC_BIAS_POINTER
    if (vector_.operand >= 0) {
      void* vector = pointer<void>(vector_.in(operands));
      if (set_attribute_(description_, kBiasPointer, &vector, sizeof vector) != 0) return false;
    }
    const auto matrix = [&](std::size_t i) { return pointer<void>(matrices_[i].in(operands)); };
    return multiply_(handle_, description_, factors_[0], matrix(0), layouts_[0], matrix(1), layouts_[1], factors_[1],
               matrix(2), layouts_[2], matrix(2), layouts_[2], choice_, pointer<void>(operands[0]), workspace_,
               stream) == 0;
  }

  template <class F> void each_place(F&& visit) const {
    for (const Place& place : matrices_) visit(place);
    if (vector_.operand != -1) visit(vector_);
  }

 private:
  Multiply* multiply_;
  SetAttribute* set_attribute_;
  void *handle_, *description_, *factors_[2], *layouts_[3], *choice_;
  std::size_t workspace_;
  Place matrices_[3], vector_;
};

class Copy {
 public:
  using Function = int(Address, Address, std::size_t, void*);  // cuMemcpyDtoDAsync

  Copy(Address function, Pair from, Pair to, std::size_t bytes)
      : function_(elman::function<Function>(function)), places_{{from.first, from.second}, {to.first, to.second}},
        bytes_(bytes) {}

  bool run(const std::vector<Address>& operands, void* stream) {
    return function_(places_[1].in(operands), places_[0].in(operands), bytes_, stream) == 0;
  }

  template <class F> void each_place(F&& visit) const {
    for (const Place& place : places_) visit(place);
  }

 private:
  Function* function_;
  Place places_[2];
  std::size_t bytes_;
};

struct Stop {  // where Python goes on
  bool run(const std::vector<Address>&, void*) { return false; }
  template <class F> void each_place(F&&) const {}
};

// Not for two threads at a time.
class Commands {
 public:
  template <class Command> void add(Command command) {
    command.each_place([&](const Place& place) {
      check(place.operand >= 0, "an operand's number is negative");
      operands_ = std::max(operands_, static_cast<std::size_t>(place.operand) + 1);
    });
    commands_.emplace_back(std::move(command));
  }

  // Puts commands onto the stream, from the first-th on. Returns which one could not be, or how many there are.
  std::size_t run(std::size_t first, const std::vector<Address>& operands, Address stream) {
    check(operands.size() >= operands_, "there are fewer operands than the commands have");
    nb::gil_scoped_release release;  // a launch waits where the stream has too many
    for (; first < commands_.size(); ++first) {
      const auto run = [&](auto& command) { return command.run(operands, pointer<void>(stream)); };
      if (!std::visit(run, commands_[first])) break;
    }
    return first;
  }

 private:
  std::vector<std::variant<Stop, Launch, Product, Copy>> commands_;
  std::size_t operands_ = 1;  // the first one is the products' workspace
};

}  // namespace

void bind_commands(nb::module_& m) {
  nb::class_<Commands>(m, "Commands")
      .def(nb::init<>())
      .def("add_launch",
          [](Commands& c, Address function, Address kernel, unsigned grid, unsigned block, unsigned shared_bytes,
              const nb::bytes& params, const std::vector<std::tuple<std::size_t, Long, Address>>& places) {
            c.add(Launch(function, kernel, grid, block, shared_bytes, params, places));
          })
      .def("add_product",
          [](Commands& c, Address multiply, Address set_attribute, Address handle, Address description,
              const std::array<Address, 2>& factors, const std::array<Address, 3>& layouts, Address choice,
              std::size_t workspace, const std::array<Pair, 3>& matrices, Pair vector) {
            c.add(Product(
                multiply, set_attribute, handle, description, factors, layouts, choice, workspace, matrices, vector));
          })
      .def("add_copy",
          [](Commands& c, Address function, Pair from, Pair to, std::size_t bytes) {
            c.add(Copy(function, from, to, bytes));
          })
      .def("add_stop", [](Commands& c) { c.add(Stop{}); })
      .def("run", &Commands::run);
}

}  // namespace elman
