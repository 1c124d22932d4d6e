// The runs of a scanned chunk: the bits of each folded into one mask, or its k-mers answered.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "bits.hpp"
#include "scan.hpp"

namespace tidemill::cusbf {

// stretch[i] = the bits of s-mers i … i+kSpan-1, pairs first, as minima are found by doubling.
template <int kSpan>
void fold_stretches(const uint32_t* place, int count, bool first_group, Bits* stretch) {
  constexpr int kStep = 8, kOverlap = kSpan - 1;
  Bits bits[kStep + kOverlap];
  for (int j = 0; j < kOverlap; ++j) bits[j] = bits_of(place + j);
  for (int i = 0; i < count; i += kStep) {
    for (int j = kOverlap; j < kStep + kOverlap; ++j) bits[j] = bits_of(place + i + j);
    Bits pairs[kStep + 2];
    if constexpr (kSpan > 1)
      for (int j = 0; j < kStep + kSpan - 2; ++j) pairs[j] = bits[j] | bits[j + 1];
    for (int j = 0; j < kStep; ++j) {
      Bits all = bits[j];
      if constexpr (kSpan == 2) all = pairs[j];
      if constexpr (kSpan == 3) all = pairs[j] | bits[j + 2];
      if constexpr (kSpan == 4) all = pairs[j] | pairs[j + 2];
      stretch[i + j] = first_group ? all : stretch[i + j] | all;
    }
    for (int j = 0; j < kOverlap; ++j) bits[j] = bits[kStep + j];
  }
}

// Which stretches cover a run beside its first and last: looked up, as a run's length cannot be
// predicted.
template <int kSpan, int kLoads>
struct Cover {
  int32_t at[kSpan * kLoads][kLoads - 1];

  constexpr Cover() : at() {
    for (int last = 0; last < kSpan * kLoads; ++last)
      for (int i = 0; i < kLoads - 1; ++i) at[last][i] = std::min(kSpan * (i + 1), last);
  }
};
template <int kSpan, int kLoads>
constexpr Cover<kSpan, kLoads> kCover{};

template <int kSpan, int kLoads, class Visit>
void fold_spans(const Layout& layout, const Chunk& chunk, Visit& visit) {
  constexpr int kBatch = 64;  // runs; their stretches then stay in the L1 cache
  alignas(64) Bits stretch[kBases + kSlack];
  const int extra = static_cast<int>(layout.smers()) - kSpan;
  for (int next = 0; next < chunk.runs;) {
    int run = next;
    next = std::min(chunk.runs, run + kBatch);
    const int first = chunk.start[run], count = chunk.end[next - 1] - first + extra;
    for (uint32_t group = 0; group < layout.groups(); ++group)
      fold_stretches<kSpan>(chunk.place[group] + first, count, group == 0, stretch);
    for (; run < next; ++run) {
      const Bits* at = stretch + (chunk.start[run] - first);
      int last = chunk.end[run] - chunk.start[run] - 1 + extra;
      Bits bits = at[0];
      while (last >= kSpan * kLoads) [[unlikely]] {
        bits = bits | at[last];
        last -= kSpan;
      }
      const int32_t* cover = kCover<kSpan, kLoads>.at[last];
      for (int i = 0; i < kLoads - 1; ++i) bits = bits | at[cover[i]];
      bits = bits | at[last];
      visit(chunk.shard[run], bits);
    }
  }
}

// Calls visit(shard, bits) for every run with the bits of all its s-mers.
template <class Visit>
void fold_runs(const Layout& layout, const Chunk& chunk, Visit visit) {
  const uint32_t longest =
      layout.window() + layout.smers() - 4;  // usual runs, in stretches of four
  switch (layout.smers()) {
    case 1:
      return fold_spans<1, 16>(layout, chunk, visit);
    case 2:
      return fold_spans<2, 8>(layout, chunk, visit);
    case 3:
      return fold_spans<3, 6>(layout, chunk, visit);
    default:
      if (longest <= 16) return fold_spans<4, 4>(layout, chunk, visit);
      return fold_spans<4, 8>(layout, chunk, visit);
  }
}

inline uint64_t low_bits(uint64_t bits, int count) {
  return count >= 64 ? bits : bits & ((uint64_t{1} << count) - 1);
}

// Bit i stays if bits i … i+length-1 are set.
inline uint64_t streaks(uint64_t bits, int length) {
  int width = 1;
  for (; 2 * width <= length; width *= 2) bits &= bits >> width;
  return width == length ? bits : bits & bits >> (length - width);
}

#ifdef __AVX2__

// Each s-mer's places as the byte of its sector pair (0-15) and the bit in that byte.
struct Tests {
  alignas(64) uint32_t byte_of[kMaxGroups][kBases + kSlack];
  alignas(64) uint32_t bit_of[kMaxGroups][kBases + kSlack];

