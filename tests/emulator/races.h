// Which accesses to memory are in an order. Two to the same bytes, one of them a write, that no barrier, message or
// flag orders are a race, whether or not the numbers of this run show it. See Flanagan and Freund, "FastTrack:
// Efficient and Precise Dynamic Race Detection" (2009). A kernel compiled with -fsanitize=thread tells of each access.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

namespace elman::emulated {

// How far each thread has come, and each barrier that counts bytes, as far as somebody knows; and how far `thread` has,
// which knows that. Threads of a block mostly know the same, and so share it.
using Times = std::shared_ptr<const std::vector<unsigned>>;
struct Clock {
  Times others;
  unsigned thread, own;
  unsigned of(unsigned who) const { return who == thread ? own : (*others)[who]; }
};

// Memory that a launch may touch beside its blocks': where each tensor begins, where it ends, where the next one
// begins...
struct Tensors {
  const uintptr_t* bounds;
  int count;  // of bounds
};

// The blocks' shared memory: where the first one's begins, and how far apart they lie.
struct SharedMemory {
  char* begin;
  size_t bytes, pitch;
  int blocks;
};

struct Barrier;

// Of a launch. A thread's number is its place among those that run together.
class Races {
 public:
  explicit Races(Tensors tensors) : tensors_(tensors) {}

  // These threads begin. None of those before has an order with them.
  void begin(int threads, SharedMemory shared);

  // What threads tell each other. meet: each knows what the others have done. Else they know it who acquire what was
  // released.
  void meet(int first, int count);
  Clock released(int thread);
  void release_flag(int thread, const unsigned* flag);
  void acquire_flag(int thread, const unsigned* flag);

  // A barrier's phase ends once all messages that it counts are there: who waits for it then knows what their senders
  // knew.
  void add_barrier(const Barrier* barrier);
  unsigned phase(const Barrier* barrier) const { return barriers_.at(barrier).ended + 1; }
  void arrive(const Barrier* barrier, const Clock& clock);
  void end_phase(const Barrier* barrier);
  void acquire_phase(int thread, const Barrier* barrier);

  // Whether every message is awaited by a thread of the block that it goes to: what is wrong, or null.
  const char* unawaited() const;

  void check_own(const char* shared, const void* at) const;  // that no pointer leads to another block's shared memory
  void check(const void* at, size_t bytes) const { place("flags", at, bytes); }  // that it lies in a tensor

  // Accesses of a thread. A message's bytes are there when its phase ends; those of a copy may be touched by nobody
  // until it has ended.
  void read(int thread, const void* at, size_t bytes);
  void write(int thread, const void* at, size_t bytes);
  void send(int thread, const void* at, size_t bytes, const Barrier* barrier);
  void begin_copy(int thread, const void* at, size_t bytes);
  void end_copy(int thread, const void* at, size_t bytes);

 private:
  // When a copy that runs has ended, and what others did who do not run together.
  static constexpr unsigned kNever = ~0u;
  static constexpr int kCellBytes = 2, kBarriersOfBlock = 16;
  static constexpr uintptr_t kPageBytes = 4096;
  struct Access {
    unsigned who, when;
  };
  struct Cell {
    Access last_write;          // at 0: nobody has written
    std::vector<Access> reads;  // since then; none of them is ordered before another
  };
  struct Phases {
    unsigned number, ended;
    std::vector<unsigned> arriving;
    std::set<Times> known;  // what has been joined into it in this phase
    Times at_end;
    bool is_sent_to;  // in the phase that has not ended
  };
  struct Place {
    const char* verb;  // what is done there
    uintptr_t at;
    size_t bytes, offset;  // from the beginning of the block's shared memory
    int block;             // -1: global memory
  };

  Place place(const char* verb, const void* at, size_t bytes) const;
  template <class Visit> void each_cell(const Place& place, Visit visit);
  void change(int thread, const Place& place, Access write);
  Times joined(const Times& one, const Times& other);
  bool is_ordered(Access access, const Clock& clock) const { return access.when <= clock.of(access.who); }
  [[noreturn]] void fail_by_race(const Place& place, Access other, const char* does) const;

  Tensors tensors_;
  int threads_;
  SharedMemory memory_;
  std::vector<Clock> clocks_;  // of each thread
  struct {
    Times one, other, both;
  } last_joined_;
  std::vector<std::vector<Cell>> shared_;                    // of each block
  std::unordered_map<uintptr_t, std::vector<Cell>> global_;  // of each page, by its number
  std::map<const Barrier*, Phases> barriers_;
  std::map<const unsigned*, Times> flags_;
};

}  // namespace elman::emulated
