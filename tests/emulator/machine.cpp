// Which thread goes on, which message arrives, who waits for whom; and what is wrong with a launch.
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fibers.h"

namespace elman::emulated {

Place* current;
Launch launch;

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
  launch.races->end_phase(&barrier);
  for (int i = 0; i < block.threads; ++i) {
    Fiber& fiber = block.fibers[i];
    if (fiber.wait == kBytes && fiber.barrier == &barrier && fiber.parity != barrier.phase) set_ready(fiber);
  }
}

void deliver(int index) {
  std::swap(launch.messages[index], launch.messages.back());
  const Message message = std::move(launch.messages.back());
  launch.messages.pop_back();
  if (message.barrier && !message.receiver->living)
    fail("bytes arrive at block %d after its end", message.receiver->rank);
  memcpy(message.to, message.words, 16);
  if (!message.barrier) return;
  if (message.phase != launch.races->phase(message.barrier))
    fail("bytes are counted in another phase than that they were sent for");
  launch.races->arrive(message.barrier, message.clock);
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
  if (what != kProduct && what != kShuffle) launch.races->meet(number_of(*fibers), size);
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
  if (copy.is_done) return;
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

char* shared_memory() { return self().home->shared; }

unsigned shared_address(const void* p) {
  const Block& block = *self().home;
  const long offset = (const char*)p - block.shared;
  if (offset < 0 || offset >= launch.shared_bytes) fail("a pointer outside of shared memory");
  return block.rank << 18 | offset;
}

char* at_shared_address(unsigned address) { return shared_memory() + (address & ((1 << 18) - 1)); }

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
  Barrier& barrier = barrier_at(address, false);
  launch.races->write(number_of(self()), &barrier, sizeof barrier);
  launch.races->add_barrier(&barrier);
  barrier = {0, 1, 0, Barrier::kThere};
}

void barrier_expect(unsigned address, unsigned bytes) {
  Barrier& barrier = barrier_at(address);
  if (!barrier.pending) fail("a barrier is armed twice");
  launch.races->arrive(&barrier, launch.races->released(number_of(self())));
  barrier.bytes += bytes, --barrier.pending;
  if (barrier.bytes >= 1 << 20) fail("a barrier expects too many bytes");
  end_phase(*self().home, barrier);
}

void barrier_wait(unsigned address, unsigned parity) {
  Fiber& fiber = self();
  Barrier& barrier = barrier_at(address);
  launch.races->read(number_of(fiber), &barrier, sizeof barrier);
  fiber.barrier = &barrier, fiber.parity = parity;
  if (barrier.phase == parity) wait_for(kBytes);
  else take_turns();
  launch.races->acquire_phase(number_of(fiber), &barrier);
}

// --- What arrives later

void copy_late(unsigned to, const void* from, int valid, int bytes) {
  Block* block;
  Copy copy{shared_pointer(to, bytes, block), from, valid, bytes, self().groups, false};
  if ((uintptr_t)from % bytes) fail("%d bytes of global memory are not aligned", bytes);
  if (valid) launch.races->read(number_of(self()), from, valid);
  launch.races->begin_copy(number_of(self()), copy.to, bytes);
  if (draw(4) == 0) perform(copy), copy.is_done = true;
  self().copies.push_back(copy);
}

void commit_copies() { ++self().groups; }

void wait_for_copies(int pending) {
  Fiber& fiber = self();
  size_t done = 0;
  for (; done < fiber.copies.size() && fiber.copies[done].group < fiber.groups - pending; ++done) {
    perform(fiber.copies[done]);
    const Copy& copy = fiber.copies[done];
    if (copy.valid) launch.races->read(number_of(fiber), copy.from, copy.valid);
    launch.races->end_copy(number_of(fiber), copy.to, copy.bytes);
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + done);
}

void send(unsigned to, const unsigned (&words)[4], unsigned barrier) {
  Block *block, *counting;
  Message message{
      shared_pointer(to, 16, block), {}, (Barrier*)shared_pointer(barrier, 8, counting), block, &self(), 0, {}, 0};
  if (block != counting) fail("the barrier is in another block than the bytes");
  if (message.barrier->mark != Barrier::kThere) fail("block %d is sent bytes before its barrier is there", block->rank);
  const int sender = number_of(self());
  launch.races->read(sender, message.barrier, sizeof(Barrier));
  launch.races->send(sender, message.to, 16, message.barrier);
  message.clock = launch.races->released(sender), message.phase = launch.races->phase(message.barrier);
  memcpy(message.words, words, 16);
  launch.messages.push_back(std::move(message));
}

void store_late(void* to, const unsigned (&words)[4]) {
  launch.races->write(number_of(self()), to, 16);
  Message message{(char*)to, {}, nullptr, self().home, &self(), self().home->epoch, {}, 0};
  memcpy(message.words, words, 16);
  launch.messages.push_back(std::move(message));
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
  launch.races->check(flag, sizeof *flag);
  fence();
  launch.races->release_flag(number_of(self()), flag);
  *flag = value, launch.fruitless = 0;
  for (Fiber& fiber : launch.fibers)
    if (fiber.wait == kFlag && fiber.flag == flag) set_ready(fiber);
  take_turns();
}

// Who finds the same again is not to ask before somebody has written it.
unsigned acquire(const unsigned* flag) {
  launch.races->check(flag, sizeof *flag);
  Fiber& fiber = self();
  if (fiber.flag == flag && fiber.found == *flag) wait_for(kFlag);
  fiber.flag = flag, fiber.found = *flag;
  launch.races->acquire_flag(number_of(fiber), flag);
  return fiber.found;
}

}  // namespace elman::emulated
