// What Python asks of the machine: instruction sets, threads, processors, the peak, and the cells that have kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "memory.h"
#include "operands.h"
#include "processors.h"
#include "stack.h"
#include "threads.h"
#include "tuner.h"

namespace elman {
namespace {

void activation(int which, nb::handle from, nb::handle to) {
  check(which >= 0 && which <= 2, "the function must be 0 (tanh), 1 (relu) or 2 (sigmoid)");
  Operands o;
  o.add(kSource, from), o.add(kTarget, to, true);
  o.inspect();
  const View& source = o[kSource];
  const Number number = number_of(source, false);
  const Long n = source.shape.axes == 1 ? source.shape[0] : 0;
  expect(source, {n}, source.type), expect(o[kTarget], {n}, source.type);
  Ranges reads, writes;
  const void* in = take(source, dense_elements(source), reads);
  void* out = take(o[kTarget], dense_elements(o[kTarget]), writes);
  check_overlap(reads, writes);
  target()->activation(static_cast<Activation>(which), number, in, out, n);
}

}  // namespace

void bind_machine(nb::module_& m) {
  m.def("use", [](const std::string& name) { target() = &choose_target(name); });
  m.def("isa", [] { return std::string(target()->name); });
  m.def("assume_barrier", &Team::assume_barrier);
  m.def("allow_pairs", &allow_pairs);
  nb::class_<Tuner>(m, "Tuner")
      .def(nb::init<>())
      .def("choose",
          [](Tuner& t, std::uint64_t kind, double work, int most) {
            check(work > 0 && most >= 2, "there must be work, and two threads to choose from");
            return t.choose({kind, work}, most);
          })
      .def("learn", [](Tuner& t, std::uint64_t kind, double work, int threads, double seconds) {
        check(work > 0 && threads >= 1 && seconds >= 0, "there must be work, a thread, and no negative time");
        t.learn({kind, work}, threads, seconds);
      });
  m.def("threads_used", &Team::last);
  m.def("usable_processors", &usable_processors);
  m.def("processor_quota", &processor_quota);
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Target* t : supported_targets()) names.emplace_back(t->name);
    return names;
  });
  m.def("peak", [](int threads) {
    check(threads >= 1, "threads must be at least 1");
    nb::gil_scoped_release release;
    return peak(*target(), threads);
  });
  m.def("cells", [] {  // by name: gates, states and numbers that are saved
    nb::dict cells;
    for (const CellInfo& cell : target()->cells) cells[cell.name] = nb::make_tuple(cell.gates, cell.states, cell.saved);
    return cells;
  });
  m.def("activation", &activation, nb::arg(), nb::arg().none(), nb::arg().none());
}

}  // namespace elman
