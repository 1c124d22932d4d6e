#include "run_limits.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace tidemill::aquifer {

namespace {

constexpr int64_t kAgain = 10'000'000;  // a timer that fired goes on firing

timespec to_timespec(int64_t ns) { return {ns / kSecond, ns % kSecond}; }

timer_t arm(clockid_t clock, int64_t in_ns) {
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kick_signal();
  event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
  timer_t timer = nullptr;
  if (::timer_create(clock, &event, &timer) != 0)
    throw std::system_error(errno, std::generic_category(), "timer_create");
  const itimerspec when = {to_timespec(kAgain), to_timespec(std::max<int64_t>(in_ns, 1))};
  ::timer_settime(timer, 0, &when, nullptr);
  return timer;
}

}  // namespace

int kick_signal() { return SIGRTMAX - 3; }

void Kick::send() {
  const std::lock_guard lock(mutex_);
  wanted_ = true;
  if (runner_ != 0) ::syscall(SYS_tgkill, ::getpid(), runner_, kick_signal());
}

ArmedRun::ArmedRun(Kick& kick, Vcpu& vcpu, const Clocks& clocks, const Budget& budget)
    : kick_(kick), clocks_(clocks), budget_(budget) {
  ::sigemptyset(&only_kick_);
  ::sigaddset(&only_kick_, kick_signal());
  ::pthread_sigmask(SIG_BLOCK, &only_kick_, &before_);
  sigset_t inside = before_;
  ::sigdelset(&inside, kick_signal());
  vcpu.set_run_mask(inside);
  wall_ = arm(CLOCK_MONOTONIC, budget.wall_end_ns - host_clock(CLOCK_MONOTONIC));
  cpu_ = arm(CLOCK_THREAD_CPUTIME_ID, budget.cpu_end_ns - clocks.processor());
  const std::lock_guard lock(kick_.mutex_);
  kick_.runner_ = static_cast<pid_t>(::syscall(SYS_gettid));
}

ArmedRun::~ArmedRun() {
  {
    const std::lock_guard lock(kick_.mutex_);
    kick_.runner_ = 0;
  }
  ::timer_delete(wall_);
  ::timer_delete(cpu_);
  drain();
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

bool ArmedRun::over_cpu() const { return clocks_.processor() >= budget_.cpu_end_ns; }

bool ArmedRun::over_wall() const { return host_clock(CLOCK_MONOTONIC) >= budget_.wall_end_ns; }

void ArmedRun::drain() const {
  const timespec now = {};
  while (::sigtimedwait(&only_kick_, nullptr, &now) > 0) {
  }
}

void ArmedRun::sleep(int64_t nanoseconds) const {
  const timespec time = to_timespec(nanoseconds);
  ::sigtimedwait(&only_kick_, nullptr, &time);
}

}  // namespace tidemill::aquifer
