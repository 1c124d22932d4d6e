#include "storage.hpp"

#include <algorithm>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace tidemill::models {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{64} << 20;  // what is not used of it is never touched
constexpr size_t kLine = 64;
constexpr size_t kSlack = 4096;  // kernels prefetch past the end; no harm, but the page exists

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

#ifdef __linux__
std::shared_ptr<uint8_t> map_region(size_t bytes) {
  const size_t mapped = bytes + kHugePage;
  void* const base =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  const size_t address = reinterpret_cast<size_t>(base);
  auto* const start = static_cast<uint8_t*>(base) + (round_up(address, kHugePage) - address);
  madvise(start, bytes, MADV_HUGEPAGE);  // advice: without it the kernels are a little slower
  return {start, [base, mapped](uint8_t*) { munmap(base, mapped); }};
}

void forget_pages(const uint8_t* data, size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = round_up(reinterpret_cast<size_t>(data), page);
  const size_t end = (reinterpret_cast<size_t>(data) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}
#else
void forget_pages(const uint8_t*, size_t) {}

std::shared_ptr<uint8_t> map_region(size_t bytes) {
  constexpr std::align_val_t align{kLine};
  auto* const start = static_cast<uint8_t*>(::operator new(bytes, align));
  std::fill_n(start, bytes, uint8_t{0});
  return {start, [align](uint8_t* at) { ::operator delete(at, align); }};
}
#endif

}  // namespace

std::shared_ptr<uint8_t> allocate_weights(size_t bytes) {
  static std::mutex guard;
  static std::weak_ptr<uint8_t> current;
  static size_t used = 0;
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const size_t wanted = round_up(bytes, kLine);
  if (wanted > kRegion / 4) return map_region(round_up(wanted + kSlack, kHugePage));
  const std::lock_guard lock(guard);
  std::shared_ptr<uint8_t> region = current.lock();
  if (!region || used + wanted + kSlack > kRegion) {
    region = map_region(kRegion);
    current = region;
    used = 0;
  }
  std::shared_ptr<uint8_t> piece(region, region.get() + used);
  used += wanted;
  return piece;
}

void forget(const RawBytes& raw, size_t first, size_t count) {
  if (raw.is_mapped) forget_pages(raw.data + first, count);
}

}  // namespace tidemill::models
