// Where each page of a guest comes from. Immutable, shared by all clones of one snapshot.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "remote_pool.hpp"

namespace tidemill::memory {

inline constexpr uint64_t kPageBytes = 4096;

struct PageSource {
  static constexpr uint32_t kZero = 0xFFFFFFFF, kLocal = 0x80000000;

  std::vector<uint32_t> place;     // of each page: kZero, kLocal | slot, or a remote slot
  const uint8_t* local = nullptr;  // pages in the order of their local slots; null: not here
  std::vector<uint32_t> page_at;   // guest page of each remote slot, ascending
  std::vector<uint32_t> crc;       // of each chunk of remote slots; may be empty
  uint32_t chunk_pages = 16;
  std::shared_ptr<RemotePool> remote;
  std::vector<uint64_t> bases;  // where the remote slots begin on each server

  uint64_t chunks() const { return (page_at.size() + chunk_pages - 1) / chunk_pages; }
  uint64_t chunk_bytes(uint64_t chunk) const {
    const uint64_t first = chunk * chunk_pages;
    const uint64_t last = std::min<uint64_t>(first + chunk_pages, page_at.size());
    return (last - first) * kPageBytes;
  }
};

}  // namespace tidemill::memory
