// The scan with AVX2: every stage is a loop over eight positions that leaves its result in the L1.
#ifdef __AVX2__
#include <algorithm>
#include <bit>
#include <cstring>

#include "lanes.hpp"
#include "scan.hpp"

namespace tidemill::cusbf {

namespace {

// Ranks of short m-mers, eight at a time; kWhole: of 16 bases, which leave no bits to clear.
template <bool kCanonical, bool kWhole>
struct ShortRanks {
  const uint8_t *forward, *reverse;
  __m256i forward_a, forward_b, reverse_a, reverse_b, bases, factor;

  ShortRanks(const Layout& layout, Packed& packed) {
    const int m = static_cast<int>(layout.m);
    const Reach reach(packed, m, 8);
    forward = packed.forward();
    reverse = packed.reverse() + reach.reverse_start;
    const auto shift = [&](int base) { return 64 - 2 * m - 2 * base; };
    forward_a = _mm256_setr_epi64x(shift(0), shift(1), shift(4), shift(5));
    forward_b = _mm256_setr_epi64x(shift(2), shift(3), shift(6), shift(7));
    const int last = reach.rest + 7;
    reverse_a = _mm256_setr_epi64x(shift(last), shift(last - 1), shift(last - 4), shift(last - 5));
    reverse_b =
        _mm256_setr_epi64x(shift(last - 2), shift(last - 3), shift(last - 6), shift(last - 7));
    bases = _mm256_set1_epi32(static_cast<int>(top_bases(layout.m) >> 32));
    factor = _mm256_set1_epi32(static_cast<int>(layout.mmer_mul));
  }
  static __m256i upper_halves(__m256i word, __m256i shift_a, __m256i shift_b) {
    const __m256 a = _mm256_castsi256_ps(_mm256_sllv_epi64(word, shift_a));
    const __m256 b = _mm256_castsi256_ps(_mm256_sllv_epi64(word, shift_b));
    return _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD));
  }
  __m256i operator()(int i) const {
    __m256i mer = upper_halves(broadcast_8_bytes(forward + i / 4), forward_a, forward_b);
    if constexpr (kCanonical)
      mer = _mm256_min_epu32(
          mer, upper_halves(broadcast_8_bytes(reverse - i / 4), reverse_a, reverse_b));
    return _mm256_mullo_epi32(kWhole ? mer : _mm256_and_si256(mer, bases), factor);
  }
};

// Elements n, n+1, … of the sixteen in (first, second).
template <int kShift>
inline __m256i slide(__m256i first, __m256i second) {
  if constexpr (kShift == 8) return second;
  const __m256i middle = _mm256_permute2x128_si256(first, second, 0x21);
  if constexpr (kShift == 4) return middle;
  return _mm256_alignr_epi8(middle, first, kShift * 4);
}

// Highest of each window of 2^kLevels ranks, by doubling; all levels stay in registers.
template <int kLevels, class Ranks>
void sliding_highest(const Ranks& ranks, int count, uint32_t* out) {
  constexpr int kDelay = kLevels == 0 ? 0 : kLevels;
  __m256i last[5] = {};
  for (int i = -8 * kDelay; i < count; i += 8) {
    __m256i now = ranks(i + 8 * kDelay);
    const auto level = [&]<int kShift>(int n) {
      const __m256i before = last[n];
      last[n] = now;
      now = _mm256_max_epu32(before, slide<kShift>(before, now));
    };
    if constexpr (kLevels >= 1) level.template operator()<1>(0);
    if constexpr (kLevels >= 2) level.template operator()<2>(1);
    if constexpr (kLevels >= 3) level.template operator()<4>(2);
    if constexpr (kLevels >= 4) level.template operator()<8>(3);
    if (i >= 0) store(out + i, now);
  }
}

template <class Ranks>
void minimizers(const Layout& layout, const Ranks& ranks, Chunk& chunk) {
  const int window = static_cast<int>(layout.window());
  const int levels = std::min(4, static_cast<int>(std::bit_width(layout.window())) - 1);
  const int power = 1 << levels;
  alignas(64) uint32_t partial[kBases + kSlack];
  uint32_t* out = window == power ? chunk.minimizer : partial;
  const int count = chunk.kmers + window - power;
  switch (levels) {
    case 0:
      sliding_highest<0>(ranks, count, out);
      break;
    case 1:
      sliding_highest<1>(ranks, count, out);
      break;
    case 2:
      sliding_highest<2>(ranks, count, out);
      break;
    case 3:
      sliding_highest<3>(ranks, count, out);
      break;
    default:
      sliding_highest<4>(ranks, count, out);
  }
  if (window == power) return;
  for (int i = 0; i < chunk.kmers; i += 8)
    store(chunk.minimizer + i,
          _mm256_max_epu32(load(partial + i), load(partial + i + window - power)));
}

// For every byte the positions of its set bits, lowest first.
struct BitPositions {
  alignas(64) uint8_t of[256][8];

  constexpr BitPositions() : of() {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0, n = 0; bit < 8; ++bit)
        if (byte >> bit & 1) of[byte][n++] = static_cast<uint8_t>(bit);
  }
};
constexpr BitPositions kBitPositions;

// Positions and ranks where a bit is set, packed to the front. Returns how many.
int gather(const uint8_t* marks, int kmers, const uint32_t* rank, uint16_t* position,
           uint32_t* ranks) {
  int count = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kmers; i += 8) {
    const uint8_t mark = marks[i / 8];
    const __m128i chosen =
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kBitPositions.of[mark]));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(position + count),
        _mm_add_epi16(_mm_cvtepu8_epi16(chosen), _mm_set1_epi16(static_cast<short>(i))));
    if (ranks != nullptr)
      store(ranks + count,
            _mm256_permutevar8x32_epi32(load(rank + i), _mm256_cvtepu8_epi32(chosen)));
    count += std::popcount(mark);
  }
  return count;
}

