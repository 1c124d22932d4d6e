// The one Linux process that a guest is, as the monitor keeps it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "address_space.hpp"
#include "channel.hpp"
#include "clocks.hpp"
#include "fd_table.hpp"
#include "guest_memory.hpp"
#include "roots.hpp"

namespace tidemill::aquifer {

inline constexpr int kProcessId = 1;
inline constexpr size_t kMostOutput = size_t{1} << 20;  // captured of each of stdout and stderr
inline constexpr size_t kMostWarnings = 100;

struct Limits {
  uint64_t descriptors = 256;
};

// struct sigaction as the kernel knows it; stored and given back, never acted on.
using SignalAction = std::array<uint64_t, 4>;

// How a guest came to rest.
enum class End : uint8_t {
  Running,  // not at all
  Waiting,  // it reads descriptor 1000 and there is no request
  Exited,   // exit_group: `code`
  Killed,   // by a signal of its own (abort) or an exception: `message`
  Refused,  // it needs what a guest cannot have (a lock that nobody will release): `message`
  Broken,   // KVM gave up: `message`
  CpuTime,  // over a limit
  WallTime,
  Interrupted,  // by the host; it can go on
};

struct Process {
  Process(std::shared_ptr<GuestMemory> guest_memory, Roots allowed, const Limits& limits);

  std::shared_ptr<GuestMemory> memory;
  AddressSpace space;
  Roots roots;
  FdTable files;
  Channel channel;
  Clocks clocks;
  uint64_t brk_start = 0, brk_end = 0;
  uint64_t fs_base = 0, gs_base = 0;  // of the last arch_prctl; `bases_changed` until they are set
  bool bases_changed = false;
  std::string executable, working_folder = "/";
  std::array<SignalAction, 65> actions = {};
  uint64_t signal_mask = 0;
  std::array<uint8_t, 16> identity = {};  // of this virtual machine, not of the snapshot
  std::array<std::string, 3> output;      // of streams 1 and 2
  std::array<uint64_t, 3> dropped = {};   // bytes that were over kMostOutput
  std::vector<std::string> warnings;      // each once, kMostWarnings at most

  End end = End::Running;
  int code = 0;
  std::string message;
  uint64_t syscalls = 0;
  // Sleeps so many nanoseconds, or less when the run is interrupted or over a limit.
  std::function<void(int64_t)> sleep;

  void warn(const std::string& text);
  void finish(End how, std::string why) {
    end = how;
    message = std::move(why);
  }

 private:
  std::set<std::string> warned_;
};

}  // namespace tidemill::aquifer
