// Clocks, sleeping and what a process has used.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <time.h>

#include <cerrno>

#include "syscalls.hpp"

namespace tidemill::aquifer {

namespace {

timespec to_timespec(int64_t ns) { return {ns / kSecond, ns % kSecond}; }
timeval to_timeval(int64_t ns) { return {ns / kSecond, ns % kSecond / 1000}; }

int64_t sys_clock_gettime(Process& process, const Arguments& a) {
  const auto now = process.clocks.read(static_cast<int>(a[0]));
  if (!now) return -EINVAL;
  return process.memory->store(a[1], to_timespec(*now)) ? 0 : -EFAULT;
}

int64_t sys_clock_getres(Process& process, const Arguments& a) {
  if (!process.clocks.read(static_cast<int>(a[0]))) return -EINVAL;
  return a[1] == 0 || process.memory->store(a[1], to_timespec(1)) ? 0 : -EFAULT;
}

int64_t sys_gettimeofday(Process& process, const Arguments& a) {
  const timeval now = to_timeval(host_clock(CLOCK_REALTIME));
  return a[0] == 0 || process.memory->store(a[0], now) ? 0 : -EFAULT;
}

int64_t sys_time(Process& process, const Arguments& a) {
  const int64_t now = host_clock(CLOCK_REALTIME) / kSecond;
  return a[0] == 0 || process.memory->store(a[0], now) ? now : -EFAULT;
}

int64_t sleep_until(Process& process, uint64_t address, int clock, bool absolute) {
  const auto wanted = process.memory->load<timespec>(address);
  if (!wanted) return -EFAULT;
  if (wanted->tv_sec < 0 || wanted->tv_nsec < 0 || wanted->tv_nsec >= kSecond) return -EINVAL;
  const auto now = process.clocks.read(clock);
  if (!now) return -EINVAL;
  // An hour at most at a time: sums cannot overflow, and every limit is shorter.
  const int64_t most = 3600;
  const int64_t seconds = wanted->tv_sec - (absolute ? *now / kSecond : 0);
  if (seconds > most) {
    process.sleep(most * kSecond);
    return -EINTR;
  }
  const int64_t left =
      seconds * kSecond + wanted->tv_nsec - (absolute ? *now % kSecond : int64_t{0});
  if (left > 0) process.sleep(left);
  return 0;
}

int64_t sys_nanosleep(Process& process, const Arguments& a) {
  return sleep_until(process, a[0], CLOCK_MONOTONIC, false);
}

int64_t sys_clock_nanosleep(Process& process, const Arguments& a) {
  return sleep_until(process, a[2], static_cast<int>(a[0]), (a[1] & TIMER_ABSTIME) != 0);
}

int64_t sys_times(Process& process, const Arguments& a) {
  const int64_t tick = kSecond / 100;
  tms used = {};
  used.tms_utime = process.clocks.processor() / tick;
  if (a[0] != 0 && !process.memory->store(a[0], used)) return -EFAULT;
  return process.clocks.monotonic() / tick;
}

int64_t sys_getrusage(Process& process, const Arguments& a) {
  rusage used = {};
  used.ru_utime = to_timeval(process.clocks.processor());
  return process.memory->store(a[1], used) ? 0 : -EFAULT;
}

constexpr Call kCalls[] = {
    {SYS_clock_gettime, "clock_gettime", sys_clock_gettime},
    {SYS_clock_getres, "clock_getres", sys_clock_getres},
    {SYS_gettimeofday, "gettimeofday", sys_gettimeofday},
    {SYS_time, "time", sys_time},
    {SYS_nanosleep, "nanosleep", sys_nanosleep},
    {SYS_clock_nanosleep, "clock_nanosleep", sys_clock_nanosleep},
    {SYS_times, "times", sys_times},
    {SYS_getrusage, "getrusage", sys_getrusage},
};

}  // namespace

std::span<const Call> time_calls() { return kCalls; }

}  // namespace tidemill::aquifer
