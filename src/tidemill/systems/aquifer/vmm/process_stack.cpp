// The stack of a new process: strings on top, then the auxiliary vector, pointers and the count.
#include <elf.h>
#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "elf_loader.hpp"

namespace tidemill::aquifer {

namespace {

constexpr uint64_t kStackSize = uint64_t{8} << 20;
constexpr uint64_t kMostStrings = uint64_t{256} << 10;

class Stack {
 public:
  Stack(const GuestMemory& memory, uint64_t top) : memory_(memory), at_(top) {}

  uint64_t push(const void* bytes, uint64_t count) {
    at_ -= count;
    std::memcpy(memory_.user(at_, count), bytes, count);
    return at_;
  }
  uint64_t push(const std::string& text) { return push(text.c_str(), text.size() + 1); }
  void align() { at_ &= ~uint64_t{15}; }
  std::vector<uint64_t> push_all(const std::vector<std::string>& texts) {
    std::vector<uint64_t> addresses;
    for (const std::string& text : texts) addresses.push_back(push(text));
    return addresses;
  }

 private:
  const GuestMemory& memory_;
  uint64_t at_;
};

std::vector<uint64_t> auxiliary(const Loaded& loaded, uint32_t capabilities, uint64_t random,
                                uint64_t platform, uint64_t name) {
  return {AT_PHDR,     loaded.headers,
          AT_PHENT,    sizeof(Elf64_Phdr),
          AT_PHNUM,    loaded.header_count,
          AT_PAGESZ,   kPage,
          AT_BASE,     loaded.interpreter_base,
          AT_FLAGS,    0,
          AT_ENTRY,    loaded.program_entry,
          AT_UID,      1000,
          AT_EUID,     1000,
          AT_GID,      1000,
          AT_EGID,     1000,
          AT_SECURE,   0,
          AT_HWCAP,    capabilities,
          AT_CLKTCK,   100,
          AT_RANDOM,   random,
          AT_EXECFN,   name,
          AT_PLATFORM, platform,
          AT_NULL,     0};
}

}  // namespace

void reserve_stack(Process& process) {
  const uint64_t top = process.memory->size();
  const uint64_t size = std::max(2 * kMostStrings, std::min(kStackSize, top / 8));
  process.space.take_at(top - size, size);  // nothing else is there yet
}

uint64_t build_stack(Process& process, const Loaded& loaded,
                     const std::vector<std::string>& arguments,
                     const std::vector<std::string>& environment, uint32_t capabilities) {
  uint64_t strings = 0;
  for (const auto* texts : {&arguments, &environment})
    for (const std::string& text : *texts) strings += text.size() + 1 + 8;
  if (strings > kMostStrings)
    throw std::invalid_argument("arguments and environment take more than 256 KiB");
  Stack stack(*process.memory, process.memory->size());
  uint8_t random[16];
  if (::getrandom(random, sizeof random, 0) != sizeof random)
    throw std::runtime_error("getrandom failed");
  const uint64_t random_at = stack.push(random, sizeof random);
  const uint64_t platform = stack.push("x86_64");
  const uint64_t name = stack.push(process.executable);
  const std::vector<uint64_t> argv = stack.push_all(arguments);
  const std::vector<uint64_t> envp = stack.push_all(environment);

  std::vector<uint64_t> words = {argv.size()};
  words.insert(words.end(), argv.begin(), argv.end());
  words.push_back(0);
  words.insert(words.end(), envp.begin(), envp.end());
  words.push_back(0);
  const auto vector = auxiliary(loaded, capabilities, random_at, platform, name);
  words.insert(words.end(), vector.begin(), vector.end());
  if (words.size() % 2 != 0) words.push_back(0);  // behind AT_NULL; keeps RSP at 16 bytes
  stack.align();
  return stack.push(words.data(), words.size() * sizeof(uint64_t));
}

}  // namespace tidemill::aquifer
