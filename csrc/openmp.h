// The threads of an OpenMP runtime, where the process has one whose names are visible, as torch's is. Torch's operators
// leave its threads spinning for some milliseconds. While they do, threads of our own would have to share the
// processors with them (measured: 1.1 to 1.8 times the time in training), and they are awake already: a call is then
// one of their parallel regions. But such a region ends only when each of its threads has had its turn, which on a busy
// machine takes the system milliseconds. So it is asked first whether one of them is on a processor right now.
#pragma once

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>

#include "spin.h"

namespace elman {

struct OpenMp {
  // GNU's interface, which LLVM's and Intel's runtimes offer too.
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
  int (*num_threads)(), (*max_threads)();
  int (*pause)(int);  // OpenMP 5.0
  template <class F> static void find(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  }
  OpenMp() {
    find(parallel, "GOMP_parallel");
    find(num_threads, "omp_get_num_threads");
    find(max_threads, "omp_get_max_threads");
    find(pause, "omp_pause_resource_all");
  }
#if defined(__linux__)
  bool usable() const { return parallel && num_threads && max_threads && pause; }
#else
  bool usable() const { return false; }  // whether its threads are awake cannot be told
#endif
};

inline const OpenMp& openmp() {
  static const OpenMp found;
  return found;
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

}  // namespace elman
