#include "threads.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "openmp.h"
#include "processors.h"
#include "tuner.h"

namespace elman {
namespace {

// For so long a thread of our own looks out for the next call before it sleeps: about what waking it would cost.
constexpr std::chrono::microseconds kLinger{100};

// How long a barrier takes is measured so often, by so many of them in a row, and not again for so many questions.
constexpr int kMeasurements = 3, kBarriers = 4, kHolds = 256;

constexpr int kMostThreads = 256;  // threads are never given back: a call that names a million shall not start them

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins while `busy()`; gives the processor away now and then, for machines with fewer free cores than threads.
template <class F> void spin_while(F busy) {
  for (int i = 1; busy(); i = i % 200 + 1) {
    pause();
    if (i == 200) std::this_thread::yield();  // some microseconds
  }
}

// The clock of the time that a thread has had on a processor.
class ThreadClock {
 public:
  bool known() const { return known_; }
  void follow_this_thread() {
#if defined(__linux__)
    known_ = pthread_getcpuclockid(pthread_self(), &clock_) == 0;
#endif
  }
  bool is_running() {
    const long before = read();
    for (int i = 0; i < 8; ++i) pause();
    const long after = read();
    known_ = before >= 0 && after >= 0;  // or the thread has ended
    return known_ && after > before;
  }

 private:
  long read() const {
    timespec t;
    return clock_gettime(clock_, &t) == 0 ? t.tv_sec * 1'000'000'000 + t.tv_nsec : -1;
  }
  clockid_t clock_{};
  bool known_ = false;
};

thread_local ThreadClock openmp_thread;  // one of those that work for this thread
thread_local int threads_of_last_team = 1;
std::atomic<double> assumed_barrier{-1};

}  // namespace

// What the members of a team share. There is one team at a time.
struct Work {
  std::mutex owner;                    // held by the team that has the threads
  std::atomic<std::uint32_t> call{0};  // odd while a team lives

  // The work at hand. It may change only while `open` is false and nobody is `inside`.
  std::atomic<bool> open{false};
  std::atomic<int> inside{0};
  std::atomic<std::int64_t> next{0};
  std::int64_t count = 0;
  void (*task)(void*, std::int64_t) = nullptr;
  void* context = nullptr;

  std::atomic<int> arrived{0};
  std::atomic<std::uint32_t> generation{0};
  double barrier_seconds = 0;  // as last measured, with so many threads, and for how many more questions that holds
  int measured_with = 0, holds = 0;

  Tuner tuner;

  // `most`: how many threads may be asked for at other times. OpenMP's serve where there are as many of them.
  void form(int threads, int most, const Team::Body& body) {
    const std::uint32_t seen = call.load() + 1;
    if (openmp().usable() && openmp().max_threads() == most && (!openmp_thread.known() || openmp_thread.is_running()))
      on_openmp(threads, most, seen, body);
    else on_our_own(threads, seen, body);
  }

  void take_part() {
    for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, i);
  }

 private:
  void lead(Team team, std::uint32_t seen, const Team::Body& body) {  // what the caller's thread does
    call.store(seen);
    if (members.load() > 0) call.notify_all();
    body.run(body.context, team);
    call.store(seen + 1);
    threads_of_last_team = team.threads_;  // whoever was alone inside
  }

  void serve(std::uint32_t seen) {  // what every other thread does, while this team lives
    spin_while([&] {
      if (open.load()) {
        inside.fetch_add(1);  // then look again: the caller closes first and then waits for those inside
        if (open.load()) take_part();
        inside.fetch_sub(1);
      }
      return call.load(std::memory_order_relaxed) == seen;
    });
  }

  // Threads of our own.
  int workers = 0;                 // started so far
  std::atomic<int> members{0};     // of this team: those with a smaller number take part
  std::atomic<int> processor{-1};  // the caller's, as its team was formed

  void on_our_own(int threads, std::uint32_t seen, const Team::Body& body) {
    const int others = start_workers(threads - 1);
    members.store(others);
    processor.store(this_processor());
    lead(Team(1 + others), seen, body);
  }

  void worker(int number) {
    for (std::uint32_t seen = 0;;) {
      call.wait(seen);
      seen = call.load();
      if (seen % 2 == 0 || number >= members.load()) continue;
      leave_processor(processor.load());
      serve(seen);
      ++seen;  // the end of the call served, not whatever has come since: that may be a call to serve
      const auto until = Clock::now() + kLinger;
      spin_while([&] { return call.load(std::memory_order_relaxed) == seen && Clock::now() < until; });
    }
  }

  int start_workers(int to) {  // returns how many there are
    try {
      for (; workers < to; ++workers) std::thread(&Work::worker, this, workers).detach();
    } catch (...) {
      return workers;  // the system gives no more threads or memory: work with those there are
    }
    return to;
  }

