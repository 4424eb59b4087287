// A launch from its beginning to its end.
#include <stdio.h>
#include <string.h>

#include "fibers.h"

namespace elman::emulated {

namespace {

void make(int first, int count, int threads) {
  launch.blocks = std::vector<Block>(count);
  launch.fibers = std::vector<Fiber>(count * threads);
  launch.warps = std::vector<Warp>(count * threads / 32);
  const size_t pitch = (launch.shared_bytes + Block::kGuard + 127) / 128 * 128;
  launch.memory.reset(new char[count * pitch + 127]);
  char* const begin = (char*)(((uintptr_t)launch.memory.get() + 127) / 128 * 128);
  launch.races->begin(count * threads, {begin, size_t(launch.shared_bytes), pitch, count});
  for (int rank = 0; rank < count; ++rank) {
    Block& block = launch.blocks[rank];
    block.rank = rank, block.threads = block.living = threads, block.fibers = &launch.fibers[rank * threads];
    block.shared = begin + rank * pitch;
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
  launch.stacks = stacks.begin(), launch.stacks_end = stacks.end();
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
  if (!launch.has_failed && !wrong) wrong = launch.races->unawaited();
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
// after another. bounds: of all tensors (races.h).
extern "C" __attribute__((visibility("default"))) int emulate(int grid, int threads, int shared_bytes,
    int blocks_together, const void* call, unsigned seed, const uintptr_t* bounds, int bounds_count, char* message,
    int message_size) {
  using namespace elman::emulated;
  launch = {};
  launch.call = call, launch.shared_bytes = shared_bytes, launch.text = message, launch.text_size = message_size;
  launch.races.emplace(Tensors{bounds, bounds_count});
  launch.random = 0x9e3779b97f4a7c15 * (seed + 1ull);
  for (int i = 0; i < 8; ++i) draw(2);
  for (int first = 0; first < grid && !launch.has_failed; first += blocks_together)
    run_together(first, blocks_together, threads);
  const int failed = launch.has_failed;
  launch = {};
  return failed;
}
