#include "cpuid.hpp"

#include <array>
#include <cstdint>
#include <cstdio>

namespace tidemill::aquifer {

namespace {

constexpr uint32_t bits(std::initializer_list<int> positions) {
  uint32_t word = 0;
  for (const int position : positions) word |= uint32_t{1} << position;
  return word;
}

constexpr uint32_t kLeaf1HiddenC = bits({3, 21, 24, 31});  // MONITOR, x2APIC, TSC deadline, KVM
constexpr uint32_t kLeaf7HiddenB = bits({4, 11});          // HLE, RTM
constexpr uint32_t kLeaf7HiddenC = bits({3, 4, 16});       // protection keys, LA57
constexpr uint32_t kLeaf7HiddenD = bits({22, 24, 25});     // AMX

void hide(kvm_cpuid_entry2& entry) {
  switch (entry.function) {
    case 0x1:
      entry.ecx &= ~kLeaf1HiddenC;
      break;
    case 0x7:
      if (entry.index == 0) {
        entry.ebx &= ~kLeaf7HiddenB;
        entry.ecx &= ~kLeaf7HiddenC;
        entry.edx &= ~kLeaf7HiddenD;
      }
      break;
    case 0xD:
      if (entry.index == 0) {
        entry.eax &= kUserStates;
        entry.edx = 0;
      } else if (entry.index == 1) {
        entry.ecx = entry.edx = 0;  // no supervisor state
      } else if (entry.index > 7) {
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
      }
      break;
    case 0x14:
    case 0x1D:
    case 0x1E:
      entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
      break;
    default:
      break;
  }
}

const kvm_cpuid_entry2* find(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function) {
  for (const kvm_cpuid_entry2& entry : entries)
    if (entry.function == function && entry.index == 0) return &entry;
  return nullptr;
}

}  // namespace

std::vector<kvm_cpuid_entry2> guest_cpuid(std::vector<kvm_cpuid_entry2> supported) {
  for (kvm_cpuid_entry2& entry : supported) hide(entry);
  return supported;
}

std::string missing_features(const std::vector<kvm_cpuid_entry2>& wanted,
                             const std::vector<kvm_cpuid_entry2>& here) {
  // OSXSAVE (leaf 1, ecx 27) follows CR4 and is no feature.
  constexpr uint32_t kOsxsave = uint32_t{1} << 27;
  std::string missing;
  for (const uint32_t function : {0x1u, 0x7u, 0x80000001u}) {
    const kvm_cpuid_entry2* want = find(wanted, function);
    const kvm_cpuid_entry2* have = find(here, function);
    if (want == nullptr) continue;
    const kvm_cpuid_entry2 none = {};
    if (have == nullptr) have = &none;
    const std::array<uint32_t, 3> lack = {function == 7 ? want->ebx & ~have->ebx : 0u,
                                          want->ecx & ~have->ecx & ~(function == 1 ? kOsxsave : 0u),
                                          want->edx & ~have->edx};
    const std::array<const char*, 3> names = {"ebx", "ecx", "edx"};
    for (size_t i = 0; i < lack.size(); ++i) {
      if (lack[i] == 0) continue;
      char text[64];
      std::snprintf(text, sizeof text, "%sleaf 0x%x %s 0x%x", missing.empty() ? "" : ", ", function,
                    names[i], lack[i]);
      missing += text;
    }
  }
  return missing;
}

uint32_t extended_states(const std::vector<kvm_cpuid_entry2>& entries) {
  const kvm_cpuid_entry2* entry = find(entries, 0xD);
  return entry == nullptr ? 3 : entry->eax & kUserStates;
}

uint32_t hardware_capabilities(const std::vector<kvm_cpuid_entry2>& entries) {
  const kvm_cpuid_entry2* entry = find(entries, 1);
  return entry == nullptr ? 0 : entry->edx;
}

}  // namespace tidemill::aquifer
