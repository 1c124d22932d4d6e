#include "kmers.hpp"

#include <algorithm>

#include "lanes.hpp"

namespace tidemill::cusbf {

namespace {

constexpr uint32_t kNoPlaces = ~0u;

#ifdef __AVX2__

// shard_of, eight at a time.
__m256i blocks_of(const Layout& layout, __m256i high) {
  const __m256i shards = _mm256_set1_epi64x(layout.shards);
  const __m256i mixed = _mm256_mullo_epi32(_mm256_xor_si256(high, _mm256_srli_epi32(high, 15)),
                                           _mm256_set1_epi32(static_cast<int>(layout.shard_mul)));
  const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(mixed, shards), 32);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), shards);
  return _mm256_blend_epi32(even, odd, 0xAA);
}

template <bool kCanonical, bool kLong>
void hash_lanes(const Layout& layout, KmerChunk& chunk) {
  const LongMers<kCanonical, kLong> mers(static_cast<int>(layout.k), layout.smer_lo, layout.smer_hi,
                                         chunk.packed);
  for (int i = 0; i < chunk.kmers; i += 8) {
    __m256i high;
    const __m256i fold = mers(i, &high);
    store(chunk.block + i, blocks_of(layout, high));
    store_all_places(layout, fold, high, i, chunk.place);
  }
}

void hash_letters(const Layout& layout, const uint8_t* bases, KmerChunk& chunk) {
  chunk.valid_kmers = pack_chunk(layout, bases, chunk.kmers, chunk.packed, chunk.valid);
  if (layout.canonical) {
    reverse_complement(chunk.packed);
    layout.k <= 29 ? hash_lanes<true, false>(layout, chunk) : hash_lanes<true, true>(layout, chunk);
  } else {
    layout.k <= 29 ? hash_lanes<false, false>(layout, chunk)
                   : hash_lanes<false, true>(layout, chunk);
  }
}

#else

void hash_letters(const Layout& layout, const uint8_t* bases, KmerChunk& chunk) {
  Strands strands;
  uint32_t good = 0;
  std::fill(chunk.valid, chunk.valid + kChunk / 64 + 1, 0);
  chunk.valid_kmers = 0;
  const int k = static_cast<int>(layout.k);
  for (int i = 1 - k; i < chunk.kmers; ++i) {
    const uint8_t letter = bases[i + k - 1];
    strands.push(base_code(letter));
    good = is_base(letter) ? good + 1 : 0;
    if (i < 0) continue;
    const Mixed mixed =
        mix(strands.mer(layout.k, layout.canonical), layout.smer_lo, layout.smer_hi);
    chunk.block[i] = shard_of(layout, mixed.high);
    for (uint32_t group = 0; group < layout.groups(); ++group)
      chunk.place[group][i] = places(layout, mixed, group);
    chunk.valid[i / 64] |= uint64_t{good >= layout.k} << (i % 64);
    chunk.valid_kmers += good >= layout.k;
  }
}

#endif

}  // namespace

void hash_kmers(const Layout& layout, const uint8_t* bases, int kmers, KmerChunk& chunk) {
  chunk.kmers = kmers;
  hash_letters(layout, bases, chunk);
  if (chunk.valid_kmers == kmers) return;
  for (int i = 0; i < kmers; ++i)
    if ((chunk.valid[i / 64] >> (i % 64) & 1) == 0)
      for (uint32_t group = 0; group < layout.groups(); ++group) chunk.place[group][i] = kNoPlaces;
}

}  // namespace tidemill::cusbf
