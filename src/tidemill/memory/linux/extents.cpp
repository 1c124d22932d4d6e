#include "extents.hpp"

namespace tidemill::memory {

namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

std::optional<Extent> Extents::reserve(const ExtentKey& key, uint64_t bytes) {
  if (const auto at = named_.find(key); at != named_.end()) {
    if (at->second.is_sealed) return at->second;
    free(key);
  }
  if (bytes > size_) return std::nullopt;
  const uint64_t whole = (bytes + kPage - 1) / kPage * kPage;
  uint64_t start = 0;
  for (const auto& [offset, length] : taken_) {
    if (offset - start >= whole) break;
    start = offset + length;
  }
  if (whole > size_ - start) return std::nullopt;
  if (whole > 0) taken_[start] = whole;
  room_ -= whole;
  return named_[key] = {start, whole, false};
}

bool Extents::seal(const ExtentKey& key) {
  const auto at = named_.find(key);
  if (at == named_.end()) return false;
  at->second.is_sealed = true;
  return true;
}

std::optional<Extent> Extents::find(const ExtentKey& key) const {
  const auto at = named_.find(key);
  if (at == named_.end() || !at->second.is_sealed) return std::nullopt;
  return at->second;
}

bool Extents::free(const ExtentKey& key) {
  const auto at = named_.find(key);
  if (at == named_.end()) return false;
  if (at->second.bytes > 0) taken_.erase(at->second.offset);
  room_ += at->second.bytes;
  named_.erase(at);
  return true;
}

}  // namespace tidemill::memory
