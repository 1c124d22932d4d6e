#include "address_space.hpp"

#include <iterator>

namespace tidemill::aquifer {

bool AddressSpace::inside(uint64_t start, uint64_t length) const {
  return start >= low_ && start <= high_ && length <= high_ - start;
}

bool AddressSpace::is_free(uint64_t start, uint64_t length) const {
  if (!inside(start, length)) return false;
  auto next = taken_.lower_bound(start);
  if (next != taken_.end() && next->first < start + length) return false;
  return next == taken_.begin() || std::prev(next)->second <= start;
}

std::optional<uint64_t> AddressSpace::take(uint64_t length) {
  if (length == 0 || length > high_ - low_ || taken_.size() >= kMostRanges) return std::nullopt;
  uint64_t top = high_;
  for (auto range = taken_.rbegin(); range != taken_.rend(); ++range) {
    if (top - range->second >= length) break;
    top = range->first;
  }
  if (top - low_ < length || !is_free(top - length, length)) return std::nullopt;
  insert(top - length, top);
  return top - length;
}

bool AddressSpace::take_at(uint64_t start, uint64_t length) {
  if (length == 0 || taken_.size() >= kMostRanges || !is_free(start, length)) return false;
  insert(start, start + length);
  return true;
}

bool AddressSpace::release(uint64_t start, uint64_t length) {
  if (!inside(start, length) || taken_.size() >= kMostRanges) return false;
  const uint64_t end = start + length;
  auto range = taken_.lower_bound(start);
  if (range != taken_.begin() && std::prev(range)->second > start) --range;
  while (range != taken_.end() && range->first < end) {
    const auto [from, to] = *range;
    range = taken_.erase(range);
    if (from < start) taken_.emplace(from, start);
    if (to > end) taken_.emplace(end, to);
  }
  return true;
}

void AddressSpace::insert(uint64_t start, uint64_t end) {
  auto next = taken_.lower_bound(start);
  if (next != taken_.end() && next->first == end) {
    end = next->second;
    next = taken_.erase(next);
  }
  if (next != taken_.begin() && std::prev(next)->second == start) {
    std::prev(next)->second = end;
    return;
  }
  taken_.emplace(start, end);
}

}  // namespace tidemill::aquifer
