// KVM by its documented ioctls: one virtual machine with one virtual processor.
#pragma once

#include <linux/kvm.h>
#include <signal.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "../../../memory/linux/host_fd.hpp"
#include "guest_memory.hpp"

namespace tidemill::aquifer {

using memory::HostFd;

// What of a processor goes into a snapshot: what a program in ring 3 can see. Everything else is
// set up anew, so that no state, whoever wrote it, puts a guest into ring 0.
struct ProcessorState {
  kvm_regs regs = {};
  uint64_t fs_base = 0, gs_base = 0;
  std::array<uint8_t, 4096> xsave = {};  // struct kvm_xsave
  std::vector<kvm_cpuid_entry2> cpuid;   // to tell whether another host has the same features
};

class Vcpu {
 public:
  // A new machine on `memory`; throws std::system_error naming the ioctl that failed.
  explicit Vcpu(std::shared_ptr<GuestMemory> memory);
  Vcpu(const Vcpu&) = delete;
  ~Vcpu();

  // As after a program's start: long mode, ring 3 at `entry` with `stack`.
  void start(uint64_t entry, uint64_t stack);
  ProcessorState state();
  // Throws std::invalid_argument naming what this processor lacks.
  void restore(const ProcessorState& state);

  // 0, or the errno of KVM_RUN: EINTR when a signal that the run's mask lets through is pending.
  int run();
  void set_run_mask(const sigset_t& blocked);

  uint32_t hardware_capabilities() const;  // what Linux hands to programs as AT_HWCAP

  const kvm_run& exit() const { return *run_; }
  // As of the last exit; a changed value counts from the next run if it is marked.
  kvm_regs& regs() { return run_->s.regs.regs; }
  kvm_sregs& sregs() { return run_->s.regs.sregs; }
  void mark_changed() { run_->kvm_dirty_regs |= KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS; }
  void to_user_mode();  // CS and SS of ring 3

 private:
  void set_cpuid(std::vector<kvm_cpuid_entry2> entries);
  void enter_long_mode(uint64_t fs_base, uint64_t gs_base);
  void set_registers(const kvm_regs& regs);
  void set_msrs(std::span<const kvm_msr_entry> entries);

  std::shared_ptr<GuestMemory> memory_;
  HostFd system_, machine_, processor_;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
  std::vector<kvm_cpuid_entry2> cpuid_;
};

}  // namespace tidemill::aquifer
