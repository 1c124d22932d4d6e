// A shard's 256 bits as one value: a register with AVX2, four words without.
#pragma once

#include <cstdint>
#include <cstring>

#include "hash.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tidemill::cusbf {

#ifdef __AVX2__

using Bits = __m256i;

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline void store(void* at, __m256i value) {
  _mm256_storeu_si256(static_cast<__m256i*>(at), value);
}

// The bits of four places, one per sector; a place of 64 or more sets none.
inline Bits bits_of(const uint32_t* places) {
  int four;
  std::memcpy(&four, places, 4);
  return _mm256_sllv_epi64(_mm256_set1_epi64x(1), _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four)));
}
inline bool covers(const uint64_t* shard, Bits bits) {
  return _mm256_testc_si256(load(shard), bits) != 0;
}

#else

struct Bits {
  uint64_t word[kWords];
};

inline Bits load(const void* at) {
  Bits bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}
inline void store(void* at, Bits bits) { std::memcpy(at, &bits, sizeof bits); }
inline Bits operator|(Bits a, const Bits& b) {
  for (int j = 0; j < kWords; ++j) a.word[j] |= b.word[j];
  return a;
}
inline Bits bits_of(const uint32_t* places) {
  Bits bits;
  for (int j = 0; j < kWords; ++j) {
    const uint32_t place = *places >> (8 * j) & 255;
    bits.word[j] = place < 64 ? uint64_t{1} << place : 0;
  }
  return bits;
}
inline bool covers(const uint64_t* shard, const Bits& bits) {
  uint64_t missing = 0;
  for (int j = 0; j < kWords; ++j) missing |= bits.word[j] & ~shard[j];
  return missing == 0;
}

#endif

inline const uint64_t* shard_at(const uint64_t* words, uint32_t shard) {
  return words + size_t{shard} * kWords;
}
inline uint64_t* shard_at(uint64_t* words, uint32_t shard) {
  return words + size_t{shard} * kWords;
}
inline void prefetch(const uint64_t* words, uint32_t shard) {
  __builtin_prefetch(shard_at(words, shard), 0, 3);
}

// `shared`: others may insert into the same words now, so a bit is set by atomic OR, if it is
// missing.
inline void add_bits(uint64_t* shard, Bits bits, bool shared) {
  if (!shared) {
    store(shard, load(shard) | bits);
    return;
  }
  uint64_t word[kWords];
  store(word, bits);
  for (int j = 0; j < kWords; ++j)
    if ((__atomic_load_n(shard + j, __ATOMIC_RELAXED) & word[j]) != word[j])
      __atomic_fetch_or(shard + j, word[j], __ATOMIC_RELAXED);
}

}  // namespace tidemill::cusbf
