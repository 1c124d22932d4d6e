// Which processor a guest sees: the host's, less what a snapshot could not hold or a process cannot
// use. On kvm-pvm ring 3 executes CPUID itself and sees the host's own, so hiding more (AVX-512, to
// move snapshots to older hosts) would be a promise that is not kept.
#pragma once

#include <linux/kvm.h>

#include <string>
#include <vector>

namespace tidemill::aquifer {

inline constexpr uint32_t kUserStates = 0xE7;  // of XCR0: x87, SSE, AVX, AVX-512; no AMX (8 KiB)

// `supported` of this host without AMX, TSX and protection keys.
std::vector<kvm_cpuid_entry2> guest_cpuid(std::vector<kvm_cpuid_entry2> supported);

// Feature words that `wanted` has and `here` lacks, in words; empty when a snapshot can run here.
std::string missing_features(const std::vector<kvm_cpuid_entry2>& wanted,
                             const std::vector<kvm_cpuid_entry2>& here);

// What XCR0 can be: the register states that the processor has and a snapshot keeps.
uint32_t extended_states(const std::vector<kvm_cpuid_entry2>& entries);

// EDX of leaf 1: what Linux hands to programs as AT_HWCAP.
uint32_t hardware_capabilities(const std::vector<kvm_cpuid_entry2>& entries);

}  // namespace tidemill::aquifer
