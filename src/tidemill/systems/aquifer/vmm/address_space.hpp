// Which user addresses are taken. Protection is not kept: the guest's pages are all of one kind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

namespace tidemill::aquifer {

// Law: taken ranges are disjoint, page-aligned, within [low, high), and free memory reads as zero
// (whoever releases a range discards it).
class AddressSpace {
 public:
  static constexpr size_t kMostRanges = 16384;

  AddressSpace(uint64_t low, uint64_t high) : low_(low), high_(high) {}

  uint64_t low() const { return low_; }
  uint64_t high() const { return high_; }
  const std::map<uint64_t, uint64_t>& taken() const { return taken_; }  // start -> end

  bool is_free(uint64_t start, uint64_t length) const;
  bool inside(uint64_t start, uint64_t length) const;
  // The highest free range of that length, taken; nothing if there is none.
  std::optional<uint64_t> take(uint64_t length);
  bool take_at(uint64_t start, uint64_t length);  // false: not free, outside, or too many ranges
  bool release(uint64_t start, uint64_t length);  // false: outside, or too many ranges

 private:
  void insert(uint64_t start, uint64_t end);

  uint64_t low_, high_;
  std::map<uint64_t, uint64_t> taken_;
};

}  // namespace tidemill::aquifer
