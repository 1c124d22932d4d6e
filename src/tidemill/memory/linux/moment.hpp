// Monotonic time, and waiting for a moment more exactly than a sleep can.
#pragma once

#include <time.h>

#include <cstdint>

namespace tidemill::memory {

inline constexpr int64_t kSpinNs = 50'000;  // what a sleep may be late

inline int64_t now_ns() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

// Sleeps while the moment is far, spins for the rest.
inline void wait_until(int64_t moment_ns) {
  for (int64_t left = moment_ns - now_ns(); left > 0; left = moment_ns - now_ns()) {
    if (left <= kSpinNs) continue;
    const int64_t asleep = left - kSpinNs;
    const timespec time = {asleep / 1'000'000'000, asleep % 1'000'000'000};
    ::nanosleep(&time, nullptr);
  }
}

}  // namespace tidemill::memory
