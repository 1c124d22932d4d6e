#include "crc32c.hpp"

#include <array>
#include <cstddef>
#include <cstring>

#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

namespace tidemill::memory {

namespace {

#ifdef __SSE4_2__

uint32_t update(uint32_t crc, const uint8_t* at, size_t count) {
  uint64_t wide = crc;
  for (; count >= 8; at += 8, count -= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<uint32_t>(wide);
  for (; count > 0; ++at, --count) crc = _mm_crc32_u8(crc, *at);
  return crc;
}

#else

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table = {};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}();

uint32_t update(uint32_t crc, const uint8_t* at, size_t count) {
  for (; count > 0; ++at, --count) crc = (crc >> 8) ^ kTable[(crc ^ *at) & 0xFF];
  return crc;
}

#endif

}  // namespace

uint32_t crc32c(std::span<const uint8_t> bytes, uint32_t before) {
  return ~update(~before, bytes.data(), bytes.size());
}

}  // namespace tidemill::memory
