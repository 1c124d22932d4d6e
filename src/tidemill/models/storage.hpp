// Memory for packed weights: zeroed, aligned to a cache line, and in huge pages where the system
// lends them, because a decoding step walks through all of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tidemill::models {

// Small pieces share a region, which is freed with the last of them. Throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate_weights(size_t bytes);

// Bytes of a tensor as a file has them.
struct RawBytes {
  const uint8_t* data;
  size_t size;
  bool is_mapped = false;  // pages of a file, which can be given back once they are read
};

// Gives back the whole pages of bytes first .. first + count, unless they are not a file's.
void forget(const RawBytes& raw, size_t first, size_t count);

}  // namespace tidemill::models
