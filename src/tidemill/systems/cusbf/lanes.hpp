// Eight positions of a sequence at a time with AVX2: 2-bit packing, the other strand, mixed L-mers.
#pragma once
#ifdef __AVX2__
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "bits.hpp"
#include "scan.hpp"

namespace tidemill::cusbf {

inline __m256i broadcast_8_bytes(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, 8);
  return _mm256_set1_epi64x(static_cast<long long>(word));
}

// 32 letters to 64 bits; the mask tells which of them are bases.
inline uint64_t pack_32(const uint8_t* letters, uint32_t& valid) {
  const __m256i text = load(letters);
  const __m256i upper = _mm256_and_si256(text, _mm256_set1_epi8('A' ^ 'a' ^ -1));
  const __m256i expected =
      _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_setr_epi8(
                              -1, 'A', -1, 'C', 'T', 'U', -1, 'G', -1, -1, -1, -1, -1, -1, -1, -1)),
                          text);
  valid = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(upper, expected)));
  const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(text, 1), _mm256_set1_epi8(3));
  const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0401));
  const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00100001));
  const __m256i bytes = _mm256_shuffle_epi8(
      fours, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                              -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m128i both =
      _mm_or_si128(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(both));
}

// Returns whether all letters are bases.
inline bool pack(const uint8_t* letters, int count, Packed& packed) {
  uint32_t all = ~0u, valid;
  int at = 0;
  for (; at + 32 <= count; at += 32) {
    __builtin_prefetch(letters + at +
                       2 * kChunk);  // the pauses between chunks mislead the hardware's
    const uint64_t word = pack_32(letters + at, valid);
    std::memcpy(packed.forward() + at / 4, &word, 8);
    std::memcpy(reinterpret_cast<uint8_t*>(packed.letters_valid) + at / 8, &valid, 4);
    all &= valid;
  }
  packed.bytes = (count + 127) / 128 * 32;
  for (; at < packed.bytes * 4; at += 32) {
    uint8_t rest[32];
    std::memset(rest, 'A', sizeof rest);
    if (at < count) std::memcpy(rest, letters + at, static_cast<size_t>(count - at));
    const uint64_t word = pack_32(rest, valid);
    std::memcpy(packed.forward() + at / 4, &word, 8);
    std::memcpy(reinterpret_cast<uint8_t*>(packed.letters_valid) + at / 8, &valid, 4);
    all &= valid;
  }
  return all == ~0u;
}

// Sets bit i of `valid` where letters i … i+k-1 are bases, by doubling; returns how many.
inline int valid_windows(const Layout& layout, int kmers, Packed& packed, uint64_t* valid) {
  const int words = (packed.bytes + 15) / 16;
  uint64_t* bits = packed.letters_valid;
  bits[words] = 0;
  const auto narrow = [&](int by) {
    for (int i = 0; i < words; ++i)
      bits[i] &= by == 0 ? bits[i] : bits[i] >> by | bits[i + 1] << (64 - by);
  };
  int width = 1;
  const int k = static_cast<int>(layout.k);
  for (; width * 2 <= k; width *= 2) narrow(width);
  narrow(k - width);
  int count = 0;
  for (int i = 0; i * 64 < kmers; ++i) {
    const int here = std::min(64, kmers - i * 64);
    valid[i] = here == 64 ? bits[i] : bits[i] & ((uint64_t{1} << here) - 1);
    count += std::popcount(valid[i]);
  }
  return count;
}

// Packs the letters of `kmers` windows; `valid` is written only if some are not. Returns the valid.
inline int pack_chunk(const Layout& layout, const uint8_t* bases, int kmers, Packed& packed,
                      uint64_t* valid) {
  if (pack(bases, kmers + static_cast<int>(layout.k) - 1, packed)) return kmers;
  return valid_windows(layout, kmers, packed, valid);
}

// The other strand: bytes in reverse, the four bases of each in reverse, each complemented.
inline void reverse_complement(Packed& packed) {
  const auto table = [](int shift) {
    alignas(16) uint8_t entry[16];
    for (int i = 0; i < 16; ++i)
      entry[i] = static_cast<uint8_t>((((i & 3) << 2 | i >> 2) ^ 10) << shift);
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(entry)));
  };
  const __m256i low = table(4), high = table(0), nibble = _mm256_set1_epi8(15);
  const __m256i backward = _mm256_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
                                            15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int at = 0; at < packed.bytes; at += 32) {
    const __m256i bytes = load(packed.forward() + at);
    const __m256i turned = _mm256_or_si256(
        _mm256_shuffle_epi8(low, _mm256_and_si256(bytes, nibble)),
        _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble)));
    store(packed.reverse() + packed.bytes - 32 - at,
          _mm256_permute2x128_si256(_mm256_shuffle_epi8(turned, backward), turned, 1));
  }
}

