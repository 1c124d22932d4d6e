// The guest's clocks. Wall time is the host's; monotonic time goes on from where a snapshot
// stopped.
#pragma once

#include <time.h>

#include <cstdint>
#include <optional>

namespace tidemill::aquifer {

inline constexpr int64_t kSecond = 1'000'000'000;

inline int64_t host_clock(clockid_t clock) {
  timespec now = {};
  ::clock_gettime(clock, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

class Clocks {
 public:
  Clocks() : origin_(host_clock(CLOCK_MONOTONIC)) {}

  int64_t monotonic() const { return host_clock(CLOCK_MONOTONIC) - origin_; }
  void continue_from(int64_t monotonic) { origin_ = host_clock(CLOCK_MONOTONIC) - monotonic; }
  // Processor time of the guest: of runs that have ended, and of the one that is on.
  int64_t processor() const {
    return spent_ + (running_ ? host_clock(CLOCK_THREAD_CPUTIME_ID) - started_ : 0);
  }
  void set_processor(int64_t spent) { spent_ = spent; }
  void start_run() {
    started_ = host_clock(CLOCK_THREAD_CPUTIME_ID);
    running_ = true;
  }
  void end_run() {
    spent_ = processor();
    running_ = false;
  }
  // Nanoseconds of a Linux clock id; nothing if there is no such clock.
  std::optional<int64_t> read(int clock) const {
    switch (clock) {
      case CLOCK_REALTIME:
      case CLOCK_REALTIME_COARSE:
      case CLOCK_TAI:
        return host_clock(CLOCK_REALTIME);
      case CLOCK_MONOTONIC:
      case CLOCK_MONOTONIC_RAW:
      case CLOCK_MONOTONIC_COARSE:
      case CLOCK_BOOTTIME:
        return monotonic();
      case CLOCK_PROCESS_CPUTIME_ID:
      case CLOCK_THREAD_CPUTIME_ID:
        return processor();
      default:
        return std::nullopt;
    }
  }

 private:
  int64_t origin_, spent_ = 0, started_ = 0;
  bool running_ = false;
};

// Counts a run's processor time while it lives.
class ClockedRun {
 public:
  explicit ClockedRun(Clocks& clocks) : clocks_(clocks) { clocks_.start_run(); }
  ClockedRun(const ClockedRun&) = delete;
  ~ClockedRun() { clocks_.end_run(); }

 private:
  Clocks& clocks_;
};

}  // namespace tidemill::aquifer
