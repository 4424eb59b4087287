#include "races.h"

#include <stdio.h>

#include <algorithm>

#include "fibers.h"

namespace elman::emulated {

namespace {

void join(std::vector<unsigned>& times, const std::vector<unsigned>& others) {
  for (size_t i = 0; i < times.size(); ++i) times[i] = std::max(times[i], others[i]);
}

}  // namespace

void Races::begin(int threads, SharedMemory shared) {
  threads_ = threads, memory_ = shared;
  const auto nothing = std::make_shared<std::vector<unsigned>>(threads + shared.blocks * kBarriersOfBlock);
  clocks_.resize(threads);
  for (int i = 0; i < threads; ++i) clocks_[i] = {nothing, unsigned(i), 1};
  shared_.assign(shared.blocks, std::vector<Cell>(shared.bytes / kCellBytes));
  barriers_.clear(), flags_.clear();
  for (auto& [page, cells] : global_)
    for (Cell& cell : cells) {
      if (cell.last_write.when) cell.last_write.when = kNever;
      if (!cell.reads.empty()) cell.reads = {{0, kNever}};
    }
}

// --- What threads know of each other

Times Races::joined(const Times& one, const Times& other) {
  if (one == other) return one;
  if (last_joined_.one != one || last_joined_.other != other) {
    const auto both = std::make_shared<std::vector<unsigned>>(*one);
    join(*both, *other);
    last_joined_ = {one, other, both};
  }
  return last_joined_.both;
}

void Races::meet(int first, int count) {
  const auto all = std::make_shared<std::vector<unsigned>>(*clocks_[first].others);
  for (int i = first + 1; i < first + count; ++i)
    if (clocks_[i].others != clocks_[i - 1].others) join(*all, *clocks_[i].others);
  for (int i = first; i < first + count; ++i) (*all)[i] = clocks_[i].own++;
  for (int i = first; i < first + count; ++i) clocks_[i].others = all;
}

Clock Races::released(int thread) {
  const Clock clock = clocks_[thread];
  ++clocks_[thread].own;
  return clock;
}

void Races::release_flag(int thread, const unsigned* flag) {
  const Clock clock = released(thread);
  const auto times = std::make_shared<std::vector<unsigned>>(*clock.others);
  (*times)[thread] = clock.own;
  flags_[flag] = times;
}

void Races::acquire_flag(int thread, const unsigned* flag) {
  if (auto found = flags_.find(flag); found != flags_.end())
    clocks_[thread].others = joined(clocks_[thread].others, found->second);
}

void Races::add_barrier(const Barrier* barrier) {
  const Times& nothing = clocks_[0].others;
  const unsigned number = threads_ + barriers_.size();
  if (number >= nothing->size()) fail("more barriers than are counted");
  if (!barriers_.insert({barrier, {number, 0, std::vector<unsigned>(nothing->size()), {}, nullptr, false}}).second)
    fail("a barrier is made twice");
}

void Races::arrive(const Barrier* barrier, const Clock& clock) {
  Phases& it = barriers_.at(barrier);
  if (it.known.insert(clock.others).second) join(it.arriving, *clock.others);
  it.arriving[clock.thread] = std::max(it.arriving[clock.thread], clock.own);
}

void Races::end_phase(const Barrier* barrier) {
  Phases& it = barriers_.at(barrier);
  it.arriving[it.number] = ++it.ended;
  it.known.clear(), it.is_sent_to = false;
  it.at_end = std::make_shared<std::vector<unsigned>>(it.arriving);
}

void Races::acquire_phase(int thread, const Barrier* barrier) {
  if (const Times& at_end = barriers_.at(barrier).at_end)
    clocks_[thread].others = joined(clocks_[thread].others, at_end);
}

const char* Races::unawaited() const {
  const int threads = threads_ / memory_.blocks;
  for (const auto& [barrier, phases] : barriers_) {
    const int first = ((uintptr_t)barrier - (uintptr_t)memory_.begin) / memory_.pitch * threads;
    bool is_known = phases.ended == 0;
    for (int i = first; i < first + threads; ++i) is_known |= clocks_[i].of(phases.number) == phases.ended;
    if (!is_known || phases.is_sent_to) return "messages are sent that nobody waits for";
  }
  return nullptr;
}

// --- Accesses

Races::Place Races::place(const char* verb, const void* p, size_t bytes) const {
  const uintptr_t at = (uintptr_t)p, distance = at - (uintptr_t)memory_.begin;
  if (at % std::min<size_t>(bytes, 16)) fail("%s %zu bytes that are not aligned", verb, bytes);
  if (distance < memory_.blocks * memory_.pitch) {
    const size_t offset = distance % memory_.pitch;
    if (offset + bytes > memory_.bytes) fail("%s %zu bytes outside of shared memory", verb, bytes);
    return {verb, at, bytes, offset, int(distance / memory_.pitch)};
  }
  const uintptr_t *end = tensors_.bounds + tensors_.count, *next = std::upper_bound(tensors_.bounds, end, at);
  const bool is_inside = (next - tensors_.bounds) % 2 == 1 && at + bytes <= *next;
  if (!is_inside) fail("%s %zu bytes of global memory outside of all operands", verb, bytes);
  return {verb, at, bytes, 0, -1};
}

void Races::check_own(const char* shared, const void* at) const {
  const uintptr_t distance = (uintptr_t)at - (uintptr_t)memory_.begin;
  const bool is_shared = distance < memory_.blocks * memory_.pitch;
  if (is_shared && (uintptr_t)at - (uintptr_t)shared >= memory_.pitch)
    fail("a pointer to another block's shared memory");
}

template <class Visit> void Races::each_cell(const Place& place, Visit visit) {
  if (place.block >= 0) {
    std::vector<Cell>& cells = shared_[place.block];
    for (size_t i = place.offset / kCellBytes; i * kCellBytes < place.offset + place.bytes; ++i) visit(cells[i]);
    return;
  }
  for (uintptr_t at = place.at / kCellBytes * kCellBytes; at < place.at + place.bytes;) {
    std::vector<Cell>& cells = global_[at / kPageBytes];
    cells.resize(kPageBytes / kCellBytes);
    const uintptr_t end = std::min(place.at + place.bytes, (at / kPageBytes + 1) * kPageBytes);
    for (; at < end; at += kCellBytes) visit(cells[at % kPageBytes / kCellBytes]);
  }
}

void Races::fail_by_race(const Place& place, Access other, const char* does) const {
  char who[64] = "a message, a copy or another group", where[64] = "global memory";
  const int threads = threads_ / memory_.blocks;
  if (other.who < unsigned(threads_) && other.when != kNever)
    snprintf(who, sizeof who, "thread %d of block %d", other.who % threads, other.who / threads);
  if (place.block >= 0) snprintf(where, sizeof where, "shared memory of block %d, at %zu", place.block, place.offset);
  fail("race: %s %zu bytes of %s, that %s %s, and nothing orders the two", place.verb, place.bytes, where, who, does);
}

void Races::read(int thread, const void* at, size_t bytes) {
  const Place it = place("reads", at, bytes);
  const Clock& clock = clocks_[thread];
  each_cell(it, [&](Cell& cell) {
    if (it.block >= 0 && !cell.last_write.when)
      fail("reads %zu bytes of shared memory, at %zu, that nobody has written", bytes, it.offset);
    if (!is_ordered(cell.last_write, clock)) fail_by_race(it, cell.last_write, "writes");
    std::erase_if(cell.reads, [&](Access read) { return is_ordered(read, clock); });
    cell.reads.push_back({unsigned(thread), clock.own});
  });
}

void Races::change(int thread, const Place& place, Access write) {
  const Clock& clock = clocks_[thread];
  each_cell(place, [&](Cell& cell) {
    if (!is_ordered(cell.last_write, clock)) fail_by_race(place, cell.last_write, "writes");
    for (Access read : cell.reads)
      if (!is_ordered(read, clock)) fail_by_race(place, read, "reads");
    cell.last_write = write;
    cell.reads.clear();
  });
}

void Races::write(int thread, const void* at, size_t bytes) {
  change(thread, place("writes", at, bytes), {unsigned(thread), clocks_[thread].own});
}

void Races::send(int thread, const void* at, size_t bytes, const Barrier* barrier) {
  Phases& phases = barriers_.at(barrier);
  phases.is_sent_to = true;
  change(thread, place("sends", at, bytes), {phases.number, phase(barrier)});
}

void Races::begin_copy(int thread, const void* at, size_t bytes) {
  change(thread, place("copies", at, bytes), {unsigned(thread), kNever});
}

void Races::end_copy(int thread, const void* at, size_t bytes) {
  each_cell(place("copies", at, bytes), [&](Cell& cell) { cell.last_write = {unsigned(thread), clocks_[thread].own}; });
}

// --- What a kernel calls that is compiled with -fsanitize=thread

namespace {

extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start, _end;  // where this library lies

bool is_within(const char* at, const void* begin, const void* end) { return at >= begin && at < end; }

void touch(const void* at, size_t bytes, bool writes) {
  const char* place = (const char*)at;
  if (is_within(place, launch.stacks, launch.stacks_end) || is_within(place, &__ehdr_start, &_end)) return;
  if (is_within(place, launch.fibers.data(), launch.fibers.data() + launch.fibers.size())) return;
  launch.races->check_own(self().home->shared, at);
  if (writes) launch.races->write(number_of(self()), at, bytes);
  else launch.races->read(number_of(self()), at, bytes);
}

}  // namespace
}  // namespace elman::emulated

#define ELMAN_TOUCH(bytes)                                                              \
  void __tsan_read##bytes(const void* at) { elman::emulated::touch(at, bytes, false); } \
  void __tsan_write##bytes(const void* at) { elman::emulated::touch(at, bytes, true); } \
  void __tsan_unaligned_read##bytes(const void* at) { __tsan_read##bytes(at); }         \
  void __tsan_unaligned_write##bytes(const void* at) { __tsan_write##bytes(at); }       \
  static_assert(bytes > 0)

extern "C" {
ELMAN_TOUCH(1);
ELMAN_TOUCH(2);
ELMAN_TOUCH(4);
ELMAN_TOUCH(8);
ELMAN_TOUCH(16);
void __tsan_read_range(const void* at, size_t bytes) { elman::emulated::touch(at, bytes, false); }
void __tsan_write_range(const void* at, size_t bytes) { elman::emulated::touch(at, bytes, true); }
void __tsan_init() {}
void __tsan_func_entry(const void*) {}
void __tsan_func_exit() {}
}