// Where the reverse strand's L-mers lie for groups of `step` positions that start at a multiple of
// it.
struct Reach {
  int reverse_start;  // byte of the reverse strand that goes with position 0 of a group of `step`
  int rest;           // bases between that byte's first and the group's last L-mer

  Reach(const Packed& packed, int length, int step) {
    const int start = packed.bytes * 4 - length - (step - 1);
    rest = start & 3;
    reverse_start = (start - rest) / 4;
  }
};

// Mixed L-mers of any length, eight at a time: folds, and on request the product's upper halves.
template <bool kCanonical, bool kLong>
struct LongMers {
  const uint8_t *forward, *reverse;
  __m256i forward_shift, reverse_shift, forward_low, reverse_low, bases, mixer;

  LongMers(int length, uint32_t lo, uint32_t hi, Packed& packed) {
    const Reach reach(packed, length, 4);
    forward = packed.forward();
    reverse = packed.reverse() + reach.reverse_start;
    const auto shift = [&](int base) { return (kLong ? 72 : 64) - 2 * length - 2 * base; };
    const auto low = [&](int base) { return 2 * base + 2 * length - 56; };
    const int last = reach.rest + 3;
    forward_shift = _mm256_setr_epi64x(shift(0), shift(1), shift(2), shift(3));
    reverse_shift =
        _mm256_setr_epi64x(shift(last), shift(last - 1), shift(last - 2), shift(last - 3));
    forward_low = _mm256_setr_epi64x(low(0), low(1), low(2), low(3));
    reverse_low = _mm256_setr_epi64x(low(last), low(last - 1), low(last - 2), low(last - 3));
    bases = _mm256_set1_epi64x(static_cast<long long>(top_bases(static_cast<uint32_t>(length))));
    mixer = _mm256_set1_epi64x(static_cast<long long>(uint64_t{hi} << 32 | lo));
  }
  // Left-aligned, with other bases below; one load holds four mers of up to 29 bases.
  static __m256i aligned(const uint8_t* at, __m256i shift, __m256i low) {
    if constexpr (!kLong) return _mm256_sllv_epi64(broadcast_8_bytes(at), shift);
    return _mm256_or_si256(_mm256_sllv_epi64(broadcast_8_bytes(at + 1), shift),
                           _mm256_srlv_epi64(broadcast_8_bytes(at - 1), low));
  }
  __m256i four(int i) const {
    __m256i mer = aligned(forward + i / 4, forward_shift, forward_low);
    if constexpr (kCanonical) {
      const __m256i other = aligned(reverse - i / 4, reverse_shift, reverse_low);
      mer = _mm256_blendv_epi8(mer, other, _mm256_cmpgt_epi64(mer, other));
    }
    const __m256i terms = _mm256_add_epi32(_mm256_and_si256(mer, bases), mixer);
    return _mm256_mul_epu32(terms, _mm256_srli_epi64(terms, 32));
  }
  __m256i operator()(int i, __m256i* high = nullptr) const {
    const __m256 a = _mm256_castsi256_ps(four(i)), b = _mm256_castsi256_ps(four(i + 4));
    const __m256i low_halves = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    const __m256i high_halves = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD));
    if (high != nullptr) *high = _mm256_permute4x64_epi64(high_halves, 0xD8);
    return _mm256_permute4x64_epi64(_mm256_xor_si256(low_halves, high_halves), 0xD8);
  }
};

inline void store_places(__m256i mixed, uint32_t* out) {
  store(out, _mm256_and_si256(mixed, _mm256_set1_epi8(63)));
}

// `places` of eight mers for all groups.
inline void store_all_places(const Layout& layout, __m256i fold, __m256i high, int i,
                             uint32_t (*place)[kBases + kSlack]) {
  store_places(fold, place[0] + i);
  const __m256i step = _mm256_or_si256(high, _mm256_set1_epi32(1));
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(layout.place_mul));
  for (uint32_t group = 1; group < layout.groups(); ++group) {
    fold = _mm256_add_epi32(fold, step);
    const __m256i mixed = _mm256_mullo_epi32(fold, factor);
    store_places(_mm256_xor_si256(mixed, _mm256_srli_epi32(mixed, 15)), place[group] + i);
  }
}

}  // namespace tidemill::cusbf
#endif
