// Threads for one call: a team is formed, works, and is dissolved.
#pragma once

#include <cstdint>

namespace elman {

struct Effort;

class Team {
 public:
  struct Body {  // what a team is for
    void (*run)(void* context, Team& team);
    void* context;
  };
  // Forms a team of the caller and up to threads-1 others, no more than there are processors, and runs the body on the
  // caller's thread. It is alone if another call has the threads. With an effort: as many as were fastest (tuner.h).
  static void with(int threads, const Body& body, const Effort* effort);
  // How many threads the last team had that the calling thread asked for.
  static int last();
  Team() = default;  // the caller alone
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }

  // task(context, i) for every i < count, each once, in any order, on whichever thread is free; returns after the last.
  void run(std::int64_t count, void (*task)(void*, std::int64_t), void* context);

  // A callable's type carries its instruction set's namespace, so that no two sets share a copy of this.
  template <class F> void each(std::int64_t count, F&& f) {
    run(count, [](void* f, std::int64_t i) { (*static_cast<F*>(f))(i); }, &f);
  }

  // Waits until what others count up (with release) has come so far.
  static void wait(const std::int64_t& count, std::int64_t least);

  // Inside run(threads(), ...), where every thread has one part: waits until all have come here.
  void barrier();

  // How long a barrier takes that all come to at once. On a virtual machine that changes: it is measured now and then.
  double barrier_seconds();
  // From now on that of every team is said to be so long, and every call gets the threads it asks for; negative: both
  // are measured. For tests, which want to have either way of dividing work.
  static void assume_barrier(double seconds);

 private:
  friend struct Work;
  explicit Team(int threads) : threads_(threads) {}
  int threads_ = 1;
};

// The same with a callable, f(team).
template <class F> void with_team(int threads, F&& f, const Effort* effort = nullptr) {
  Team::with(threads, {[](void* f, Team& team) { (*static_cast<F*>(f))(team); }, &f}, effort);
}

}  // namespace elman
