// Which parts of a page server's memory belong to which extent.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "wire.hpp"

namespace tidemill::memory {

struct Extent {
  uint64_t offset = 0, bytes = 0;
  bool is_sealed = false;
};

// Its room comes back with the last of these. They must not outlive the `Extents`.
using HeldExtent = std::shared_ptr<Extent>;

// First fit, whole pages. An extent is found only once it is sealed.
class Extents {
 public:
  explicit Extents(uint64_t size) : size_(size), room_(size) {}

  // Null if there is no room. A key that was reserved before and never sealed loses that room.
  HeldExtent reserve(const ExtentKey& key, uint64_t bytes);
  bool seal(const ExtentKey& key);
  HeldExtent find(const ExtentKey& key) const;
  bool free(const ExtentKey& key);  // it is not found any more
  uint64_t room() const { return room_; }

 private:
  const uint64_t size_;
  uint64_t room_;
  std::map<uint64_t, uint64_t> taken_;  // offset -> bytes
  std::map<ExtentKey, HeldExtent> named_;
};

}  // namespace tidemill::memory
