// The launch: which thread goes on, which message arrives, who waits for whom; and what is wrong with it.
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fibers.h"

namespace elman::emulated {

Place* current;

namespace {

Launch launch;

Fiber& self() { return *(Fiber*)current; }

unsigned draw(unsigned below) {
  launch.random ^= launch.random << 13, launch.random ^= launch.random >> 7, launch.random ^= launch.random << 17;
  return (launch.random >> 32) * below >> 32;
}

void set_ready(Fiber& fiber) {
  Warp& warp = *fiber.warp;
  fiber.wait = kNothing;
  if (!warp.ready) warp.place = launch.ready.size(), launch.ready.push_back(&warp);
  warp.ready |= 1u << fiber.lane;
}

void set_running(Fiber& fiber) {
  Warp& warp = *fiber.warp;
  warp.ready &= ~(1u << fiber.lane);
  if (warp.ready) return;
  launch.ready[warp.place] = launch.ready.back(), launch.ready[warp.place]->place = warp.place;
  launch.ready.pop_back();
}

void end_phase(Block& block, Barrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.phase ^= 1, barrier.pending = 1;
  for (int i = 0; i < block.threads; ++i) {
    Fiber& fiber = block.fibers[i];
    if (fiber.wait == kBytes && fiber.barrier == &barrier && fiber.parity != barrier.phase) set_ready(fiber);
  }
}

void deliver(int index) {
  const Message message = launch.messages[index];
  launch.messages[index] = launch.messages.back(), launch.messages.pop_back();
  if (message.barrier) {
    if (!message.receiver->living) fail("bytes arrive at block %d after its end", message.receiver->rank);
    if (message.barrier->mark != Barrier::kThere)
      fail("bytes arrive at block %d before its barrier is there", message.receiver->rank);
  }
  memcpy(message.to, message.words, 16);
  if (!message.barrier) return;
  message.barrier->bytes -= 16;
  end_phase(*message.receiver, *message.barrier);
}

[[noreturn]] void fail_by_deadlock() {
  int count[kWaits] = {};
  for (const Fiber& fiber : launch.fibers) ++count[fiber.wait];
  char text[512];
  int size = 0;
  for (int wait = 0; wait < kEnd; ++wait)
    if (count[wait])
      size +=
          snprintf(text + size, sizeof text - size, "%s %d wait for %s", size ? "," : "", count[wait], kNames[wait]);
  fail("deadlock: of %d threads%s", int(launch.fibers.size()), text);
}

Fiber& next() {
  for (;;) {
    if (!launch.messages.empty() && (launch.ready.empty() || draw(16) < launch.delivery)) {
      deliver(draw(launch.messages.size()));
      continue;
    }
    if (launch.ready.empty()) {  // a thread that found a flag unchanged may have been asking for something else
      if (++launch.fruitless > 3) fail_by_deadlock();
      for (Fiber& fiber : launch.fibers)
        if (fiber.wait == kFlag) fiber.flag = nullptr, set_ready(fiber);
      if (launch.ready.empty()) fail_by_deadlock();
    }
    // One warp goes as far ahead of the others as it can; now and then it is another's turn.
    if (!launch.favourite || !launch.favourite->ready || draw(256) == 0) {
      launch.favourite = launch.ready[draw(launch.ready.size())];
      if (draw(16) == 0) launch.delivery = draw(2) ? 0 : draw(16);
    }
    const unsigned ready = launch.favourite->ready, turn = draw(32);
    const unsigned later = ready >> turn;
    Fiber& fiber = launch.favourite->fibers[later ? turn + __builtin_ctz(later) : __builtin_ctz(ready)];
    set_running(fiber);
    return fiber;
  }
}

// Another fiber's turn, until this one's comes again.
void pause() {
  Fiber &before = self(), &after = next();
  if (&before == &after) return;
  current = &after;
  elman_switch(&before.stack_pointer, after.stack_pointer);
}

void wait_for(Wait what) {
  self().wait = what;
  pause();
}

void take_turns() {
  set_ready(self());
  pause();
}

// Waits until so many fibers have arrived; the last lets the others go on.
void meet(int& arrived, int count, Wait what, Fiber* fibers, int size) {
  self().flag = nullptr;
  if (++arrived < count) return wait_for(what);
  arrived = launch.fruitless = 0;
  for (int i = 0; i < size; ++i)
    if (fibers[i].wait == what) set_ready(fibers[i]);
  take_turns();
}

void meet_warp(Wait what) {
  Warp& warp = *self().warp;
  if (warp.arrived && warp.meeting != what) fail("the warp's threads are at different instructions");
  warp.meeting = what;
  meet(warp.arrived, 32, what, warp.fibers, 32);
}

char* shared_pointer(unsigned address, unsigned bytes, Block*& block) {
  const unsigned rank = address >> 18, offset = address & ((1 << 18) - 1);
  if (rank >= launch.blocks.size()) fail("there is no block %u", rank);
  if (offset + bytes > unsigned(launch.shared_bytes))
    fail("%u bytes at %u lie outside of shared memory", bytes, offset);
  if (offset % bytes) fail("%u bytes at %u of shared memory are not aligned", bytes, offset);
  block = &launch.blocks[rank];
  return block->shared + offset;
}

Barrier& barrier_at(unsigned address, bool is_there = true) {
  Block* block;
  Barrier& barrier = *(Barrier*)shared_pointer(address, sizeof(Barrier), block);
  if (block != self().home) fail("the barrier is another block's");
  if (is_there && barrier.mark != Barrier::kThere) fail("there is no barrier yet, or no more");
  return barrier;
}

void perform(const Copy& copy) {
  memcpy(copy.to, copy.from, copy.valid);
  memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
}

void live() {
  elman_run_thread(launch.call);
  Fiber& fiber = self();
  fiber.wait = kEnd;
  --fiber.home->living;
  void* nowhere;
  if (--launch.living == 0) elman_switch(&nowhere, launch.outside);
  Fiber& after = next();
  current = &after;
  elman_switch(&nowhere, after.stack_pointer);
}

}  // namespace

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const Index &thread = current->thread, &block = current->block;
  const int size = snprintf(launch.text, launch.text_size, "block %u, thread %u: ", block.x, thread.x);
  if (size < launch.text_size) vsnprintf(launch.text + size, launch.text_size - size, format, arguments);
  va_end(arguments);
  launch.has_failed = true;
  void* nowhere;
  elman_switch(&nowhere, launch.outside);
  __builtin_unreachable();
}

