// Who the process is, its signals, locks and end. There is one process with one thread.
#include <asm/prctl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "syscalls.hpp"

namespace tidemill::aquifer {

namespace {

constexpr int64_t kUser = 1000;

int64_t sys_nothing(Process&, const Arguments&) { return 0; }
int64_t sys_process_id(Process&, const Arguments&) { return kProcessId; }
int64_t sys_user(Process&, const Arguments&) { return kUser; }
int64_t sys_absent(Process&, const Arguments&) { return -ENOSYS; }  // known, quietly not offered

int64_t sys_exit(Process& process, const Arguments& a) {
  process.code = static_cast<int>(a[0] & 0xFF);
  process.finish(End::Exited, "");
  return 0;
}

int64_t sys_forbidden(Process& process, const Arguments&) {
  process.warn("fork, clone or exec was tried: a guest is one process with one thread (EPERM)");
  return -EPERM;
}

int64_t sys_no_network(Process& process, const Arguments&) {
  process.warn("a socket was asked for: a guest has no network (EACCES)");
  return -EACCES;
}

int64_t sys_arch_prctl(Process& process, const Arguments& a) {
  switch (a[0]) {
    case ARCH_SET_FS:
    case ARCH_SET_GS:
      if (a[1] > process.memory->size()) return -EPERM;
      (a[0] == ARCH_SET_FS ? process.fs_base : process.gs_base) = a[1];
      process.bases_changed = true;
      return 0;
    case ARCH_GET_FS:
      return process.memory->store(a[1], process.fs_base) ? 0 : -EFAULT;
    case ARCH_GET_GS:
      return process.memory->store(a[1], process.gs_base) ? 0 : -EFAULT;
    default:
      return -EINVAL;  // shadow stacks and the like
  }
}

int64_t sys_rt_sigaction(Process& process, const Arguments& a) {
  if (a[0] == 0 || a[0] > 64 || a[3] != 8) return -EINVAL;
  SignalAction& action = process.actions[a[0]];
  if (a[2] != 0 && !process.memory->store(a[2], action)) return -EFAULT;
  if (a[1] == 0) return 0;
  const auto wanted = process.memory->load<SignalAction>(a[1]);
  if (!wanted) return -EFAULT;
  if (a[0] == SIGKILL || a[0] == SIGSTOP) return -EINVAL;
  action = *wanted;
  return 0;
}

int64_t sys_rt_sigprocmask(Process& process, const Arguments& a) {
  if (a[3] != 8) return -EINVAL;
  if (a[2] != 0 && !process.memory->store(a[2], process.signal_mask)) return -EFAULT;
  if (a[1] == 0) return 0;
  const auto set = process.memory->load<uint64_t>(a[1]);
  if (!set) return -EFAULT;
  if (a[0] == SIG_BLOCK)
    process.signal_mask |= *set;
  else if (a[0] == SIG_UNBLOCK)
    process.signal_mask &= ~*set;
  else if (a[0] == SIG_SETMASK)
    process.signal_mask = *set;
  else
    return -EINVAL;
  return 0;
}

// Signals are not delivered; one that a process sends itself ends it unless it ignores the signal.
int64_t send_signal(Process& process, uint64_t signal) {
  if (signal > 64) return -EINVAL;
  if (signal == 0) return 0;
  const uint64_t handler = process.actions[signal][0];
  const bool ignored =
      handler == reinterpret_cast<uint64_t>(SIG_IGN) || signal == SIGCHLD || signal == SIGURG;
  if (!ignored || signal == SIGKILL) {
    process.code = 128 + static_cast<int>(signal);
    process.finish(End::Killed, "the guest sent itself signal " + std::to_string(signal) + " (" +
                                    ::strsignal(static_cast<int>(signal)) + ")");
  }
  return 0;
}

int64_t sys_kill(Process& process, const Arguments& a) {
  const auto to = static_cast<int>(a[0]);
  return to == kProcessId || to == 0 ? send_signal(process, a[1]) : -ESRCH;
}

int64_t sys_tgkill(Process& process, const Arguments& a) {
  const bool self = static_cast<int>(a[0]) == kProcessId && static_cast<int>(a[1]) == kProcessId;
  return self ? send_signal(process, a[2]) : -ESRCH;
}

int64_t sys_futex(Process& process, const Arguments& a) {
  const uint64_t operation = a[1] & FUTEX_CMD_MASK;
  if (operation == FUTEX_WAKE || operation == FUTEX_WAKE_BITSET) return 0;
  if (operation != FUTEX_WAIT && operation != FUTEX_WAIT_BITSET) return -ENOSYS;
  const auto value = process.memory->load<uint32_t>(a[0]);
  if (!value) return -EFAULT;
  if (*value != static_cast<uint32_t>(a[2])) return -EAGAIN;
  if (a[3] == 0) {
    process.finish(End::Refused, "the guest waits for a lock that no other thread can release");
    return 0;
  }
  const auto wanted = process.memory->load<timespec>(a[3]);
  if (!wanted) return -EFAULT;
  if (wanted->tv_sec < 0 || wanted->tv_nsec < 0 || wanted->tv_nsec >= kSecond) return -EINVAL;
  int64_t left = std::min<int64_t>(wanted->tv_sec, int64_t{1} << 32) * kSecond + wanted->tv_nsec;
  if (operation == FUTEX_WAIT_BITSET)  // until a time, not for a while
    left -=
        *process.clocks.read((a[1] & FUTEX_CLOCK_REALTIME) != 0 ? CLOCK_REALTIME : CLOCK_MONOTONIC);
  if (left > 0) process.sleep(std::min(left, 3600 * kSecond));
  return -ETIMEDOUT;
}

int64_t sys_uname(Process& process, const Arguments& a) {
  utsname name = {};
  std::strcpy(name.sysname, "Linux");
  std::strcpy(name.nodename, "aquifer");
  std::strcpy(name.release, "6.1.0-aquifer");
  std::strcpy(name.version, "#1");
  std::strcpy(name.machine, "x86_64");
  return process.memory->store(a[0], name) ? 0 : -EFAULT;
}

int64_t sys_sysinfo(Process& process, const Arguments& a) {
  struct sysinfo info = {};
  info.uptime = process.clocks.monotonic() / kSecond;
  info.totalram = process.memory->size();
  uint64_t taken = 0;
  for (const auto& [start, end] : process.space.taken()) taken += end - start;
  info.freeram = process.memory->size() - kUserBase - taken;
  info.procs = 1;
  info.mem_unit = 1;
  return process.memory->store(a[0], info) ? 0 : -EFAULT;
}

int64_t sys_sched_getaffinity(Process& process, const Arguments& a) {
  if (a[1] < 8) return -EINVAL;
  return process.memory->store(a[2], uint64_t{1}) ? 8 : -EFAULT;
}

int64_t store_limit(const Process& process, uint64_t resource, uint64_t to) {
  if (resource >= RLIM_NLIMITS) return -EINVAL;
  rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
  if (resource == RLIMIT_STACK)
    limit = {std::min<rlim_t>(8 << 20, process.memory->size() / 8),
             std::min<rlim_t>(8 << 20, process.memory->size() / 8)};
  if (resource == RLIMIT_NOFILE) limit = {process.files.limit(), process.files.limit()};
  if (resource == RLIMIT_NPROC) limit = {1, 1};
  if (resource == RLIMIT_CORE || resource == RLIMIT_FSIZE) limit = {0, 0};
  if (resource == RLIMIT_AS) limit = {process.memory->size(), process.memory->size()};
  return to == 0 || process.memory->store(to, limit) ? 0 : -EFAULT;
}

int64_t sys_getrlimit(Process& process, const Arguments& a) {
  return store_limit(process, a[0], a[1]);
}

int64_t sys_prlimit64(Process& process, const Arguments& a) {
  if (a[0] != 0 && a[0] != kProcessId) return -ESRCH;
  if (a[2] != 0) return -EPERM;
  return store_limit(process, a[1], a[3]);
}

int64_t sys_getrandom(Process& process, const Arguments& a) {
  const uint64_t count = std::min<uint64_t>(a[1], 1 << 20);
  uint8_t* to = process.memory->user(a[0], count);
  if (to == nullptr) return -EFAULT;
  const ssize_t got = ::getrandom(to, count, 0);
  return got < 0 ? -errno : got;
}

constexpr Call kCalls[] = {
    {SYS_exit, "exit", sys_exit},
    {SYS_exit_group, "exit_group", sys_exit},
    {SYS_getpid, "getpid", sys_process_id},
    {SYS_gettid, "gettid", sys_process_id},
    {SYS_getppid, "getppid", sys_nothing},
    {SYS_getpgrp, "getpgrp", sys_process_id},
    {SYS_getpgid, "getpgid", sys_process_id},
    {SYS_getuid, "getuid", sys_user},
    {SYS_geteuid, "geteuid", sys_user},
    {SYS_getgid, "getgid", sys_user},
    {SYS_getegid, "getegid", sys_user},
    {SYS_getgroups, "getgroups", sys_nothing},
    {SYS_set_tid_address, "set_tid_address", sys_process_id},
    {SYS_set_robust_list, "set_robust_list", sys_nothing},
    {SYS_sigaltstack, "sigaltstack", sys_nothing},
    {SYS_sched_yield, "sched_yield", sys_nothing},
    {SYS_umask, "umask", sys_nothing},
    {SYS_rseq, "rseq", sys_absent},
    {332, "statx", sys_absent},
    {SYS_membarrier, "membarrier", sys_absent},
    {SYS_prctl, "prctl", sys_nothing},
    {SYS_fork, "fork", sys_forbidden},
    {SYS_vfork, "vfork", sys_forbidden},
    {SYS_clone, "clone", sys_forbidden},
    {435, "clone3", sys_forbidden},
    {SYS_execve, "execve", sys_forbidden},
    {SYS_execveat, "execveat", sys_forbidden},
    {SYS_socket, "socket", sys_no_network},
    {SYS_socketpair, "socketpair", sys_no_network},
    {SYS_arch_prctl, "arch_prctl", sys_arch_prctl},
    {SYS_rt_sigaction, "rt_sigaction", sys_rt_sigaction},
    {SYS_rt_sigprocmask, "rt_sigprocmask", sys_rt_sigprocmask},
    {SYS_kill, "kill", sys_kill},
    {SYS_tgkill, "tgkill", sys_tgkill},
    {SYS_futex, "futex", sys_futex},
    {SYS_uname, "uname", sys_uname},
    {SYS_sysinfo, "sysinfo", sys_sysinfo},
    {SYS_sched_getaffinity, "sched_getaffinity", sys_sched_getaffinity},
    {SYS_getrlimit, "getrlimit", sys_getrlimit},
    {SYS_prlimit64, "prlimit64", sys_prlimit64},
    {SYS_getrandom, "getrandom", sys_getrandom},
};

}  // namespace

std::span<const Call> process_calls() { return kCalls; }

}  // namespace tidemill::aquifer