// shard_of, eight at a time.
inline __m256i shards_of(const Layout& layout, __m256i rank) {
  const __m256i shards = _mm256_set1_epi64x(layout.shards);
  const __m256i mixed = _mm256_mullo_epi32(_mm256_xor_si256(rank, _mm256_srli_epi32(rank, 15)),
                                           _mm256_set1_epi32(static_cast<int>(layout.shard_mul)));
  const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(mixed, shards), 32);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), shards);
  return _mm256_blend_epi32(even, odd, 0xAA);
}

// Bit i of `edges`: k-mer i has another minimizer than the one before it.
void find_edges(const Chunk& chunk, uint64_t* edges) {
  auto* bytes = reinterpret_cast<uint8_t*>(edges);
  edges[(chunk.kmers - 1) / 64] = 0;
#pragma GCC unroll 4
  for (int i = 0; i < chunk.kmers; i += 8) {
    const __m256i before = load(chunk.minimizer + i - 1);
    const __m256i same = _mm256_cmpeq_epi32(load(chunk.minimizer + i), before);
    bytes[i / 8] = static_cast<uint8_t>(~_mm256_movemask_ps(_mm256_castsi256_ps(same)));
  }
  bytes[0] |= 1;
  if (chunk.kmers % 64 != 0) edges[chunk.kmers / 64] &= (uint64_t{1} << (chunk.kmers % 64)) - 1;
}

void find_runs(const Layout& layout, Chunk& chunk) {
  alignas(64) uint64_t begins[kChunk / 64 + 1], ends[kChunk / 64 + 1];
  const auto bytes = [](uint64_t* words) { return reinterpret_cast<const uint8_t*>(words); };
  const int kmers = chunk.kmers;
  find_edges(chunk, begins);
  if (!chunk.all_valid()) {
    // Letters that are no bases end runs too; where nothing is valid there are none.
    uint64_t before = 0;
    for (int i = 0; i * 64 < kmers; ++i) {
      const uint64_t valid = chunk.valid[i], earlier = valid << 1 | before;
      const uint64_t edges = begins[i] | (valid ^ earlier);
      before = valid >> 63;
      begins[i] = edges & valid;
      ends[i] = edges & earlier;
    }
  }
  alignas(64) uint32_t ranks[kChunk + kSlack];
  chunk.runs = gather(bytes(begins), kmers, chunk.minimizer, chunk.start, ranks);
  for (int run = 0; run < chunk.runs; run += 8)
    store(chunk.shard + run, shards_of(layout, load(ranks + run)));
  chunk.start[chunk.runs] = static_cast<uint16_t>(kmers);
  if (chunk.all_valid()) {
    std::memcpy(chunk.end, chunk.start + 1, sizeof(uint16_t) * static_cast<size_t>(chunk.runs));
  } else if (gather(bytes(ends), kmers, chunk.minimizer, chunk.end, nullptr) < chunk.runs) {
    chunk.end[chunk.runs - 1] = static_cast<uint16_t>(kmers);
  }
}

template <bool kCanonical, bool kLong>
void place_smers(const Layout& layout, Packed& packed, const uint64_t* words, Chunk& chunk) {
  const LongMers<kCanonical, kLong> mers(static_cast<int>(layout.s), layout.smer_lo, layout.smer_hi,
                                         packed);
  const int count = chunk.kmers + static_cast<int>(layout.smers()) - 1;
  // Shards are asked for one at a time between the hashes: memory answers as fast as we compute.
  int run = 0;
  const int asked = words == nullptr ? 0 : chunk.runs;
  const auto ask = [&] {
    if (run < asked) prefetch(words, chunk.shard[run++]);
  };
  for (int i = 0; i < count; i += 8) {
    if (layout.groups() == 1) {
      store_places(mers(i), chunk.place[0] + i);
    } else {
      __m256i high;
      const __m256i fold = mers(i, &high);
      store_all_places(layout, fold, high, i, chunk.place);
    }
    ask();
  }
  while (run < asked) ask();
}

template <bool kCanonical>
void scan_strands(const Layout& layout, const uint64_t* words, const uint8_t* bases, Chunk& chunk) {
  Packed& packed = chunk.packed;
  chunk.valid_kmers = pack_chunk(layout, bases, chunk.kmers, packed, chunk.valid);
  if constexpr (kCanonical) reverse_complement(packed);
  const auto long_ranks = [&]<bool kLong>() {
    return LongMers<kCanonical, kLong>(static_cast<int>(layout.m), layout.mmer_lo, layout.mmer_hi,
                                       packed);
  };
  if (layout.m == kShortMer)
    minimizers(layout, ShortRanks<kCanonical, true>(layout, packed), chunk);
  else if (layout.m < kShortMer)
    minimizers(layout, ShortRanks<kCanonical, false>(layout, packed), chunk);
  else if (layout.m <= 29)
    minimizers(layout, long_ranks.template operator()<false>(), chunk);
  else
    minimizers(layout, long_ranks.template operator()<true>(), chunk);
  find_runs(layout, chunk);
  if (layout.s <= 29)
    place_smers<kCanonical, false>(layout, packed, words, chunk);
  else
    place_smers<kCanonical, true>(layout, packed, words, chunk);
}

}  // namespace

void scan(const Layout& layout, const uint64_t* words, const uint8_t* bases, int kmers,
          Chunk& chunk) {
  chunk.kmers = kmers;
  if (layout.canonical)
    scan_strands<true>(layout, words, bases, chunk);
  else
    scan_strands<false>(layout, words, bases, chunk);
}

}  // namespace tidemill::cusbf

#endif
