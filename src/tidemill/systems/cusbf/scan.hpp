// A chunk of a sequence, scanned: the minimizer of every k-mer, the places of every s-mer, the runs.
#pragma once

#include <cstdint>

#include "hash.hpp"

namespace tidemill::cusbf {

constexpr int kChunk = 1024;              // k-mers; all of a chunk's arrays stay in the L1 cache
constexpr int kSlack = 64;                // vector stages write whole registers past the end
constexpr int kBases = kChunk + 31;

struct Chunk {
  int kmers;
  int runs;                               // stretches of valid k-mers with one minimizer
  int valid_kmers;
  bool all_valid;
  alignas(64) uint32_t minimizer[kChunk + kSlack];
  alignas(64) uint32_t byte_of[kMaxGroups][kBases + kSlack];  // four bytes, one per sector: 0-7
  alignas(64) uint32_t bit_of[kMaxGroups][kBases + kSlack];   // four bytes, one bit set in each
  alignas(64) uint64_t valid[kChunk / 64 + 1];                // bit i: k-mer i holds bases only
  uint16_t start[kChunk + kSlack], length[kChunk + kSlack];
  uint64_t shard[kChunk + kSlack];
};

// Scans `kmers` (<= kChunk) windows that begin at `bases`; reads kmers + k - 1 letters.
void scan(const Layout& layout, const uint8_t* bases, int kmers, Chunk& chunk);

}  // namespace tidemill::cusbf
