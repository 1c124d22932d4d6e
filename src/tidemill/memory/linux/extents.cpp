#include "extents.hpp"

namespace tidemill::memory {

namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

HeldExtent Extents::reserve(const ExtentKey& key, uint64_t bytes) {
  if (const auto at = named_.find(key); at != named_.end()) {
    if (at->second->is_sealed) return at->second;
    free(key);
  }
  if (bytes > size_) return nullptr;
  const uint64_t whole = (bytes + kPage - 1) / kPage * kPage;
  uint64_t start = 0;
  for (const auto& [offset, length] : taken_) {
    if (offset - start >= whole) break;
    start = offset + length;
  }
  if (whole > size_ - start) return nullptr;
  if (whole > 0) taken_[start] = whole;
  room_ -= whole;
  const auto give_back = [this](Extent* extent) {
    if (extent->bytes > 0) taken_.erase(extent->offset);
    room_ += extent->bytes;
    delete extent;
  };
  return named_[key] = HeldExtent(new Extent{start, whole, false}, give_back);
}

bool Extents::seal(const ExtentKey& key) {
  const auto at = named_.find(key);
  if (at == named_.end()) return false;
  at->second->is_sealed = true;
  return true;
}

HeldExtent Extents::find(const ExtentKey& key) const {
  const auto at = named_.find(key);
  if (at == named_.end() || !at->second->is_sealed) return nullptr;
  return at->second;
}

bool Extents::free(const ExtentKey& key) { return named_.erase(key) > 0; }

}  // namespace tidemill::memory
