#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

namespace elman {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins while `busy()`; gives the processor away now and then, for machines with fewer free cores than threads.
template <class F>
inline void spin_while(F busy) {
  for (int i = 0; busy(); ++i) {
    pause();
    if (i == 200) {  // some microseconds
      i = 0;
      std::this_thread::yield();
    }
  }
}

constexpr int kMostThreads = 256;  // workers are never given back: a call that names a million threads shall not start them

struct Pool {
  std::mutex owner;               // held by the team that has the workers
  int workers = 0;                // started so far
  std::atomic<std::uint32_t> call{0};  // odd while a team lives; workers sleep on it
  std::atomic<int> wanted{0};     // workers of this team: those with a smaller number take part

  // The work at hand. It may change only while `open` is false and nobody is `inside`.
  std::atomic<bool> open{false};
  std::atomic<int> inside{0};
  std::atomic<std::int64_t> next{0};
  std::int64_t count = 0;
  void (*task)(void*, std::int64_t) = nullptr;
  void* context = nullptr;

  std::atomic<int> arrived{0};
  std::atomic<std::uint32_t> generation{0};

  void work() {
    for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, i);
  }

  void worker(int number) {
    for (std::uint32_t seen = 0;;) {
      call.wait(seen);
      seen = call.load();
      if (seen % 2 == 0 || number >= wanted.load()) continue;
      spin_while([&] {
        if (open.load()) {
          inside.fetch_add(1);  // then look again: the caller closes first and then waits for those inside
          if (open.load()) work();
          inside.fetch_sub(1);
        }
        return call.load(std::memory_order_relaxed) == seen;
      });
    }
  }

  int grow(int to) {  // returns how many workers there are
    while (workers < to) {
      try {
        std::thread(&Pool::worker, this, workers).detach();
      } catch (...) {
        break;  // the system gives no more threads or memory: work with those there are
      }
      ++workers;
    }
    return workers < to ? workers : to;
  }
};

// Never destroyed: its threads sleep in it until the process ends. A forked child has none of its parent's threads, so it starts a new one.
Pool* pool = nullptr;

Pool& the_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
  });
  return *pool;
}

// More threads than processors would wait for one another.
int processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

}  // namespace

Team::Team(int threads) : threads_(1) {
  if (threads > 1) threads = std::min(threads, processors());
  if (threads <= 1) return;
  Pool& p = the_pool();
  if (!p.owner.try_lock()) return;
  threads_ = 1 + p.grow((threads < kMostThreads ? threads : kMostThreads) - 1);
  if (threads_ == 1) {
    p.owner.unlock();
    return;
  }
  p.wanted.store(threads_ - 1);
  p.call.fetch_add(1);
  p.call.notify_all();
}

Team::~Team() {
  if (threads_ == 1) return;
  Pool& p = the_pool();
  p.call.fetch_add(1);
  p.owner.unlock();
}

void Team::run(std::int64_t count, void (*task)(void*, std::int64_t), void* context) {
  if (threads_ == 1 || count == 1) {
    for (std::int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  Pool& p = the_pool();
  p.task = task, p.context = context, p.count = count;
  p.next.store(0);
  p.open.store(true);
  p.work();
  p.open.store(false);
  spin_while([&] { return p.inside.load() != 0; });
}

void Team::barrier() {
  if (threads_ == 1) return;
  Pool& p = the_pool();
  const std::uint32_t generation = p.generation.load(std::memory_order_acquire);
  if (p.arrived.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    p.arrived.store(0, std::memory_order_relaxed);
    p.generation.fetch_add(1, std::memory_order_release);
  } else {
    spin_while([&] { return p.generation.load(std::memory_order_acquire) == generation; });
  }
}

}  // namespace elman
