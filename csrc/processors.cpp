#include "processors.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace elman {
namespace {

// Of one group: its quota in processors, or 0. Version 2 has a file, "max 100000" or "150000 100000", version 1 two.
double quota_of(const std::string& folder) {
  double quota = 0, period = 0;
  if (std::ifstream file(folder + "/cpu.max"); file) {
    file >> quota >> period;  // "max" is no number: quota stays 0
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1: none
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// The quota of this process, read anew when a second has passed: to read it takes some microseconds.
double quota_now() {
  using Clock = std::chrono::steady_clock;
  static std::atomic<double> quota{0};
  static std::atomic<Clock::rep> until{Clock::duration::min().count()};
  const Clock::rep now = Clock::now().time_since_epoch().count();
  Clock::rep before = until.load(std::memory_order_relaxed);
  const Clock::rep next = now + Clock::duration(std::chrono::seconds(1)).count();
  if (now >= before && until.compare_exchange_strong(before, next))
    quota.store(processor_quota("/proc/self/cgroup", "/sys/fs/cgroup"));
  return quota.load(std::memory_order_relaxed);
}

}  // namespace

double processor_quota(const char* membership, const char* mount) {
  double least = 0;
  std::ifstream groups(membership);
  for (std::string line; std::getline(groups, line);) {  // number:controllers:path
    std::istringstream fields(line);
    std::string number, controllers, path;
    if (!std::getline(fields, number, ':') || !std::getline(fields, controllers, ':') || !std::getline(fields, path))
      continue;
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string root = mount + (controllers.empty() ? std::string() : "/cpu");
    for (;;) {  // a container may show its own group as root and the host's path: what is not there has no quota
      if (const double quota = quota_of(root + path); quota > 0) least = least > 0 ? std::min(least, quota) : quota;
      const auto slash = path.find_last_of('/');
      if (slash == std::string::npos || path.empty()) break;
      path.resize(slash);
    }
  }
  return least;
}

#if defined(__linux__)
int this_processor() { return sched_getcpu(); }
void leave_processor(int processor) {
  cpu_set_t others;
  if (processor < 0 || sched_getcpu() != processor || sched_getaffinity(getpid(), sizeof others, &others) != 0) return;
  CPU_CLR(static_cast<std::size_t>(processor), &others);
  if (CPU_COUNT(&others) > 0) sched_setaffinity(0, sizeof others, &others);
}
#else
int this_processor() { return -1; }
void leave_processor(int) {}
#endif

int usable_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int count = CPU_COUNT(&set);
    const double quota = quota_now();
    return quota > 0 ? std::min(count, static_cast<int>(std::ceil(quota))) : count;
  }
#endif
  static const unsigned count = std::thread::hardware_concurrency();  // takes microseconds
  return std::max(static_cast<int>(count), 1);
}

}  // namespace elman
