#include "superbloom.hpp"

#include <algorithm>
#include <memory>

#include "scan.hpp"

namespace tidemill::cusbf {

namespace {

struct Mask {
  uint64_t word[kWords] = {};

  void add(uint32_t byte_of, uint32_t bit_of) {
    for (int j = 0; j < kWords; ++j)
      word[j] |= uint64_t{bit_of >> (8 * j) & 255} << (8 * (byte_of >> (8 * j) & 7));
  }
};

void insert_run(const Layout& layout, const Chunk& chunk, int run, uint64_t* words, bool shared) {
  Mask mask;
  const int first = chunk.start[run];
  const int last = first + chunk.length[run] + static_cast<int>(layout.smers()) - 1;
  for (uint32_t group = 0; group < layout.groups(); ++group)
    for (int i = first; i < last; ++i) mask.add(chunk.byte_of[group][i], chunk.bit_of[group][i]);
  uint64_t* shard = words + chunk.shard[run] * kWords;
  for (int j = 0; j < kWords; ++j) set_bits(shard + j, mask.word[j], shared);
}

bool has_smer(const Layout& layout, const Chunk& chunk, int i, const uint64_t* shard) {
  for (uint32_t group = 0; group < layout.groups(); ++group) {
    Mask mask;
    mask.add(chunk.byte_of[group][i], chunk.bit_of[group][i]);
    for (int j = 0; j < kWords; ++j)
      if ((shard[j] & mask.word[j]) == 0) return false;
  }
  return true;
}

uint64_t query_run(const Layout& layout, const Chunk& chunk, int run, const uint64_t* words,
                   uint8_t* found) {
  const uint64_t* shard = words + chunk.shard[run] * kWords;
  const int first = chunk.start[run], smers = static_cast<int>(layout.smers());
  uint64_t hits = 0;
  int streak = 0;
  for (int i = first; i < first + chunk.length[run] + smers - 1; ++i) {
    streak = has_smer(layout, chunk, i, shard) ? streak + 1 : 0;
    if (const int kmer = i + 1 - smers; kmer >= first) {
      found[kmer] = streak >= smers;
      hits += streak >= smers;
    }
  }
  return hits;
}

}  // namespace

Tally super_insert(const Layout& layout, uint64_t* words, const uint8_t* bases, size_t kmers,
                   bool shared) {
  const auto chunk = std::make_unique<Chunk>();
  Tally tally;
  for (size_t at = 0; at < kmers; at += kChunk) {
    scan(layout, bases + at, static_cast<int>(std::min<size_t>(kChunk, kmers - at)), *chunk);
    for (int run = 0; run < chunk->runs; ++run) insert_run(layout, *chunk, run, words, shared);
    tally.kmers += chunk->valid_kmers;
    tally.loads += chunk->runs;
  }
  return tally;
}

Tally super_contains(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                     size_t kmers, uint8_t* found) {
  const auto chunk = std::make_unique<Chunk>();
  Tally tally;
  for (size_t at = 0; at < kmers; at += kChunk) {
    scan(layout, bases + at, static_cast<int>(std::min<size_t>(kChunk, kmers - at)), *chunk);
    if (!chunk->all_valid) std::fill_n(found + at, chunk->kmers, 0);
    for (int run = 0; run < chunk->runs; ++run)
      tally.hits += query_run(layout, *chunk, run, words, found + at);
    tally.kmers += chunk->valid_kmers;
    tally.loads += chunk->runs;
  }
  return tally;
}

}  // namespace tidemill::cusbf