// --- Shared memory and barriers
// -------------------------------------------------------------------------------------------

char* shared_memory() { return self().home->shared; }

unsigned shared_address(const void* p) {
  const Block& block = *self().home;
  const long offset = (const char*)p - block.shared;
  if (offset < 0 || offset >= launch.shared_bytes) fail("a pointer outside of shared memory");
  return block.rank << 18 | offset;
}

unsigned address_in(unsigned address, unsigned rank) {
  if (rank >= launch.blocks.size()) fail("there is no block %u", rank);
  return (address & ((1 << 18) - 1)) | rank << 18;
}

void block_barrier() {
  Block& block = *self().home;
  if (block.arrived + 1 == block.threads) ++block.epoch;
  meet(block.arrived, block.threads, kBlock, block.fibers, block.threads);
}

void warp_barrier() { meet_warp(kWarp); }

void group_barrier() {
  meet(launch.at_group, launch.fibers.size(), kGroup, launch.fibers.data(), launch.fibers.size());
}

void multiply(Factors factors, float* const (&d)[4], const unsigned (&operands)[6]) {
  Warp& warp = *self().warp;
  Operands& own = warp.operands[self().lane];
  memcpy(own.words, operands, sizeof own.words), memcpy(own.d, d, sizeof own.d);
  if (warp.arrived == 31) product(factors, warp.operands);
  meet_warp(kProduct);
}

float shuffle_xor(float value, int mask) {
  Warp& warp = *self().warp;
  Operands& own = warp.operands[self().lane];
  float found = 0;
  own.words[0] = bits_of(value), own.d[0] = &found;
  if (warp.arrived == 31)  // all others wait: the last one hands out
    for (int lane = 0; lane < 32; ++lane) *warp.operands[lane].d[0] = as_float(warp.operands[lane ^ mask].words[0]);
  meet_warp(kShuffle);
  return found;
}

void barrier_init(unsigned address, int arrivals) {
  if (arrivals != 1) fail("barriers count one arrival");
  barrier_at(address, false) = {0, 1, 0, Barrier::kThere};
}

void barrier_expect(unsigned address, unsigned bytes) {
  Barrier& barrier = barrier_at(address);
  if (!barrier.pending) fail("a barrier is armed twice");
  barrier.bytes += bytes, --barrier.pending;
  if (barrier.bytes >= 1 << 20) fail("a barrier expects too many bytes");
  end_phase(*self().home, barrier);
}

void barrier_wait(unsigned address, unsigned parity) {
  Fiber& fiber = self();
  Barrier& barrier = barrier_at(address);
  fiber.barrier = &barrier, fiber.parity = parity;
  if (barrier.phase == parity) wait_for(kBytes);
  else take_turns();
}

// --- What arrives later
// ---------------------------------------------------------------------------------------------------

void copy_late(unsigned to, const void* from, int valid, int bytes) {
  Block* block;
  Copy copy{shared_pointer(to, bytes, block), from, valid, bytes, self().groups};
  if ((uintptr_t)from % bytes) fail("%d bytes of global memory are not aligned", bytes);
  if (draw(4)) self().copies.push_back(copy);
  else perform(copy);
}

void commit_copies() { ++self().groups; }

void wait_for_copies(int pending) {
  Fiber& fiber = self();
  size_t done = 0;
  while (done < fiber.copies.size() && fiber.copies[done].group < fiber.groups - pending) perform(fiber.copies[done++]);
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + done);
}

