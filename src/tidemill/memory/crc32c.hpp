// CRC32C (Castagnoli), by the processor's instruction where this level of the build has it.
#pragma once

#include <cstdint>
#include <span>

namespace tidemill::memory {

uint32_t crc32c(std::span<const uint8_t> bytes, uint32_t before = 0);

}  // namespace tidemill::memory
