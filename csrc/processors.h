// The processors that this process may keep busy.
#pragma once

namespace elman {

// The processors it is allowed on, or fewer where its control group (a container's) has a quota of their time: threads
// beyond would all be halted together for the rest of a period. Asked anew each time; the quota once a second.
int usable_processors();

// The quota, in processors, that control groups' files state, of version 2 or 1: the least of this process's and above.
//   membership  what /proc/self/cgroup is      mount  what /sys/fs/cgroup is      0: there is none
double processor_quota(const char* membership, const char* mount);

// A thread that is woken is often put beside whoever woke it, on the same processor, and stays there for milliseconds:
// each barrier between the two then takes as long as the system needs to switch between them (measured: 5.8 µs instead
// of 0.07). leave_processor() moves the calling thread to another one that the process may use.
int this_processor();  // -1: not known
void leave_processor(int processor);

}  // namespace elman
