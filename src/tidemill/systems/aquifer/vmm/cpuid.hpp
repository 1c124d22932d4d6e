// Which processor a guest sees: at most x86-64-v3, so that a snapshot moves between hosts.
#pragma once

#include <linux/kvm.h>

#include <string>
#include <vector>

namespace tidemill::aquifer {

// `supported` of this host without what a guest must not use (AVX-512, AMX, TSX, protection keys).
std::vector<kvm_cpuid_entry2> portable_cpuid(std::vector<kvm_cpuid_entry2> supported);

// Feature words that `wanted` has and `here` lacks, in words; empty when a snapshot can run here.
std::string missing_features(const std::vector<kvm_cpuid_entry2>& wanted,
                             const std::vector<kvm_cpuid_entry2>& here);

// EDX of leaf 1: what Linux hands to programs as AT_HWCAP.
uint32_t hardware_capabilities(const std::vector<kvm_cpuid_entry2>& entries);

}  // namespace tidemill::aquifer
