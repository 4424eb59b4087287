// Threads for one call: they are woken when a team is formed, spin only while it lives, and sleep between calls.
#pragma once

#include <cstdint>

namespace elman {

class Team {
 public:
  explicit Team(int threads);  // the caller and up to threads-1 workers, no more than there are processors; alone if another call has the workers
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }

  // task(context, i) for every i < count, each once, in any order, on whichever thread is free. Returns when all are done.
  void run(std::int64_t count, void (*task)(void*, std::int64_t), void* context);

  // The same with a callable. A callable's type carries its instruction set's namespace, so that no two sets share a copy of this.
  template <class F>
  void each(std::int64_t count, F&& f) {
    run(count, [](void* f, std::int64_t i) { (*static_cast<F*>(f))(i); }, &f);
  }

  // Inside run(threads(), ...), where every thread has one part: waits until all have come here.
  void barrier();

 private:
  int threads_;
};

}  // namespace elman
