// Which pages of an image hold anything at all.
#pragma once

#include <cstdint>

#include "guest_memory.hpp"

namespace tidemill::aquifer {

// True if all 4096 bytes are zero.
bool is_zero_page(const uint8_t* page);

// found[i] = 1 if page i is not all zero; `pages` bytes are written. Returns how many there are.
uint64_t find_nonzero(const uint8_t* image, uint64_t pages, uint8_t* found);
// The same for a guest's memory; anonymous pages that were never touched are not read.
uint64_t find_nonzero(const GuestMemory& memory, uint8_t* found);

}  // namespace tidemill::aquifer