  // The region has all the runtime's threads whatever this call wants: GNU's ends those to spare, and starts them anew.
  void on_openmp(int threads, int most, std::uint32_t seen, const Team::Body& body) {
    struct Region {
      int threads;
      Work& work;
      std::uint32_t seen;
      const Team::Body& body;
      pthread_t caller;
      ThreadClock& clock;
      std::atomic<int> others{0};  // threads that have come, but for the caller's
    } region{threads, *this, seen, body, pthread_self(), openmp_thread};
    members.store(0);  // of our own threads none
    const auto enter = [](void* of) {
      Region& r = *static_cast<Region*>(of);
      if (pthread_equal(pthread_self(), r.caller))  // perhaps fewer than asked for
        return r.work.lead(Team(std::min(r.threads, openmp().num_threads())), r.seen, r.body);
      const int before = r.others.fetch_add(1);
      if (before == 0) r.clock.follow_this_thread();
      if (before >= r.threads - 1) return;
      spin_while([&] { return r.work.call.load() == r.seen - 1; });
      r.work.serve(r.seen);
    };
    openmp().parallel(enter, &region, static_cast<unsigned>(most), 0);
  }
};

namespace {

// Never destroyed: threads sleep in it until the process ends. A forked child has none of its parent's threads. It
// starts its own; GNU's OpenMP would wait for its parent's for ever (as it does in torch's operators), unless it has
// given up its threads before the fork. It starts new ones when next asked.
Work* work = nullptr;

Work& the_work() {
  static std::once_flag once;
  std::call_once(once, [] {
    work = new Work;
    constexpr int soft = 1;  // omp_pause_soft
    const auto prepare = [] {
      if (openmp().usable()) openmp().pause(soft);
    };
    pthread_atfork(prepare, nullptr, [] { work = new Work; });
  });
  return *work;
}

void form(int threads, int most, const Team::Body& body) {
  if (threads > 1) {
    Work& w = the_work();
    if (const std::unique_lock lock(w.owner, std::try_to_lock); lock) return w.form(threads, most, body);
  }
  threads_of_last_team = 1;
  Team alone;
  body.run(body.context, alone);
}

}  // namespace

int Team::last() { return threads_of_last_team; }

// More threads than processors would wait for one another.
void Team::with(int threads, const Body& body, const Effort* effort) {
  if (threads > 1) threads = std::min({threads, usable_processors(), kMostThreads});
  if (threads == 1 || !effort || assumed_barrier.load(std::memory_order_relaxed) >= 0)
    return form(threads, threads, body);
  Tuner& tuner = the_work().tuner;
  const auto start = Clock::now();
  form(tuner.choose(*effort, threads), threads, body);
  tuner.learn(*effort, last(), seconds_since(start));
}

void Team::run(std::int64_t count, void (*task)(void*, std::int64_t), void* context) {
  if (threads_ == 1 || count == 1) {
    for (std::int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  Work& w = the_work();
  w.task = task, w.context = context, w.count = count;
  w.next.store(0);
  w.open.store(true);
  w.take_part();
  w.open.store(false);
  spin_while([&] { return w.inside.load() != 0; });
}

void Team::wait(const std::int64_t& count, std::int64_t least) {
  spin_while([&] { return __atomic_load_n(&count, __ATOMIC_ACQUIRE) < least; });
}

void Team::barrier() {
  if (threads_ == 1) return;
  Work& w = the_work();
  const std::uint32_t generation = w.generation.load(std::memory_order_acquire);
  if (w.arrived.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    w.arrived.store(0, std::memory_order_relaxed);
    w.generation.fetch_add(1, std::memory_order_release);
  } else {
    spin_while([&] { return w.generation.load(std::memory_order_acquire) == generation; });
  }
}

void Team::assume_barrier(double seconds) { assumed_barrier.store(seconds); }

double Team::barrier_seconds() {
  if (threads_ == 1) return 0;
  if (const double seconds = assumed_barrier.load(std::memory_order_relaxed); seconds >= 0) return seconds;
  Work& w = the_work();
  if (w.measured_with != threads_ || w.holds-- <= 0) {
    each(threads_, [this](std::int64_t part) {
      double least = 1;  // the system may have had the processor in between
      for (int i = 0; i < kMeasurements; ++i) {
        barrier();
        const auto start = Clock::now();
        for (int k = 0; k < kBarriers; ++k) barrier();
        least = std::min(least, seconds_since(start) / kBarriers);
      }
      if (part == 0) the_work().barrier_seconds = least;
    });
    w.measured_with = threads_,
    w.holds = w.barrier_seconds < 1e-6 ? kHolds : kHolds / 32;  // unless something was in the way
  }
  return w.barrier_seconds;
}

}  // namespace elman
