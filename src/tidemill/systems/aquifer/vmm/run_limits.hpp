// Ends a run in time: two kernel timers and a signal that is only ever open inside KVM_RUN.
#pragma once

#include <signal.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <mutex>

#include "clocks.hpp"
#include "kvm.hpp"

namespace tidemill::aquifer {

// When a run has to end: host's monotonic time, and processor time of the guest.
struct Budget {
  int64_t wall_end_ns = 0;
  int64_t cpu_end_ns = 0;
};

// Signal, used without any handler: blocked in the thread that runs, pending when the time is up.
int kick_signal();

// Lets any thread end the run of another one, without a signal ever reaching a stranger.
class Kick {
 public:
  void send();  // the run under way, or the next one, ends as interrupted
  bool take() { return wanted_.exchange(false); }

 private:
  friend class ArmedRun;
  std::mutex mutex_;
  pid_t runner_ = 0;
  std::atomic<bool> wanted_ = false;
};

// While it lives the calling thread's runs are limited.
class ArmedRun {
 public:
  ArmedRun(Kick& kick, Vcpu& vcpu, const Clocks& clocks, const Budget& budget);
  ArmedRun(const ArmedRun&) = delete;
  ~ArmedRun();

  bool over_cpu() const;
  bool over_wall() const;
  void drain() const;  // forgets the signal that has ended a run
  // Until a time has passed, the signal has come, or another signal was handled.
  void sleep(int64_t nanoseconds) const;

 private:
  Kick& kick_;
  const Clocks& clocks_;
  Budget budget_;
  sigset_t before_ = {}, only_kick_ = {};
  timer_t wall_ = nullptr, cpu_ = nullptr;
};

}  // namespace tidemill::aquifer
