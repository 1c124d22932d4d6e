// A chunk of a sequence, scanned: the minimizer of every k-mer, the places of every s-mer, the
// runs.
#pragma once

#include <cstdint>

#include "hash.hpp"

namespace tidemill::cusbf {

constexpr int kChunk = 512;  // k-mers; all of a chunk's arrays stay in the caches next to a core
constexpr int kSlack = 192;  // vector stages write whole registers past the end
constexpr int kBases = kChunk + 31;

// The 2-bit bases of a chunk on both strands, with room to load past either end.
struct Packed {
  static constexpr int kBytes = (kBases + 127) / 128 * 32;
  alignas(64) uint8_t forward_room[64 + kBytes + 64];
  alignas(64) uint8_t reverse_room[64 + kBytes + 64];
  alignas(64) uint64_t letters_valid[kBytes / 16 + 1];
  int bytes;

  uint8_t* forward() { return forward_room + 64; }
  uint8_t* reverse() { return reverse_room + 64; }
};

struct Chunk {
  int kmers;
  int runs;  // stretches of valid k-mers with one minimizer
  int valid_kmers;
  alignas(64) uint32_t before_minimizer[16];
  uint32_t minimizer[kChunk + kSlack];                      // its rank, for every k-mer
  alignas(64) uint32_t place[kMaxGroups][kBases + kSlack];  // of every s-mer, see `places`
  alignas(64) uint64_t valid[kChunk / 64 + 1];              // bit i: k-mer i holds bases only
  alignas(64) uint16_t start[kChunk + kSlack];
  alignas(64) uint16_t end[kChunk + kSlack];
  alignas(64) uint32_t shard[kChunk + kSlack];
  Packed packed;

  bool all_valid() const { return valid_kmers == kmers; }
};

// Scans `kmers` (<= kChunk) windows that begin at `bases`; reads kmers + k - 1 letters. Unless
// `words` is null, asks for the runs' shards, so that they have come when the runs are visited.
void scan(const Layout& layout, const uint64_t* words, const uint8_t* bases, int kmers,
          Chunk& chunk);

}  // namespace tidemill::cusbf
