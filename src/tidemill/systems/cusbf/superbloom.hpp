// The Super Bloom filter over a buffer of words: whole sequences, packed k-mers, one k-mer at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hash.hpp"

namespace tidemill::cusbf {

struct Tally {
  uint64_t kmers = 0;  // valid windows
  uint64_t hits = 0;   // of these, found (queries only)
  uint64_t loads = 0;  // shards or blocks visited

  Tally& operator+=(const Tally& other) {
    kmers += other.kmers;
    hits += other.hits;
    loads += other.loads;
    return *this;
  }
};

// `shared`: other processes may insert at the same time, so words change by atomic OR only.
Tally super_insert(const Layout& layout, uint64_t* words, const uint8_t* bases, size_t kmers,
                   unsigned threads, bool shared);
Tally super_contains(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                     size_t kmers, uint8_t* found, unsigned threads);

Tally super_insert_scalar(const Layout& layout, uint64_t* words, const uint8_t* bases,
                          size_t kmers);
Tally super_contains_scalar(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                            size_t kmers, uint8_t* found);

Tally super_insert_packed(const Layout& layout, uint64_t* words, const uint64_t* mers, size_t kmers,
                          bool shared);
Tally super_contains_packed(const Layout& layout, const uint64_t* words, const uint64_t* mers,
                            size_t kmers, uint8_t* found);

// The blocked Bloom filter: `layout` with s = k; one block of 256 bits for every k-mer.
Tally blocked_insert(const Layout& layout, uint64_t* words, const uint8_t* bases, size_t kmers,
                     unsigned threads, bool shared);
Tally blocked_contains(const Layout& layout, const uint64_t* words, const uint8_t* bases,
                       size_t kmers, uint8_t* found, unsigned threads);
Tally blocked_insert_packed(const Layout& layout, uint64_t* words, const uint64_t* mers,
                            size_t kmers, bool shared);
Tally blocked_contains_packed(const Layout& layout, const uint64_t* words, const uint64_t* mers,
                              size_t kmers, uint8_t* found);

}  // namespace tidemill::cusbf