  void fill(const Layout& layout, const Chunk& chunk) {
    const __m256i bit = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i seven = _mm256_set1_epi8(7), odd_sectors = _mm256_set1_epi32(0x08000800);
    const int count = chunk.kmers + static_cast<int>(layout.smers()) - 1;
    for (uint32_t group = 0; group < layout.groups(); ++group)
      for (int i = 0; i < count; i += 8) {
        const __m256i place = load(chunk.place[group] + i);
        const __m256i byte = _mm256_and_si256(_mm256_srli_epi32(place, 3), seven);
        store(byte_of[group] + i, _mm256_or_si256(byte, odd_sectors));
        store(bit_of[group] + i, _mm256_shuffle_epi8(bit, _mm256_and_si256(place, seven)));
      }
  }
  // Of s-mers i … i+7, which have all their bits in the shard of sector pairs (low, high).
  uint64_t eight(uint32_t groups, int i, __m256i low, __m256i high) const {
    __m256i all = _mm256_set1_epi32(-1);
    for (uint32_t group = 0; group < groups; ++group) {
      const __m256i byte = load(byte_of[group] + i), bit = load(bit_of[group] + i);
      const __m256i content =
          _mm256_blend_epi16(_mm256_shuffle_epi8(low, byte), _mm256_shuffle_epi8(high, byte), 0xAA);
      all = _mm256_and_si256(all, _mm256_cmpeq_epi32(_mm256_and_si256(content, bit), bit));
    }
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(all)));
  }
};

// One byte, 0 or 1, for each of the low 32 bits.
inline void write_bytes(uint64_t bits, uint8_t* out) {
  const __m256i source =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), source);
  const __m256i own_bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  store(out, _mm256_min_epu8(_mm256_and_si256(spread, own_bit), _mm256_set1_epi8(1)));
}

// kSmers, kGroups: 0 when not known before. Writes up to 32 bytes past a run; later runs repair it.
template <int kSmers, int kGroups, int kBlocks>
uint64_t answer_blocks(const Layout& layout, const Chunk& chunk, const Tests& tests,
                       const uint64_t* words, uint8_t* found) {
  const int smers = kSmers != 0 ? kSmers : static_cast<int>(layout.smers());
  const uint32_t groups = kGroups != 0 ? kGroups : layout.groups();
  const int cap = std::min(32, 8 * kBlocks - smers + 1);
  uint64_t hits = 0;
  for (int run = 0; run < chunk.runs; ++run) {
    const auto* shard = reinterpret_cast<const __m128i*>(shard_at(words, chunk.shard[run]));
    const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128(shard));
    const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128(shard + 1));
    int at = chunk.start[run];
    const int end = chunk.end[run];
    do {
      uint64_t bits = 0;
      for (int block = 0; block < kBlocks; ++block)
        bits |= tests.eight(groups, at + 8 * block, low, high) << (8 * block);
      bits = _bzhi_u64(streaks(bits, smers), static_cast<uint32_t>(std::min(end - at, cap)));
      write_bytes(bits, found + at);
      hits += static_cast<uint64_t>(std::popcount(bits));
      at += cap;
    } while (at < end);
  }
  return hits;
}

// Writes 1 for every k-mer of a run that is there and 0 for its others; returns the hits.
inline uint64_t answer_runs(const Layout& layout, const Chunk& chunk, Tests& tests,
                            const uint64_t* words, uint8_t* found) {
  tests.fill(layout, chunk);
  const uint32_t longest = layout.window() + layout.smers() - 1;
  if (layout.smers() == 4 && layout.groups() == 1 && longest <= 24)
    return answer_blocks<4, 1, 3>(layout, chunk, tests, words, found);
  if (longest <= 24) return answer_blocks<0, 0, 3>(layout, chunk, tests, words, found);
  if (longest <= 32) return answer_blocks<0, 0, 4>(layout, chunk, tests, words, found);
  return answer_blocks<0, 0, 8>(layout, chunk, tests, words, found);
}

#else

struct Tests {};

inline uint64_t answer_runs(const Layout& layout, const Chunk& chunk, Tests&, const uint64_t* words,
                            uint8_t* found) {
  const int smers = static_cast<int>(layout.smers());
  uint64_t hits = 0;
  for (int run = 0; run < chunk.runs; ++run) {
    const uint64_t* shard = shard_at(words, chunk.shard[run]);
    int streak = 0;
    for (int i = chunk.start[run]; i < chunk.end[run] + smers - 1; ++i) {
      ++streak;
      for (uint32_t group = 0; group < layout.groups(); ++group)
        for (int j = 0; j < kWords; ++j)
          if ((shard[j] & sector_bit(chunk.place[group][i], j)) == 0) streak = 0;
      if (const int kmer = i + 1 - smers; kmer >= chunk.start[run]) {
        found[kmer] = streak >= smers;
        hits += found[kmer];
      }
    }
  }
  return hits;
}

#endif

}  // namespace tidemill::cusbf
