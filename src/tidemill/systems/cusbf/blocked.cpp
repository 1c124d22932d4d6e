#include <algorithm>

#include "superbloom.hpp"

namespace tidemill::cusbf {

namespace {

Mixed mix_kmer(const Layout& layout, uint64_t mer) {
  return mix(mer, layout.smer_lo, layout.smer_hi);
}

uint64_t left_aligned(const Layout& layout, uint64_t packed) {
  Strands strands;
  for (uint32_t i = 0; i < layout.k; ++i) strands.push(packed >> (2 * i) & 3);
  return strands.mer(layout.k, layout.canonical);
}

void set_kmer(const Layout& layout, Mixed mixed, uint64_t* words, bool shared) {
  uint64_t mask[kWords] = {};
  for (uint32_t group = 0; group < layout.groups(); ++group)
    for (int j = 0; j < kWords; ++j) mask[j] |= sector_bit(places(layout, mixed, group), j);
  uint64_t* block = words + shard_of(layout, mixed.high) * kWords;
  for (int j = 0; j < kWords; ++j) set_bits(block + j, mask[j], shared);
}

bool has_kmer(const Layout& layout, Mixed mixed, const uint64_t* words) {
  const uint64_t* block = words + shard_of(layout, mixed.high) * kWords;
  for (uint32_t group = 0; group < layout.groups(); ++group)
    for (int j = 0; j < kWords; ++j)
      if ((block[j] & sector_bit(places(layout, mixed, group), j)) == 0) return false;
  return true;
}

template <class Visit>
void each_kmer(const Layout& layout, const uint8_t* bases, size_t kmers, Visit visit) {
  Strands strands;
  uint32_t good = 0;
  for (size_t i = 0; kmers != 0 && i < kmers + layout.k - 1; ++i) {
    strands.push(base_code(bases[i]));
    good = is_base(bases[i]) ? good + 1 : 0;
    if (i + 1 >= layout.k)
      visit(i + 1 - layout.k, good >= layout.k,
            mix_kmer(layout, strands.mer(layout.k, layout.canonical)));
  }
}

}  // namespace

Tally blocked_insert(const Layout& layout, uint64_t* words, const uint8_t* bases, size_t kmers,
                     bool shared) {
  Tally tally;
  each_kmer(layout, bases, kmers, [&](size_t, bool valid, Mixed mixed) {
    if (!valid) return;
    set_kmer(layout, mixed, words, shared);
    ++tally.kmers;
  });
  tally.loads = tally.kmers;
  return tally;
}

Tally blocked_contains(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                       size_t kmers, uint8_t* found) {
  Tally tally;
  each_kmer(layout, bases, kmers, [&](size_t i, bool valid, Mixed mixed) {
    found[i] = valid && has_kmer(layout, mixed, words);
    tally.kmers += valid;
    tally.hits += found[i];
  });
  tally.loads = tally.kmers;
  return tally;
}

Tally blocked_insert_packed(const Layout& layout, uint64_t* words, const uint64_t* mers,
                            size_t kmers) {
  for (size_t i = 0; i < kmers; ++i)
    set_kmer(layout, mix_kmer(layout, left_aligned(layout, mers[i])), words, false);
  return {kmers, 0, kmers};
}

Tally blocked_contains_packed(const Layout& layout, const uint64_t* words, const uint64_t* mers,
                              size_t kmers, uint8_t* found) {
  Tally tally{kmers, 0, kmers};
  for (size_t i = 0; i < kmers; ++i) {
    found[i] = has_kmer(layout, mix_kmer(layout, left_aligned(layout, mers[i])), words);
    tally.hits += found[i];
  }
  return tally;
}

}  // namespace tidemill::cusbf
