// A chunk of a sequence, hashed k-mer by k-mer for the blocked Bloom filter.
#pragma once

#include <cstdint>

#include "scan.hpp"

namespace tidemill::cusbf {

struct KmerChunk {
  int kmers;
  int valid_kmers;
  alignas(64) uint32_t block[kChunk + kSlack];
  alignas(64) uint32_t place[kMaxGroups][kBases + kSlack];  // 255 four times: not valid, no bits
  alignas(64) uint64_t valid[kChunk / 64 + 1];
  Packed packed;
};

// Hashes `kmers` (<= kChunk) windows that begin at `bases`; reads kmers + k - 1 letters.
void hash_kmers(const Layout& layout, const uint8_t* bases, int kmers, KmerChunk& chunk);

}  // namespace tidemill::cusbf
