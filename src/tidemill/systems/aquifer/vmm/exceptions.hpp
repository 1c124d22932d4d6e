// What a guest did wrong, in words.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>

#include "guest_memory.hpp"

namespace tidemill::aquifer {

// `stack` is where the processor has pushed the frame, `fault_address` is CR2.
std::string describe_exception(const GuestMemory& memory, unsigned vector, uint64_t stack,
                               uint64_t fault_address);

// An exit of KVM that no guest of ours should cause.
std::string describe_exit(const kvm_run& run);

}  // namespace tidemill::aquifer
