#include "vnni.hpp"

#include <atomic>

namespace tidemill::models {

namespace {

bool cpu_has_vnni() {
#ifdef __AVX2__
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

std::atomic<bool> is_used{cpu_has_vnni()};

}  // namespace

bool uses_vnni() { return is_used.load(std::memory_order_relaxed); }
bool set_vnni(bool wanted) { return is_used.exchange(wanted && cpu_has_vnni()); }

}  // namespace tidemill::models
