#include "syscalls.hpp"

#include <cerrno>
#include <vector>

namespace tidemill::aquifer {

namespace {

constexpr size_t kNumbers = 512;

const std::vector<const Call*>& table() {
  static const std::vector<const Call*> calls = [] {
    std::vector<const Call*> all(kNumbers, nullptr);
    for (const auto& topic :
         {memory_calls(), file_calls(), path_calls(), process_calls(), time_calls()})
      for (const Call& call : topic) all[static_cast<size_t>(call.number)] = &call;
    return all;
  }();
  return calls;
}

}  // namespace

int64_t make_call(Process& process, uint64_t number, const Arguments& arguments) {
  ++process.syscalls;
  const Call* call = number < kNumbers ? table()[number] : nullptr;
  if (call != nullptr) return call->handler(process, arguments);
  process.warn("system call " + std::to_string(number) + " is not offered: ENOSYS");
  return -ENOSYS;
}

}  // namespace tidemill::aquifer
