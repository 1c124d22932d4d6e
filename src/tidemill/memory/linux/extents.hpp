// Which parts of a page server's memory belong to which extent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "wire.hpp"

namespace tidemill::memory {

struct Extent {
  uint64_t offset = 0, bytes = 0;
  bool is_sealed = false;
};

// First fit, whole pages. An extent is found only once it is sealed.
class Extents {
 public:
  explicit Extents(uint64_t size) : size_(size), room_(size) {}

  // Nothing if there is no room. A key that was reserved before and never sealed loses that room.
  std::optional<Extent> reserve(const ExtentKey& key, uint64_t bytes);
  bool seal(const ExtentKey& key);
  std::optional<Extent> find(const ExtentKey& key) const;
  bool free(const ExtentKey& key);
  uint64_t room() const { return room_; }

 private:
  const uint64_t size_;
  uint64_t room_;
  std::map<uint64_t, uint64_t> taken_;  // offset -> bytes
  std::map<ExtentKey, Extent> named_;
};

}  // namespace tidemill::memory