void send(unsigned to, const unsigned (&words)[4], unsigned barrier) {
  Block *block, *counting;
  Message message{shared_pointer(to, 16, block), {}, (Barrier*)shared_pointer(barrier, 8, counting), block, &self(), 0};
  if (block != counting) fail("the barrier is in another block than the bytes");
  memcpy(message.words, words, 16);
  launch.messages.push_back(message);
}

void store_late(void* to, const unsigned (&words)[4]) {
  if ((uintptr_t)to % 16) fail("16 bytes of global memory are not aligned");
  Message message{(char*)to, {}, nullptr, self().home, &self(), self().home->epoch};
  memcpy(message.words, words, 16);
  launch.messages.push_back(message);
}

// Before what comes next: the thread's own stores, and those of its block that a barrier ordered before this.
void fence() {
  for (int i = launch.messages.size() - 1; i >= 0; --i) {
    const Message& message = launch.messages[i];
    if (message.barrier || message.receiver != self().home) continue;
    if (message.sender == &self() || message.epoch < self().home->epoch) deliver(i);
  }
}

void release(unsigned* flag, unsigned value) {
  fence();
  *flag = value, launch.fruitless = 0;
  for (Fiber& fiber : launch.fibers)
    if (fiber.wait == kFlag && fiber.flag == flag) set_ready(fiber);
  take_turns();
}

// Who finds the same again is not to ask before somebody has written it.
unsigned acquire(const unsigned* flag) {
  Fiber& fiber = self();
  if (fiber.flag == flag && fiber.found == *flag) wait_for(kFlag);
  fiber.flag = flag, fiber.found = *flag;
  return fiber.found;
}

// --- A launch
// -------------------------------------------------------------------------------------------------------------

namespace {

void make(int first, int count, int threads) {
  launch.blocks = std::vector<Block>(count);
  launch.fibers = std::vector<Fiber>(count * threads);
  launch.warps = std::vector<Warp>(count * threads / 32);
  for (int rank = 0; rank < count; ++rank) {
    Block& block = launch.blocks[rank];
    block.rank = rank, block.threads = block.living = threads, block.fibers = &launch.fibers[rank * threads];
    block.memory.reset(new char[launch.shared_bytes + Block::kGuard + 127]);
    block.shared = (char*)(((uintptr_t)block.memory.get() + 127) / 128 * 128);
    memset(block.shared, Block::kUnwritten, launch.shared_bytes);
    memset(block.shared + launch.shared_bytes, Block::kBeyond, Block::kGuard);
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = block.fibers[i];
      fiber.thread = {unsigned(i), 0, 0}, fiber.home = &block, fiber.lane = i % 32;
      fiber.block = {unsigned(first + rank), 0, 0};
      fiber.warp = &launch.warps[(rank * threads + i) / 32];
      if (fiber.lane == 0) fiber.warp->fibers = &fiber;
    }
  }
}

void run_together(int first, int count, int threads) {
  make(first, count, threads);
  Stacks stacks(count * threads);
  launch.ready.clear(), launch.messages.clear();
  launch.favourite = nullptr, launch.delivery = draw(2) ? 0 : draw(16);
  launch.living = count * threads, launch.at_group = launch.fruitless = 0;
  current = &launch.fibers[0];
  for (int i = 0; i < launch.living; ++i)
    launch.fibers[i].stack_pointer = stacks.begin(i, live), set_ready(launch.fibers[i]);
  Fiber& begin = next();
  current = &begin;
  elman_switch(&launch.outside, begin.stack_pointer);
  const char* wrong = nullptr;
  for (size_t i = 0; i < launch.fibers.size(); ++i)
    if (stacks.is_overrun(i)) wrong = "a thread's stack is too small";
  while (!launch.has_failed && !wrong && !launch.messages.empty()) {
    if (launch.messages.back().barrier) wrong = "bytes are on their way to a block that has ended";
    else deliver(launch.messages.size() - 1);
  }
  for (const Block& block : launch.blocks)
    for (int i = 0; i < Block::kGuard; ++i)
      if ((unsigned char)block.shared[launch.shared_bytes + i] != Block::kBeyond)
        wrong = "a block writes beyond its shared memory";
  if (!wrong || launch.has_failed) return;
  launch.has_failed = true;
  snprintf(launch.text, launch.text_size, "%s", wrong);
}

}  // namespace
}  // namespace elman::emulated

// Returns 0, or 1 with what is wrong in `message`. blocks_together: those that wait for each other; others run one
// after another.
extern "C" __attribute__((visibility("default"))) int emulate(int grid, int threads, int shared_bytes,
    int blocks_together, const void* call, unsigned seed, char* message, int message_size) {
  using namespace elman::emulated;
  launch = {};
  launch.call = call, launch.shared_bytes = shared_bytes, launch.text = message, launch.text_size = message_size;
  launch.random = 0x9e3779b97f4a7c15 * (seed + 1ull);
  for (int i = 0; i < 8; ++i) draw(2);
  for (int first = 0; first < grid && !launch.has_failed; first += blocks_together)
    run_together(first, blocks_together, threads);
  const int failed = launch.has_failed;
  launch = {};
  return failed;
}
