#include "exceptions.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tidemill::aquifer {

namespace {

constexpr const char* kNames[] = {"division by zero",
                                  "debug trap",
                                  "non-maskable interrupt",
                                  "breakpoint",
                                  "overflow",
                                  "bound range exceeded",
                                  "invalid instruction",
                                  "device not available",
                                  "double fault",
                                  "coprocessor overrun",
                                  "invalid task state",
                                  "segment not present",
                                  "stack fault",
                                  "general protection",
                                  "page fault",
                                  "reserved",
                                  "x87 exception",
                                  "alignment check",
                                  "machine check",
                                  "SIMD exception"};

bool has_error_code(unsigned vector) {
  return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

std::string page_fault(uint64_t error, uint64_t address, uint64_t rip, uint64_t size) {
  const char* how = (error & 16) != 0 ? "executing" : (error & 2) != 0 ? "writing" : "reading";
  const char* where = address < kUserBase ? "the first 2 MiB are not the program's"
                      : address >= size   ? "behind the end of its memory"
                                          : "protected";
  char text[200];
  std::snprintf(text, sizeof text, "page fault %s address 0x%llx (%s) by the code at 0x%llx", how,
                static_cast<unsigned long long>(address), where,
                static_cast<unsigned long long>(rip));
  return text;
}

}  // namespace

std::string describe_exception(const GuestMemory& memory, unsigned vector, uint64_t stack,
                               uint64_t fault_address) {
  uint64_t frame[6] = {};  // error code, RIP, CS, RFLAGS, RSP, SS
  const uint64_t skipped = has_error_code(vector) ? 0 : 1;
  if (stack <= kUserBase - sizeof frame)
    std::memcpy(frame + skipped, memory.data() + stack, sizeof frame - skipped * 8);
  if (vector == 14) return page_fault(frame[0], fault_address, frame[1], memory.size());
  const char* name = vector < std::size(kNames) ? kNames[vector] : "unknown exception";
  char text[200];
  std::snprintf(text, sizeof text, "%s (exception %u, error code 0x%llx) in the code at 0x%llx",
                name, vector, static_cast<unsigned long long>(frame[0]),
                static_cast<unsigned long long>(frame[1]));
  return text;
}

std::string describe_exit(const kvm_run& run) {
  char text[200];
  const auto rip = static_cast<unsigned long long>(run.s.regs.regs.rip);
  switch (run.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
      std::snprintf(text, sizeof text, "the virtual processor shut down (triple fault) at 0x%llx",
                    rip);
      break;
    case KVM_EXIT_FAIL_ENTRY:
      std::snprintf(text, sizeof text, "KVM could not enter the guest (hardware reason 0x%llx)",
                    static_cast<unsigned long long>(run.fail_entry.hardware_entry_failure_reason));
      break;
    case KVM_EXIT_INTERNAL_ERROR:
      std::snprintf(text, sizeof text,
                    "KVM could not emulate the guest's instruction (suberror %u) at 0x%llx",
                    run.internal.suberror, rip);
      break;
    case KVM_EXIT_MMIO:
      std::snprintf(text, sizeof text, "access to physical address 0x%llx, where nothing is",
                    static_cast<unsigned long long>(run.mmio.phys_addr));
      break;
    default:
      std::snprintf(text, sizeof text, "unexpected exit %u of KVM at 0x%llx", run.exit_reason, rip);
  }
  return text;
}

}  // namespace tidemill::aquifer
