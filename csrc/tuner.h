// How many threads a call runs on: as many as made calls like it fastest.
//
// What threads bring cannot be told beforehand. It depends on how far the processors are from one another, on whether
// the threads get them at all (other processes, a virtual machine's host, two calls at once), and on whether they are
// awake. So it is measured: each call is timed, and what calls of one kind took on one thread, on all and on numbers
// between is kept. Whatever is not the fastest is tried again now and then, as far as what that may cost stays a small
// share of the time that the calls take. The bits of results do not depend on it.
#pragma once

#include <cstdint>
#include <mutex>

namespace elman {

// A call: which ones are alike, and how many multiply-adds it takes.
struct Effort {
  std::uint64_t kind;
  double multiply_adds;
};

class Tuner {
 public:
  // How many threads a call should run on: from 1 to `most`, which is at least 2.
  int choose(const Effort& call, int most);
  // It did, and took so long.
  void learn(const Effort& call, int threads, double seconds);

 private:
  static constexpr int kSizes = 9;  // teams of 1, 2, 4 ... threads; the last stands for all there are
  struct Record {
    std::uint64_t kind = 0;
    double rate[kSizes] = {};    // seconds for each multiply-add, a moving average; 0: not tried
    double waited[kSizes] = {};  // seconds that calls took since it was last tried
    double credit = 0;           // seconds that teams may still lose against one thread
    bool barred = false;         // they have lost more, and earn it back
    int seen[kSizes] = {};       // calls, counted up to kWarm
    int before = 0;              // the last call's size
    int tried = 0, tries = 0;    // a size that is being tried, and for how many more calls
  };
  static int size_for(int threads);
  Record& record(const Effort& call);
  Record records_[1024];
  std::mutex mutex_;
};

}  // namespace elman
