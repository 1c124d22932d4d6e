// A virtual machine that runs one Linux program in ring 3 and serves its system calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "kvm.hpp"
#include "process.hpp"
#include "run_limits.hpp"

namespace tidemill::aquifer {

struct Program {
  std::string path;
  std::vector<std::string> arguments, environment;
  std::string working_folder;
};

// Not for two threads at once, but for `interrupt`.
class Vm {
 public:
  Vm(std::shared_ptr<GuestMemory> memory, std::vector<std::string> roots, const Limits& limits);

  // Loads a program into memory that is all zero. Throws std::invalid_argument.
  void start(const Program& program);
  // Everything but memory, as bytes; only while the guest waits. Throws std::invalid_argument.
  std::string save();
  // Takes on a saved state; memory is that of the snapshot or will be when it is touched. Throws
  // std::invalid_argument when the state is damaged or does not fit this host.
  void restore(std::span<const uint8_t> state);

  // Runs until the guest waits, ends, or has used up its budget.
  End run(const Budget& budget);
  void interrupt() { kick_.send(); }
  // It ends, whatever it is doing, and no answer of it is given out; for any thread.
  void doom(const std::string& why);
  bool is_over() const;  // it will never run again

  Process& process() { return process_; }
  uint64_t exits() const { return exits_; }

 private:
  void serve_call();
  void leave_call(int64_t result);
  void handle_exit();
  void handle_port(uint16_t port);
  void handle_errno(int error, const ArmedRun& armed);
  void stop_if_over(const ArmedRun& armed);
  void end_if_doomed();
  void fresh_identity();

  std::shared_ptr<GuestMemory> memory_;
  Process process_;
  Vcpu vcpu_;
  Kick kick_;
  bool in_call_ = false;  // the guest has made a call that is not answered yet
  uint64_t exits_ = 0;
  std::atomic<bool> is_doomed_ = false;
  std::mutex doom_mutex_;
  std::string doom_;
};

}  // namespace tidemill::aquifer
