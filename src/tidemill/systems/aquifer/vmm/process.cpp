#include "process.hpp"

#include <algorithm>

namespace tidemill::aquifer {

Process::Process(std::shared_ptr<GuestMemory> guest_memory, Roots allowed, const Limits& limits)
    : memory(std::move(guest_memory)),
      space(kUserBase, memory->size()),
      roots(std::move(allowed)),
      files(limits.descriptors) {}

void Process::warn(const std::string& text) {
  if (warnings.size() >= kMostWarnings || !warned_.insert(text).second) return;
  std::string clean = text.substr(0, 300);
  std::replace_if(
      clean.begin(), clean.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
  warnings.push_back(std::move(clean));
}

}  // namespace tidemill::aquifer
