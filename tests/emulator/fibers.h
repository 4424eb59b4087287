// What a launch consists of: blocks, warps and threads, each thread with a stack of its own. x86-64 alone.
#pragma once

#include <stdint.h>
#include <sys/mman.h>

#include <memory>
#include <optional>
#include <vector>

#include "product.h"
#include "races.h"

// Puts the registers that a function must keep onto the stack, which is then kept in *from, and goes on where `to` was
// kept.
extern "C" void elman_switch(void** from, void* to);
asm(R"(
.text
.type elman_switch, @function
elman_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size elman_switch, .-elman_switch
)");

namespace elman::emulated {

// What a thread waits for.
enum Wait { kNothing, kBlock, kWarp, kGroup, kProduct, kShuffle, kBytes, kFlag, kEnd, kWaits };
constexpr const char* kNames[kWaits] = {"nothing", "its block", "its warp", "its group's blocks", "its warp's product",
    "its warp's shuffle", "bytes from other blocks", "a flag", "the end"};

struct Copy {
  char* to;
  const void* from;
  int valid, bytes, group;
  bool is_done;
};

struct Barrier {  // an mbarrier, in shared memory
  static constexpr uint16_t kThere = 0xbace;
  int32_t bytes;  // expected and not arrived
  uint8_t pending, phase;
  uint16_t mark;
};
static_assert(sizeof(Barrier) == 8);

struct Block;
struct Warp;

struct Fiber : Place {
  void* stack_pointer;
  Block* home;
  Warp* warp;
  int lane;
  Wait wait;
  Barrier* barrier;  // waits for its phase of this parity to end
  unsigned parity;
  const unsigned* flag;  // last read, with what was found, if nothing else was done since
  unsigned found;
  std::vector<Copy> copies;
  int groups;  // of copies, closed
};

struct Warp {
  Fiber* fibers;   // 32
  unsigned ready;  // which of them can go on
  int place;       // in the list of warps that can, if any
  int arrived;
  Wait meeting;  // what those that have arrived do
  Operands operands[32];
};

struct Block {
  static constexpr int kGuard = 4096;
  static constexpr unsigned char kUnwritten = 0xff, kBeyond = 0xa5;
  int rank, threads, living, arrived, epoch;  // epoch: how many barriers it is past
  Fiber* fibers;
  char* shared;
};

// Memory for the stacks of a launch, of which only what is used takes any.
class Stacks {
 public:
  static constexpr size_t kBytes = 128 << 10;
  static constexpr uint64_t kLast = 0x5a5a1234a5a54321;
  explicit Stacks(int count)
      : bytes_(count * kBytes), memory_((char*)mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Stacks() {
    if (is_there()) munmap(memory_, bytes_);
  }
  bool is_there() const { return memory_ != MAP_FAILED; }
  // The stack of this index, as elman_switch leaves one: at the beginning of a function.
  void* begin(int index, void (*function)()) {
    limit(index) = kLast;
    void** top = (void**)(memory_ + (index + 1) * kBytes) - 2;
    *top = (void*)function;
    return top - 6;
  }
  char* begin() const { return memory_; }
  char* end() const { return memory_ + bytes_; }
  bool is_overrun(int index) { return limit(index) != kLast; }

 private:
  uint64_t& limit(int index) { return *(uint64_t*)(memory_ + index * kBytes); }
  size_t bytes_;
  char* memory_;
};

struct Message {
  char* to;
  unsigned words[4];
  Barrier* barrier;  // null: to global memory
  Block* receiver;   // or, to global memory, the sender's block
  const Fiber* sender;
  int epoch;
  Clock clock;     // its sender's
  unsigned phase;  // of the barrier, in which it counts
};

struct Launch {
  const void* call;
  int shared_bytes;
  uint64_t random;
  char* text;
  int text_size;
  bool has_failed;
  void* outside;  // the stack of who launches
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Block> blocks;       // those that run together
  std::unique_ptr<char[]> memory;  // their shared memory
  std::vector<Warp*> ready;        // those with threads that can go on
  Warp* favourite;                 // goes on as long as it can
  std::vector<Message> messages;
  unsigned delivery;  // of 16 turns, in how many a message arrives first
  int living, at_group, fruitless;
  std::optional<Races> races;
  const char *stacks, *stacks_end;
};

extern Launch launch;
inline Fiber& self() { return *(Fiber*)current; }
inline int number_of(const Fiber& fiber) { return &fiber - launch.fibers.data(); }

unsigned draw(unsigned below);
void set_ready(Fiber& fiber);
void deliver(int index);  // the message of this index
Fiber& next();            // whose turn it is
void live();              // what a fiber does

}  // namespace elman::emulated
