#include "cache_lines.hpp"

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tidemill::cxl {

namespace {

enum class Instruction : uint8_t { None, Clflush, Clflushopt, Clwb };

#if defined(__x86_64__)

Instruction best() {
  static const Instruction found = [] {
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if ((b >> 24 & 1) != 0) return Instruction::Clwb;
    if ((b >> 23 & 1) != 0) return Instruction::Clflushopt;
    return Instruction::Clflush;
  }();
  return found;
}

__attribute__((target("clwb"))) void clwb(const uint8_t* at, const uint8_t* end) {
  for (; at < end; at += kLine) _mm_clwb(const_cast<uint8_t*>(at));
}

__attribute__((target("clflushopt"))) void clflushopt(const uint8_t* at, const uint8_t* end) {
  for (; at < end; at += kLine) _mm_clflushopt(const_cast<uint8_t*>(at));
}

void clflush(const uint8_t* at, const uint8_t* end) {
  for (; at < end; at += kLine) _mm_clflush(at);
}

#else

Instruction best() { return Instruction::None; }
void clwb(const uint8_t*, const uint8_t*) {}
void clflushopt(const uint8_t*, const uint8_t*) {}
void clflush(const uint8_t*, const uint8_t*) {}

#endif

const uint8_t* line_of(const uint8_t* at) { return at - reinterpret_cast<uintptr_t>(at) % kLine; }

thread_local sigjmp_buf* guarded = nullptr;
struct sigaction before = {};

void on_sigbus(int signal, siginfo_t* info, void* context) {
  if (guarded != nullptr) siglongjmp(*guarded, 1);
  if ((before.sa_flags & SA_SIGINFO) != 0) return before.sa_sigaction(signal, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
    return before.sa_handler(signal);
  ::signal(SIGBUS, SIG_DFL);  // the access is repeated and ends the process
}

}  // namespace

const char* write_back_instruction() {
  switch (best()) {
    case Instruction::Clwb:
      return "clwb";
    case Instruction::Clflushopt:
      return "clflushopt";
    case Instruction::Clflush:
      return "clflush";
    default:
      return "none";
  }
}

void write_back(const uint8_t* at, size_t count) {
  if (best() == Instruction::Clwb) return clwb(line_of(at), at + count);
  invalidate(at, count);
}

void invalidate(const uint8_t* at, size_t count) {
  const uint8_t* first = line_of(at);
  if (best() == Instruction::Clwb || best() == Instruction::Clflushopt)
    return clflushopt(first, at + count);
  clflush(first, at + count);
}

void fence() {
#if defined(__x86_64__)
  _mm_mfence();
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

void store_word(uint8_t* at, uint64_t value) { *reinterpret_cast<volatile uint64_t*>(at) = value; }

uint64_t load_word(const uint8_t* at) { return *reinterpret_cast<const volatile uint64_t*>(at); }

bool survives(void (*touch)(void*), void* argument) {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &before);
  });
  sigjmp_buf here;
  sigjmp_buf* const outer = guarded;
  if (sigsetjmp(here, 0) != 0) {
    guarded = outer;
    return false;
  }
  guarded = &here;
  touch(argument);
  guarded = outer;
  return true;
}

}  // namespace tidemill::cxl
