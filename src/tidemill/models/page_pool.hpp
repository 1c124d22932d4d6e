// Pages of one size that sequences take and give back. Law: a page has one owner, or is free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace tidemill::models {

enum class Reused { kAsLeft, kZeroed };  // what a page holds that had an owner before

// Memory is reserved at once and taken from the system when a page is first used; until then a page
// holds zeros. Threads may take and give back at the same time.
class PagePool {
 public:
  // Throws std::invalid_argument for sizes that cannot be, std::bad_alloc.
  PagePool(size_t pages, size_t page_bytes, Reused reused);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  size_t pages() const { return pages_; }
  size_t page_bytes() const { return page_bytes_; }
  size_t free_pages() const;
  uint8_t* at(uint32_t page) const { return memory_ + page * page_bytes_; }

  // Appends `count` pages to `taken`. All or none: throws OutOfPool.
  void take(size_t count, std::vector<uint32_t>& taken);
  // Pages from `kept` on go back, and out of `taken`.
  void give_back(std::vector<uint32_t>& taken, size_t kept = 0);

 private:
  size_t pages_, page_bytes_;
  Reused reused_;
  uint8_t* memory_ = nullptr;
  size_t fresh_ = 0;  // pages from here on were never used
  mutable std::mutex guard_;
  std::vector<uint32_t> free_;
};

}  // namespace tidemill::models
