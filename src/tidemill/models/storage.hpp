// Memory for packed weights: zeroed, aligned to a cache line, and in huge pages where the system
// lends them, because a decoding step walks through all of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tidemill::models {

// Small pieces share a region, which is freed with the last of them. Throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate_weights(size_t bytes);

}  // namespace tidemill::models
