// What a transfer over a link would have taken, for hardware that is not here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>

namespace tidemill::memory {

struct Link {
  int64_t latency_ns = 0;
  double bytes_per_ns = 1e9;  // GB/s
  uint32_t outstanding = 1;   // requests that may be under way at once

  int64_t transfer_ns(uint64_t bytes) const {
    return static_cast<int64_t>(static_cast<double>(bytes) / bytes_per_ns);
  }
};

// The link as all its users share it: transfers queue for its bandwidth.
class LinkClock {
 public:
  explicit LinkClock(const Link& link) : link_(link) {}
  const Link& link() const { return link_; }

  // When a transfer that is asked for now is complete: max(now, link free) + bytes/bw + latency.
  int64_t complete_at(int64_t now_ns, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    free_at_ns_ = std::max(now_ns, free_at_ns_) + link_.transfer_ns(bytes);
    return free_at_ns_ + link_.latency_ns;
  }

 private:
  const Link link_;
  std::mutex mutex_;
  int64_t free_at_ns_ = 0;
};

}  // namespace tidemill::memory
