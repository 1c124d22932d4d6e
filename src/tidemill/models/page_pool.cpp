#include "page_pool.hpp"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "kv.hpp"

namespace tidemill::models {

PagePool::PagePool(size_t pages, size_t page_bytes, Reused reused)
    : pages_(pages), page_bytes_(page_bytes), reused_(reused) {
  constexpr size_t kLargest = size_t{1} << 47;
  if (page_bytes == 0 || pages == 0 || pages > UINT32_MAX || pages > kLargest / page_bytes)
    throw std::invalid_argument("a pool of " + std::to_string(pages) + " pages of " +
                                std::to_string(page_bytes) + " bytes cannot be");
  void* const memory = mmap(nullptr, pages * page_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<uint8_t*>(memory);
}

PagePool::~PagePool() { munmap(memory_, pages_ * page_bytes_); }

size_t PagePool::free_pages() const {
  const std::lock_guard lock(guard_);
  return free_.size() + pages_ - fresh_;
}

void PagePool::take(size_t count, std::vector<uint32_t>& taken) {
  const std::lock_guard lock(guard_);
  const size_t there = free_.size() + pages_ - fresh_;
  if (count > there)
    throw OutOfPool("kv cache — " + std::to_string(count) + " more pages of 32 tokens asked, " +
                    std::to_string(there) + " of " + std::to_string(pages_) +
                    " are free; end a sequence, or open the model with a larger context.");
  taken.reserve(taken.size() + count);
  for (; count > 0; --count) {
    if (free_.empty()) {
      taken.push_back(static_cast<uint32_t>(fresh_++));
      continue;
    }
    if (reused_ == Reused::kZeroed) std::memset(at(free_.back()), 0, page_bytes_);
    taken.push_back(free_.back());
    free_.pop_back();
  }
}

void PagePool::give_back(std::vector<uint32_t>& taken, size_t kept) {
  if (taken.size() <= kept) return;
  const std::lock_guard lock(guard_);
  for (; taken.size() > kept; taken.pop_back()) free_.push_back(taken.back());
}

}  // namespace tidemill::models
